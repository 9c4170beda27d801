package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// freeMemory returns how many bytes more this process and its children can use
// before the kernel has to take memory from somebody, and of how many in all:
// what the machine has, or the tightest of the control groups above.
func freeMemory() (free, total int64, err error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("read how much memory is free: %w", err)
	}
	free, okFree := number(string(text), "MemAvailable:")
	total, okTotal := number(string(text), "MemTotal:")
	if !okFree || !okTotal {
		return 0, 0, fmt.Errorf("/proc/meminfo does not say how much memory is free")
	}
	free, total = free<<10, total<<10
	for _, dir := range memoryGroups() {
		limit, used, ok := groupMemory(dir)
		if ok && limit < total {
			free, total = min(free, max(0, limit-used)), limit
		} else if ok {
			free = min(free, max(0, limit-used))
		}
	}
	return free, total, nil
}

// memoryGroups returns the directories of the control groups that account for
// this process's memory, from its own upwards.
func memoryGroups() []string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 || part[1] != "" && part[1] != "memory" {
			continue
		}
		root := "/sys/fs/cgroup"
		if part[1] == "memory" {
			root = "/sys/fs/cgroup/memory"
		}
		for path := part[2]; ; path = filepath.Dir(path) {
			dirs = append(dirs, filepath.Join(root, path))
			if path == "/" || path == "." {
				break
			}
		}
	}
	return dirs
}

// groupMemory returns the limit of a control group and what is used of it,
// without what the kernel only keeps because there is room.
func groupMemory(dir string) (limit, used int64, ok bool) {
	for _, name := range []struct{ limit, used, spare string }{
		{"memory.max", "memory.current", "inactive_file"},
		{"memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"},
	} {
		limit, err := readNumber(filepath.Join(dir, name.limit))
		if err != nil {
			continue // no such group, or no limit
		}
		used, err := readNumber(filepath.Join(dir, name.used))
		if err != nil {
			continue
		}
		if stat, err := os.ReadFile(filepath.Join(dir, "memory.stat")); err == nil {
			spare, _ := number(string(stat), name.spare)
			used -= spare
		}
		return limit, used, true
	}
	return 0, 0, false
}

func readNumber(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// number returns the number that follows key at the beginning of a line.
func number(text, key string) (int64, bool) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == key {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// memoryPressure returns for how many of the last ten seconds, in percent, some
// process waited for memory; 0 where the kernel does not say.
func memoryPressure() float64 {
	text, err := os.ReadFile("/proc/pressure/memory")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "some avg10=")
	value, _, _ := strings.Cut(rest, " ")
	percent, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return 0
	}
	return percent
}
