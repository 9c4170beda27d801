package invoke

import "golang.org/x/sys/unix"

// quiet reports whether nothing has happened on an idle connection. The end of
// the stream, an error, and bytes that nobody asked for all make it useless.
// It costs one system call, which does not block.
func (c *conn) quiet() bool {
	if c.raw == nil {
		return true // not a socket; writing will tell
	}
	c.isQuiet = false
	return c.raw.Control(c.look) == nil && c.isQuiet
}

// lookAt sets isQuiet from the state of the socket.
func (c *conn) lookAt(fd uintptr) {
	fds := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds[:], 0)
	c.isQuiet = n == 0 && err == nil
}
