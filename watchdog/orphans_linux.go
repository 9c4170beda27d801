package watchdog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"
	"unsafe"
)

const buryEvery = time.Second // between looks for orphans that have ended

// adoptOrphans makes this process the parent of its descendants whose own
// parent ends, instead of the system's first process.
func adoptOrphans() error {
	const setSubreaper = 36 // PR_SET_CHILD_SUBREAPER
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, setSubreaper, 1, 0); errno != 0 {
		return fmt.Errorf("adopt orphans: %w", errno)
	}
	return nil
}

// buryOrphans reaps adopted children that have ended, until ctx ends. They are
// told from this process's own by the time that they have been dead: who starts
// a process waits for it and reaps it at once.
func buryOrphans(ctx context.Context) {
	tick := time.NewTicker(buryEvery)
	defer tick.Stop()
	var before []process
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !anyDead() {
			before = nil
			continue
		}
		var dead []process
		for _, q := range readProcesses() {
			switch {
			case q.parent != os.Getpid() || !q.zombie:
			case slices.ContainsFunc(before, func(known process) bool { return known.pid == q.pid && known.born == q.born }):
				reap(q.pid)
			default:
				dead = append(dead, q)
			}
		}
		before = dead
	}
}

func reap(pid int) {
	for {
		if _, err := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.EINTR) {
			return
		}
	}
}

// anyDead reports whether this process has a child that has ended and has not
// been reaped.
func anyDead() bool {
	const (
		anyChild = 0          // P_ALL
		exited   = 0x4        // WEXITED
		noReap   = 0x01000000 // WNOWAIT
		infoLen  = 128        // siginfo_t, which begins with the signal's number: 0 if there is none
	)
	var info [infoLen / 4]int32
	_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, anyChild, 0,
		uintptr(unsafe.Pointer(&info)), exited|noReap|syscall.WNOHANG, 0, 0)
	return errno == 0 && info[0] != 0
}
