package proc

import (
	"syscall"
	"unsafe"
)

// awaitExit blocks until the process has ended and leaves it as a zombie, so
// that its id, and its group's, cannot be given to anyone else yet. It returns
// false if the kernel refuses.
func awaitExit(pid int) bool {
	const (
		byPID   = 1          // P_PID
		exited  = 0x4        // WEXITED
		noReap  = 0x01000000 // WNOWAIT
		infoLen = 128        // siginfo_t
	)
	var info [infoLen / 8]uint64
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, byPID, uintptr(pid),
			uintptr(unsafe.Pointer(&info)), exited|noReap, 0, 0)
		if errno != syscall.EINTR {
			return errno == 0
		}
	}
}

func setDeathSignal(a *syscall.SysProcAttr, sig syscall.Signal) { a.Pdeathsig = sig }
