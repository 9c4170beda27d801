package web

import (
	"context"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// acceptWaiting returns when all who have connected to ln are accepted by
// whoever does that, or ctx ends, or new ones have come for too long. Of a
// listener that is no socket it knows nothing.
func acceptWaiting(ctx context.Context, ln net.Listener) {
	socket, ok := ln.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, firstRequest)
	defer cancel()
	for ctx.Err() == nil {
		waiting := false
		err := raw.Control(func(fd uintptr) {
			fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(fds[:], 0)
			waiting = n > 0 && err == nil
		})
		if err != nil || !waiting {
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
}
