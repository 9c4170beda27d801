package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A frost is a tree of processes that are stopped. Signals work for every user
// and on every machine, unlike the kernel's freezer of control groups, of which
// most replicas are no members.
type frost struct{ stopped []*stoppedProcess }

// A stoppedProcess is one of them. Its handle stays its own when its id is used again.
type stoppedProcess struct {
	pid    int
	handle *os.Process
}

const canFreeze = true

const (
	// freezeRounds bounds the looks at a tree that goes on changing.
	freezeRounds = 200
	freezePause  = 200 * time.Microsecond
)

// freeze stops the process called root and all that descend from it. Either all
// of them are stopped when it returns, or there is an error and all go on.
func freeze(root int) (*frost, error) {
	var f frost
	for range freezeRounds {
		settled, err := f.stop(root)
		if err != nil {
			f.thaw()
			return nil, fmt.Errorf("freeze process %d: %w", root, err)
		}
		if settled {
			return &f, nil
		}
		<-time.After(freezePause)
	}
	f.thaw()
	return nil, fmt.Errorf("freeze process %d: its processes do not all stop", root)
}

// stop stops what is not stopped yet and reports whether there was nothing of
// that kind. Parents come before their children, so that none is missed.
func (f *frost) stop(root int) (settled bool, err error) {
	settled = true
	tree := []int{root}
	for i := 0; i < len(tree); i++ {
		pid := tree[i]
		state, parent, err := stateOf(pid)
		if err != nil || state == 'Z' {
			if pid == root {
				return false, os.ErrProcessDone
			}
			continue
		}
		if state != 'T' && state != 't' {
			settled = false
		}
		if !f.has(pid) {
			settled = false
			handle, err := os.FindProcess(pid)
			if err != nil {
				return false, err
			}
			// The id may have passed to another process before there was a handle.
			if _, now, err := stateOf(pid); err != nil || now != parent {
				_ = handle.Release()
				continue
			}
			f.stopped = append(f.stopped, &stoppedProcess{pid, handle})
			if err := handle.Signal(syscall.SIGSTOP); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return false, err
			}
		}
		children, err := childrenOf(pid)
		if err != nil {
			return false, err
		}
		tree = append(tree, children...)
	}
	return settled, nil
}

func (f *frost) has(pid int) bool {
	return slices.ContainsFunc(f.stopped, func(h *stoppedProcess) bool { return h.pid == pid })
}

// thaw has the processes go on. It may be called once, or of nil.
func (f *frost) thaw() {
	if f == nil {
		return
	}
	for _, h := range slices.Backward(f.stopped) {
		_ = h.handle.Signal(syscall.SIGCONT) // one that has ended needs none
		_ = h.handle.Release()
	}
}

// isStopped reports whether somebody has stopped a process.
func isStopped(pid int) bool {
	state, _, err := stateOf(pid)
	return err == nil && (state == 'T' || state == 't')
}

// stateOf returns the state of a process, as a letter, and its parent.
func stateOf(pid int) (state byte, parent int, err error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 2 {
		return 0, 0, fmt.Errorf("state of process %d cannot be read", pid)
	}
	parent, err = strconv.Atoi(fields[1])
	return fields[0][0], parent, err
}

// childrenOf returns the children of a process, of all its threads.
func childrenOf(pid int) ([]int, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/children", pid))
	if err != nil {
		return nil, err // unreachable: the pattern is good
	}
	if len(files) == 0 { // a kernel without such files, or the process has ended
		return slowChildrenOf(pid)
	}
	var children []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			children = append(children, child)
		}
	}
	return children, nil
}

func slowChildrenOf(pid int) ([]int, error) {
	table, err := processes()
	if err != nil {
		return nil, err
	}
	var children []int
	for child, p := range table {
		if p.parent == pid {
			children = append(children, child)
		}
	}
	return children, nil
}
