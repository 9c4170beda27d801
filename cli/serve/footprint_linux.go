package serve

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// trim tells the kernel that this process does not need the pages of the
// program's file that it has read so far. Starting touches nearly all of the
// program, and an idle platform a small part of it, which comes back from the
// page cache when it is touched again. What has been written is left alone.
func trim() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer maps.Close()
	unwritten, err := unwritten(maps, program)
	if err != nil {
		return fmt.Errorf("read /proc/self/smaps: %w", err)
	}
	for _, m := range unwritten {
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back pages of the program: %w", errno)
		}
	}
	return nil
}

// A mapping is where a part of a file is in memory.
type mapping struct{ from, to uintptr }

// unwritten returns the mappings of a file, of those that smaps lists, that hold
// what is in the file and nothing else. That a mapping cannot be written does
// not say so: the dynamic linker writes addresses into some and then closes
// them, and what it wrote would be lost.
func unwritten(smaps io.Reader, file string) ([]mapping, error) {
	var found []mapping
	var last *mapping // nil if the lines are of a mapping that is out of the question
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) > 1 && !strings.HasSuffix(fields[0], ":"):
			last = nil
			if len(fields) < 6 || fields[5] != file || strings.Contains(fields[1], "w") {
				continue
			}
			var m mapping
			if _, err := fmt.Sscanf(fields[0], "%x-%x", &m.from, &m.to); err != nil {
				return nil, err
			}
			last = &m
		case last != nil && len(fields) > 1 && fields[0] == "Anonymous:" && fields[1] == "0":
			found = append(found, *last)
		}
	}
	return found, lines.Err()
}
