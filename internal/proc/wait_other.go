//go:build unix && !linux

package proc

import "syscall"

// awaitExit returns false: there is no portable way to wait and not reap.
func awaitExit(int) bool { return false }

func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}
