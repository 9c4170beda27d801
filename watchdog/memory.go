package watchdog

import (
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
	groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0
	}
	var least int64
	for line := range strings.Lines(string(groups)) {
		// As in 0::/a/b, or for the first version of control groups 4:memory:/a/b.
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) < 3 || fields[1] != "" && fields[1] != "memory" {
			continue
		}
		base, file := filepath.Join(root, "sys/fs/cgroup"), "memory.max"
		if fields[1] != "" {
			base, file = filepath.Join(base, "memory"), "memory.limit_in_bytes"
		}
		for group := filepath.Clean("/" + fields[2]); ; group = filepath.Dir(group) {
			if text, err := os.ReadFile(filepath.Join(base, group, file)); err == nil {
				n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
				if err == nil && (least == 0 || n < least) { // it is a word where there is no limit
					least = n
				}
			}
			if group == "/" {
				break
			}
		}
	}
	return least
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
