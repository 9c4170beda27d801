//go:build unix

// Package proc runs child processes that leave nothing behind.
//
// Every child leads a process group of its own. A signal goes to the whole
// group, and when the leader ends, whatever is left of the group is killed
// before the leader is reaped, so that neither orphans nor a recycled process
// id can be hit by mistake. Output arrives line by line, with a bound on the
// length of a line, so a child that prints without end costs no memory.
//
// [Start] a [Command], receive from [Child.Done] or call [Child.Wait], and end
// it with [Child.Stop] (gentle first) or [Child.Kill]. Every Child must be
// waited for or stopped; its goroutines end when the process does.
package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// DefaultMaxLine is the longest line delivered whole when [Command.MaxLine] is
// zero, in bytes.
const DefaultMaxLine = 64 << 10

// outputGrace is how long a dead child's output is still read when a
// descendant that left the group keeps the pipe open.
const outputGrace = time.Second

// Command describes a process to start. The zero value of every field but Args
// is usable.
type Command struct {
	Args []string // program and its arguments; a program without a slash is looked up in this process's PATH
	Dir  string   // working directory; empty means this process's
	Env  []string // the whole environment; nil means this process's

	// Files become descriptors 3, 4, … of the child. The caller still owns
	// its copies and may close them once Start has returned.
	Files []*os.File

	// Stdout and Stderr receive the child's output, one line per call and
	// without the newline. Each is called from one goroutine, not at the same
	// time as itself but maybe at the same time as the other; the slice is
	// only valid during the call. A function that blocks makes the child block
	// when its pipe is full. Nil discards.
	Stdout, Stderr func(line []byte)

	// Stdin is the child's standard input; nil is an empty one. RawStdout and
	// RawStderr take the place of Stdout and Stderr where bytes count and not
	// lines; both may be the same file. As with Files, the caller owns its
	// copies, and reads the other end until the child has ended.
	Stdin, RawStdout, RawStderr *os.File

	// MaxLine bounds a line in bytes; a longer one is delivered in pieces.
	// Zero means [DefaultMaxLine].
	MaxLine int

	// OnParentDeath is sent to the child by the kernel when this process dies,
	// in whatever way; zero means nothing is sent. It works on Linux and is
	// ignored elsewhere. The kernel forgets it when the child changes its
	// credentials.
	OnParentDeath syscall.Signal

	// Attr adds attributes such as credentials or namespaces. Start copies it
	// and sets Setpgid, unless there is Setsid.
	Attr *syscall.SysProcAttr
}

// A Child is a running or ended process. Its methods are safe for concurrent use.
type Child struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how the process ended; valid once done is closed

	mu     sync.Mutex // held while signalling and while reaping, so that no signal reaches a recycled id
	reaped bool
}

// Start starts the process and returns at once. An error means that there is
// no process.
func Start(c Command) (*Child, error) {
	if len(c.Args) == 0 {
		return nil, errors.New("start process: no program named")
	}
	cmd := exec.Command(c.Args[0], c.Args[1:]...)
	cmd.Dir, cmd.Env, cmd.ExtraFiles = c.Dir, c.Env, c.Files
	cmd.SysProcAttr = attributes(c.Attr, c.OnParentDeath)

	if c.Stdin != nil {
		cmd.Stdin = c.Stdin
	}
	var pumps sync.WaitGroup
	var readers []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			f.Close() // pipes: nothing is buffered that a failed close could lose
		}
	}
	var writers []*os.File
	for _, s := range []struct {
		raw     *os.File
		deliver func([]byte)
		set     func(*os.File)
	}{
		{c.RawStdout, c.Stdout, func(f *os.File) { cmd.Stdout = f }},
		{c.RawStderr, c.Stderr, func(f *os.File) { cmd.Stderr = f }},
	} {
		if s.raw != nil {
			s.set(s.raw)
			continue
		}
		if s.deliver == nil {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(readers)
			closeAll(writers)
			return nil, fmt.Errorf("start %s: %w", c.Args[0], err)
		}
		s.set(w)
		readers, writers = append(readers, r), append(writers, w)
		pumps.Go(func() { Lines(r, c.MaxLine, s.deliver) })
	}

	err := cmd.Start()
	closeAll(writers)
	if err != nil {
		pumps.Wait()
		closeAll(readers)
		return nil, fmt.Errorf("start %s: %w", c.Args[0], err)
	}

	child := &Child{cmd: cmd, done: make(chan struct{})}
	go func() {
		err := child.reap()
		// The group is dead, so the pipes normally end now. A descendant that
		// moved to another group may hold them; it does not hold us.
		late := time.AfterFunc(outputGrace, func() { closeAll(readers) })
		pumps.Wait()
		late.Stop()
		closeAll(readers)
		child.err = err
		close(child.done)
	}()
	return child, nil
}

// PID is the process id, which is also the id of its group.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Done is closed when the process has ended, was reaped, and all its output
// has been delivered.
func (c *Child) Done() <-chan struct{} { return c.done }

// Wait waits for Done and says how the process ended: nil for exit status 0,
// an [*exec.ExitError] for any other status or a signal. It may be called any
// number of times.
func (c *Child) Wait() error {
	<-c.done
	return c.err
}

// Signal sends sig to the child's process group. It returns
// [os.ErrProcessDone] when the child has ended.
func (c *Child) Signal(sig syscall.Signal) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reaped {
		return os.ErrProcessDone
	}
	if err := syscall.Kill(-c.PID(), sig); err != nil {
		return fmt.Errorf("signal process group %d: %w", c.PID(), err)
	}
	return nil
}

// Kill sends SIGKILL to the group and waits for the end. It returns what
// [Child.Wait] returns.
func (c *Child) Kill() error {
	// An error means that the group is gone already, which is what was asked for.
	_ = c.Signal(syscall.SIGKILL)
	return c.Wait()
}

// Stop ends the child and waits for it: SIGTERM to the group, which somebody
// may have stopped and which therefore is continued, and SIGKILL when grace has
// passed. It may be called more than once, from any goroutine; each call
// returns what [Child.Wait] returns.
func (c *Child) Stop(grace time.Duration) error {
	_ = c.Signal(syscall.SIGTERM) // as in Kill
	_ = c.Signal(syscall.SIGCONT)
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.err
	case <-timer.C:
		return c.Kill()
	}
}

// reap waits until the leader has ended, kills the rest of its group while the
// leader's id is still taken by the zombie, and reaps it.
func (c *Child) reap() error {
	var err error
	zombie := awaitExit(c.PID())
	if !zombie {
		err = c.cmd.Wait()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reaped = true
	_ = syscall.Kill(-c.PID(), syscall.SIGKILL) // fails when nobody is left, which is usual
	if zombie {
		err = c.cmd.Wait()
	}
	return err
}

// attributes copies attr and adds what every child has.
func attributes(attr *syscall.SysProcAttr, onParentDeath syscall.Signal) *syscall.SysProcAttr {
	var a syscall.SysProcAttr
	if attr != nil {
		a = *attr
	}
	if !a.Setsid { // a session's leader leads a group already
		a.Setpgid = true
	}
	if onParentDeath != 0 {
		setDeathSignal(&a, onParentDeath)
	}
	return &a
}
