package invoke

import (
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// boundUnacknowledged bounds how long a peer may leave what was sent to it
// unacknowledged.
func boundUnacknowledged(network, _ string, c syscall.RawConn) error {
	if !strings.HasPrefix(network, "tcp") {
		return nil
	}
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged/time.Millisecond))
	})
	if err != nil {
		return err
	}
	return failed
}
