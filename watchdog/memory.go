package watchdog

import (
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// heapFloor is the size of a piece of memory that keeps a small process from
// collecting garbage dozens of times a second under load: the collector begins
// when the heap has doubled, and takes this for a part of it. Nothing is
// written to it, so that it is no memory until then. Under load a process grows
// by as much more, and so it is a small part of limit, the bytes that the
// process may have; zero is no limit.
func heapFloor(limit int64) int64 {
	if limit == 0 {
		return mostFloor
	}
	return min(mostFloor, limit/8)
}

// memoryLimit is the least of the limits that the control groups of this
// process set on its memory, in bytes; zero if there are none. root is where
// the file system begins.
func memoryLimit(root string) int64 {
	return leastLimit(root, "memory", "memory.max", "memory.limit_in_bytes")
}

// processLimit is the same for how many processes and threads there may be.
func processLimit(root string) int64 { return leastLimit(root, "pids", "pids.max", "pids.max") }

func leastLimit(root, controller, file, legacy string) int64 {
	var least int64
	for text := range groupFiles(root, controller, file, legacy) {
		n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err == nil && (least == 0 || n < least) { // it is a word where there is no limit
			least = n
		}
	}
	return least
}

// memoryKills counts the processes of this process's control group that the
// kernel has killed for want of memory. known is false where it does not say.
func memoryKills(root string) (kills int64, known bool) {
	for text := range groupFiles(root, "memory", "memory.events", "memory.oom_control") {
		for line := range strings.Lines(text) {
			if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "oom_kill" {
				kills, err := strconv.ParseInt(fields[1], 10, 64)
				return kills, err == nil
			}
		}
	}
	return 0, false
}

// groupFiles yields what a file says in the control groups that this process is
// in, from its own to the root: file, or legacy in those of the first version,
// where each controller has groups of its own.
func groupFiles(root, controller, file, legacy string) iter.Seq[string] {
	return func(yield func(string) bool) {
		groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
		if err != nil {
			return
		}
		for line := range strings.Lines(string(groups)) {
			// As in 0::/a/b, or for the first version of control groups 4:memory:/a/b.
			fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(fields) < 3 || fields[1] != "" && fields[1] != controller {
				continue
			}
			base, name := filepath.Join(root, "sys/fs/cgroup"), file
			if fields[1] != "" {
				base, name = filepath.Join(base, controller), legacy
			}
			for group := filepath.Clean("/" + fields[2]); ; group = filepath.Dir(group) {
				if text, err := os.ReadFile(filepath.Join(base, group, name)); err == nil && !yield(string(text)) {
					return
				}
				if group == "/" {
					break
				}
			}
		}
	}
}

// noLimit is what the first version of control groups says where there is none.
const noLimit = 1 << 60

// A memoryWatch tells whether it was for memory that a process was killed.
type memoryWatch struct {
	root  string // of the file system
	kills int64  // seen so far
}

func newMemoryWatch(root string) *memoryWatch {
	m := &memoryWatch{root: root}
	m.kills, _ = memoryKills(root)
	return m
}

// explain adds to how a process has ended what can be known of a kill that was
// not ours. It is not safe for concurrent use.
func (m *memoryWatch) explain(status string) string {
	if !strings.EqualFold(status, "signal: killed") {
		return status
	}
	limit := ""
	if n := memoryLimit(m.root); n > 0 && n < noLimit {
		limit = fmt.Sprintf(": the container's limit is %d MiB", n>>20)
	}
	now, known := memoryKills(m.root)
	switch {
	case known && now > m.kills:
		m.kills = now
		return status + " by the kernel, for memory" + limit
	case limit != "":
		return status + ", perhaps for memory" + limit
	}
	return status
}

// residentBytes is the memory of a process that is in RAM, pages shared with
// its parent included. It is zero if the process is gone, and on systems
// without /proc.
func residentBytes(pid int) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(b))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
