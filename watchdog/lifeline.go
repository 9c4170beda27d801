package watchdog

import (
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// watchLifeline calls dead when descriptor fd ends, which happens when the
// process at its other end dies. It owns fd from now on. The returned stop
// ends the watch without a call.
func watchLifeline(fd int, background *sync.WaitGroup, dead func()) (stop func(), err error) {
	// It was inherited: keep it from children, or they would be part of it,
	// and let the runtime poll it, or a blocked read could not be ended.
	syscall.CloseOnExec(fd)
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("lifeline_fd=%d: %w", fd, err)
	}
	line := os.NewFile(uintptr(fd), "lifeline")
	stopped := make(chan struct{})
	background.Go(func() {
		_, _ = io.Copy(io.Discard, line) // a broken line means the same as an ended one
		select {
		case <-stopped:
		default:
			dead()
		}
	})
	return func() {
		close(stopped)
		line.Close()
	}, nil
}
