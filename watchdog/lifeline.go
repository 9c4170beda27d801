package watchdog

import (
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
)

// Commands that the platform sends over the lifeline, a byte each. Others are
// ignored.
const (
	commandRest  = 'r' // hold less: nobody is going to call for a while
	commandRouse = 'w' // somebody is about to call
)

// watchLifeline calls dead when descriptor fd ends, which happens when the
// process at its other end dies, and obey with each command that comes before.
// It owns fd from now on. The returned stop ends the watch without a call.
func watchLifeline(fd int, background *sync.WaitGroup, obey func(command byte), dead func()) (stop func(), err error) {
	// It was inherited: keep it from children, or they would be part of it,
	// and let the runtime poll it, or a blocked read could not be ended.
	syscall.CloseOnExec(fd)
	if err := syscall.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("lifeline_fd=%d: %w", fd, err)
	}
	line := os.NewFile(uintptr(fd), "lifeline")
	stopped := make(chan struct{})
	background.Go(func() {
		command := make([]byte, 1)
		for {
			if _, err := io.ReadFull(line, command); err != nil {
				break // a broken line means the same as an ended one
			}
			obey(command[0])
		}
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
