package local

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// clockTick is the unit of processor time in /proc, the same on all
// architectures that Go runs on.
const clockTick = 10 * time.Millisecond

// processes returns all processes, by id.
func processes() (map[int]processInfo, error) {
	pids, err := processIDs()
	if err != nil {
		return nil, err
	}
	table := make(map[int]processInfo, len(pids))
	for _, pid := range pids {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
		if err != nil {
			continue // it has ended
		}
		if p, ok := parseStat(stat); ok {
			table[pid] = p
		}
	}
	return table, nil
}

func processIDs() ([]int, error) {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// proportional returns the memory of a process in bytes, to which pages that
// several processes have count in part.
func proportional(pid int) (int64, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "Pss:"); ok {
			kilobytes, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return kilobytes << 10, err == nil
		}
	}
	return 0, false
}

// parseStat reads /proc/PID/stat, whose second field is a name in parentheses
// that may itself hold spaces and parentheses.
func parseStat(stat []byte) (processInfo, bool) {
	i := bytes.LastIndexByte(stat, ')')
	if i < 0 {
		return processInfo{}, false
	}
	field := strings.Fields(string(stat[i+1:])) // the first is the third of the file
	const parent, user, system, resident = 4 - 3, 14 - 3, 15 - 3, 24 - 3
	if len(field) <= resident {
		return processInfo{}, false
	}
	var numbers [4]int64
	for j, at := range []int{parent, user, system, resident} {
		n, err := strconv.ParseInt(field[at], 10, 64)
		if err != nil {
			return processInfo{}, false
		}
		numbers[j] = n
	}
	return processInfo{
		parent: int(numbers[0]),
		cpu:    time.Duration(numbers[1]+numbers[2]) * clockTick,
		memory: numbers[3] * int64(os.Getpagesize()),
	}, true
}

// killMarked kills every process whose environment holds a variable that
// begins with marker. A process may start others while it is looked at, so it
// looks until there are none.
func killMarked(marker string) {
	for range 100 { // a bound for what breeds faster than it can be killed
		found := false
		pids, err := processIDs()
		if err != nil {
			return
		}
		for _, pid := range pids {
			if pid != os.Getpid() && hasMarker(pid, marker) {
				found = syscall.Kill(pid, syscall.SIGKILL) == nil || found
			}
		}
		if !found {
			return
		}
	}
}

func hasMarker(pid int, marker string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false // it belongs to somebody else
	}
	return bytes.HasPrefix(env, []byte(marker)) || bytes.Contains(env, []byte("\x00"+marker))
}
