package watchdog

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit in which Linux tells programs about processor time,
// on every architecture.
const clockTick = 10 * time.Millisecond

// cpuTime is the processor time that this process and all below it have used,
// those that have ended and were waited for included. It reports false where
// the system does not tell which processes those are.
func cpuTime() (time.Duration, bool) {
	var ticks int64
	for next := []int{os.Getpid()}; len(next) > 0; {
		pid := next[0]
		next = next[1:]
		dir := "/proc/" + strconv.Itoa(pid)
		used, ok := usedTicks(dir)
		if !ok {
			continue // it has ended
		}
		ticks += used
		lists, _ := filepath.Glob(dir + "/task/[0-9]*/children") // the pattern is good
		if len(lists) == 0 && pid == os.Getpid() {
			return 0, false
		}
		for _, list := range lists {
			text, err := os.ReadFile(list)
			if err != nil {
				continue // the thread has ended, and its children are another's
			}
			for field := range strings.FieldsSeq(string(text)) {
				if child, err := strconv.Atoi(field); err == nil {
					next = append(next, child)
				}
			}
		}
	}
	return time.Duration(ticks) * clockTick, true
}

// usedTicks reads what the process with that directory, and its children that
// have ended, have used.
func usedTicks(dir string) (int64, bool) {
	text, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, false
	}
	// The name in parentheses may have anything in it. The four fields are the
	// fourteenth of the line and those after it.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	const first = 14 - 3
	if len(fields) < first+4 {
		return 0, false
	}
	var sum int64
	for _, field := range fields[first : first+4] {
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			return 0, false
		}
		sum += n
	}
	return sum, true
}
