package watchdog

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/graphene-faas/graphene/internal/proc"
)

const (
	loadProgress = 5 * time.Second        // between log lines about a load that takes long
	probeTime    = 30 * time.Second       // for the proof that a loaded function can be forked
	lastWords    = 300 * time.Millisecond // for a process to say where it hangs, before it is killed
)

// A zygote is the process that has loaded the function and forks the workers.
// The pool's loop owns it; fork and kill may be called from anywhere.
type zygote struct {
	child  *proc.Child
	frames chan frame // from the control socket, in order; closed at its end

	mu      sync.Mutex // for writing
	control *net.UnixConn
}

// loaded is what a zygote says when it is done loading.
type loaded struct {
	Shared  bool    `json:"shared"`  // workers can be forked from what it has loaded
	Seconds float64 `json:"seconds"` // that it took
	Problem string  `json:"problem"` // why not shared after all
}

// loadError is a function that cannot be loaded. Its text is the function's.
type loadError string

func (e loadError) Error() string { return string(e) }

// startZygote starts the process. reading counts the goroutine that fills frames.
func startZygote(o *Options, reading *sync.WaitGroup) (*zygote, error) {
	control, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	child, err := proc.Start(proc.Command{
		Args:    o.Process,
		Env:     zygoteEnvironment(o),
		Files:   []*os.File{theirs},
		Stdout:  lineWriter(o.Stdout, "stdout", o.PrefixLogs),
		Stderr:  lineWriter(o.Stderr, "stderr", o.PrefixLogs),
		MaxLine: o.LogBuffer,
		// While it loads it cannot hear that we are gone. Later the signal, like
		// the end of the socket, makes it end its workers and then itself.
		OnParentDeath: syscall.SIGTERM,
	})
	if err != nil {
		control.Close()
		return nil, err
	}
	z := &zygote{child: child, control: control, frames: make(chan frame)}
	reading.Go(func() {
		defer close(z.frames)
		r := bufio.NewReader(control)
		for {
			f, err := readFrame(r)
			if err != nil {
				return
			}
			z.frames <- f
		}
	})
	return z, nil
}

// zygoteEnvironment is the function's, with numeric libraries told to use as
// many threads as a worker is meant to, unless the function says otherwise.
func zygoteEnvironment(o *Options) []string {
	env := append(slices.Clone(o.Environ), "pool_fd=3")
	for _, name := range []string{"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"} {
		said := slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, name+"=") })
		if !said {
			env = append(env, name+"="+strconv.Itoa(o.Workers.Threads))
		}
	}
	return env
}

// load greets the process, tells it what to load, and waits until it has.
// explain says more of how it ended, should it end.
func (z *zygote) load(ctx context.Context, o *Options, shared bool, explain func(string) string) (loaded, error) {
	timeout := time.NewTimer(o.Workers.LoadTimeout)
	defer timeout.Stop()
	progress := time.NewTicker(loadProgress)
	defer progress.Stop()
	begun := time.Now()
	for {
		select {
		case f, ok := <-z.frames:
			if !ok {
				return loaded{}, fmt.Errorf("%s ended while the function was loading: %s", o.Process[0], explain(exitText(z.child.Wait())))
			}
			switch f.kind {
			case frameHello:
				if err := z.greet(f.payload, o, shared); err != nil {
					return loaded{}, err
				}
			case frameLoaded:
				var l loaded
				if err := json.Unmarshal(f.payload, &l); err != nil {
					return loaded{}, fmt.Errorf("the pool's process reports a load: %w", err)
				}
				return l, nil
			case frameFailed:
				return loaded{}, parseFailure(f.payload)
			}
		case <-progress.C:
			o.Log.Info("loading the function", "seconds", int(time.Since(begun).Seconds()), "load_timeout", o.Workers.LoadTimeout)
		case <-timeout.C:
			_ = z.child.Signal(syscall.SIGUSR1) // it prints where it is
			wait(ctx, lastWords)
			return loaded{}, loadError(fmt.Sprintf("loading took longer than load_timeout, which is %v", o.Workers.LoadTimeout))
		case <-ctx.Done():
			return loaded{}, context.Cause(ctx)
		}
	}
}

// greet answers HELLO.
func (z *zygote) greet(hello []byte, o *Options, shared bool) error {
	var h struct {
		Protocols []int  `json:"protocols"`
		Python    string `json:"python"`
	}
	if err := json.Unmarshal(hello, &h); err != nil {
		return fmt.Errorf("the pool's process says hello: %w", err)
	}
	if !slices.Contains(h.Protocols, poolProtocol) {
		remedy := "the image is older than this watchdog: build it again"
		if len(h.Protocols) > 0 && slices.Min(h.Protocols) > poolProtocol {
			remedy = "the image is newer than this watchdog: bring the platform up to date, or build the image with its version of graphene"
		}
		return fmt.Errorf("the image's graphene_function speaks versions %v of the pool's protocol and not %d, as this watchdog does; %s", h.Protocols, poolProtocol, remedy)
	}
	settings, err := json.Marshal(map[string]any{
		"protocol":       poolProtocol,
		"shared":         shared,
		"handler_dir":    o.Workers.HandlerDir,
		"handler_style":  o.Workers.Style,
		"worker_threads": o.Workers.Concurrent,
		"log_call_id":    o.LogCallID,
		"probe_seconds":  probeTime.Seconds(),
	})
	if err != nil {
		return fmt.Errorf("start the pool's process: %w", err)
	}
	return z.send(frameStart, 0, settings, nil)
}

// parseFailure makes an error of FAILED.
func parseFailure(payload []byte) error {
	var f struct {
		Error string `json:"error"`
	}
	if err := json.Unmarshal(payload, &f); err != nil || f.Error == "" {
		return errors.New("the function could not be loaded")
	}
	return loadError(f.Error)
}

// fork asks for a worker that serves the socket, and closes our copy of it.
func (z *zygote) fork(id uint32, socket *os.File) error {
	defer socket.Close()
	return z.send(frameFork, id, nil, syscall.UnixRights(int(socket.Fd())))
}

func (z *zygote) kill(id uint32) error { return z.send(frameKill, id, nil, nil) }

func (z *zygote) send(kind frameType, id uint32, payload, rights []byte) error {
	b := appendFrame(nil, kind, id, payload)
	z.mu.Lock()
	defer z.mu.Unlock()
	n, _, err := z.control.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = z.control.Write(b[n:])
	}
	if err != nil {
		return fmt.Errorf("tell the pool's process: %w", err)
	}
	return nil
}

// ended reports whether the process is gone.
func (z *zygote) ended() bool {
	select {
	case <-z.child.Done():
		return true
	default:
		return false
	}
}

// stop ends the process and, with it, those of its workers that are left.
func (z *zygote) stop() {
	z.control.Close()
	for range z.frames { // what it still had to say
	}
	_ = z.child.Stop(time.Second) // it was told to end; how it did no longer matters
}

// socketPair returns two connected sockets: ours, and one for a child.
func socketPair() (*net.UnixConn, *os.File, error) {
	// The lock keeps a child that is being started meanwhile from inheriting them.
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "pool"), os.NewFile(uintptr(fds[1]), "pool")
	defer ours.Close() // FileConn works on a copy
	conn, err := net.FileConn(ours)
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}
