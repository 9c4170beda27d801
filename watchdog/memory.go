package watchdog

import (
	"os"
	"strconv"
	"strings"
)

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
