package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc, the same on every Linux.
const tick = 10 * time.Millisecond

// A process is what /proc tells about one.
type process struct {
	pid, parent int
	used        time.Duration // processor time, user and system, of all its threads
}

func readProcess(pid int) (process, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, err
	}
	// The second field is a name in brackets and may hold anything.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	var numbers [3]int64
	for i, field := range [3]int{1, 11, 12} {
		if numbers[i], err = strconv.ParseInt(fields[field], 10, 64); err != nil {
			return process{}, fmt.Errorf("read the state of process %d: %w", pid, err)
		}
	}
	return process{pid: pid, parent: int(numbers[0]), used: time.Duration(numbers[1]+numbers[2]) * tick}, nil
}

// descendants returns the children of a process, and theirs.
func descendants(pid int) ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]process{}
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			if p, err := readProcess(id); err == nil { // else it has just ended
				children[p.parent] = append(children[p.parent], p)
			}
		}
	}
	found := children[pid]
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i].pid]...)
	}
	return found, nil
}

// treeTime returns the processor time of a process, and that of its
// descendants.
func treeTime(pid int) (own, below time.Duration, err error) {
	p, err := readProcess(pid)
	if err != nil {
		return 0, 0, err
	}
	all, err := descendants(pid)
	if err != nil {
		return 0, 0, err
	}
	for _, d := range all {
		below += d.used
	}
	return p.used, below, nil
}

var pssLine = regexp.MustCompile(`(?m)^Pss:\s+(\d+) kB`)

// proportional returns the bytes of memory of a process, of which those that
// it shares with n others count as one n-th.
func proportional(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	m := pssLine.FindSubmatch(text)
	if m == nil {
		return 0, fmt.Errorf("no Pss in smaps_rollup of process %d", pid)
	}
	kb, err := strconv.ParseInt(string(m[1]), 10, 64)
	return kb * 1024, err
}

// proportionalBelow is the sum over the descendants of a process.
func proportionalBelow(pid int) (sum int64, err error) {
	all, err := descendants(pid)
	if err != nil {
		return 0, err
	}
	for _, d := range all {
		bytes, err := proportional(d.pid)
		if err != nil {
			return 0, err
		}
		sum += bytes
	}
	return sum, nil
}
