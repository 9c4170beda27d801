package watchdog

import (
	"fmt"
	"net"
	"syscall"
)

const peerCredentials = true

// peerUID is the user who connected, as the kernel recorded it then.
func peerUID(conn *net.UnixConn) (int, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("peer of connection: %w", err)
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err == nil {
		err = credErr
	}
	if err != nil {
		return -1, fmt.Errorf("peer of connection: %w", err)
	}
	return int(cred.Uid), nil
}
