//go:build !linux

package invoke

import "syscall"

// boundUnacknowledged does nothing where the system has no such bound.
func boundUnacknowledged(_, _ string, _ syscall.RawConn) error { return nil }
