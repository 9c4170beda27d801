package watchdog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/graphene-faas/graphene/internal/proc"
)

// outputGrace is how long the output of a process that has ended is read when
// a descendant of it, in a group of its own, still holds it open.
const outputGrace = time.Second

// How long the rest of a request is read after its answer: as long as it keeps
// coming, but not for ever.
const (
	lingerIdle = 20 * time.Millisecond
	lingerMost = 2 * time.Second
)

// fork is modes [Streaming], [Serializing] and [Classic]: a process for each
// call, with the request's body as its standard input and the answer on its
// standard output. A process that fails, in whatever way, is a call that
// fails, and no process outlives its call.
type fork struct {
	o      *Options
	stderr func(line []byte)

	mu       sync.Mutex
	running  map[*proc.Child]struct{}
	over     sync.WaitGroup // the running ones; added to under mu, and only until ended
	ended    bool
	started  int // for the metrics
	failures int
}

func newFork(o *Options) *fork {
	return &fork{o: o, stderr: lineWriter(o.Stderr, "stderr", o.PrefixLogs), running: map[*proc.Child]struct{}{}}
}

// run has nothing to start, but a program that is not there is found out now
// and not by the first caller.
func (f *fork) run(ctx context.Context, ready func()) error {
	if _, err := exec.LookPath(f.o.Process[0]); err != nil {
		return fmt.Errorf("fprocess: %w", err)
	}
	ready()
	<-ctx.Done()
	f.mu.Lock()
	f.ended = true
	for child := range f.running {
		_ = child.Signal(syscall.SIGKILL) // an error means that it has ended
	}
	f.mu.Unlock()
	f.over.Wait()
	return nil
}

func (f *fork) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := w.(*answer)
	switch f.o.Mode {
	case Streaming:
		f.stream(a, r)
	case Classic:
		f.classic(a, r)
	default:
		f.serialize(a, r)
	}
}

// stream gives the process the body as it comes, and the caller the output as
// it comes. When the process fails after it has printed something, all that
// can be done is to end the connection within the answer.
func (f *fork) stream(a *answer, r *http.Request) {
	first, last, err := readFirst(nil, r, false)
	if err != nil {
		a.bodyError(err)
		return
	}
	x := execution{env: cgiEnvironment(r), in: bytes.NewReader(first)}
	if !last {
		x.in = io.MultiReader(x.in, r.Body)
		x.interrupt = func() { _ = http.NewResponseController(a).SetReadDeadline(time.Unix(1, 0)) }
	}
	x.out = writerFunc(func(p []byte) (int, error) {
		a.closeAfter(!last && !x.fed.Load())
		if n, err := a.Write(p); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
			return n, err
		}
		return len(p), a.FlushError()
	})
	a.Header().Set("Content-Type", f.o.ContentType)
	defer x.finish()
	err = f.exec(r.Context(), &x)
	a.closeAfter(!last && !x.fed.Load())
	if err != nil {
		f.explain(a, r, err, "the function failed: "+exitText(err))
	}
	if !last {
		a.Flush()
	}
}

// serialize runs the process once the whole body is here, and answers once the
// process has ended well.
func (f *fork) serialize(a *answer, r *http.Request) {
	body, err := readWhole(r, f.o.MaxBuffer)
	if err != nil {
		a.bodyError(err)
		return
	}
	x := execution{env: cgiEnvironment(r), in: bytes.NewReader(body)}
	out := &bounded{limit: f.o.MaxBuffer}
	x.out = out
	err = f.exec(r.Context(), &x)
	x.finish()
	if err != nil {
		f.explain(a, r, err, "the function failed: "+exitText(err))
		return
	}
	a.Header().Set("Content-Type", f.o.ContentType)
	a.sendWhole(out.held.Bytes())
}

func (a *answer) sendWhole(body []byte) {
	a.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = a.Write(body) // a client that has left misses nothing, and HEAD has no body
}

// explain answers for a process that did not end well: in the function's name
// and with text if it was the function, or in the platform's.
func (f *fork) explain(a *answer, r *http.Request, err error, text string) {
	if r.Context().Err() != nil {
		return // the timeout has answered, or nobody waits any more
	}
	f.o.Log.Warn("call failed", "method", r.Method, "path", r.URL.Path, "call_id", r.Header.Get("X-Call-Id"), "err", err)
	answered := false
	switch e := err.(type) { //nolint:errorlint // each is made by exec and comes unwrapped
	case *startError:
		if errors.Is(err, syscall.E2BIG) {
			answered = a.fail(http.StatusRequestHeaderFieldsTooLarge, "the request's headers are more than a process can be given", true)
		} else {
			answered = a.fail(http.StatusServiceUnavailable, "the function's process could not be started", true)
		}
	case *inputError:
		answered = a.bodyError(e.err)
	default:
		answered = a.fail(http.StatusInternalServerError, text, false)
	}
	if !answered {
		panic(http.ErrAbortHandler) // the only way to say that the answer is not whole
	}
}

// An execution is what one process is given and what becomes of its output.
type execution struct {
	env       []string // beside the function's own, which wins
	in        io.Reader
	out       io.Writer // an error of it ends the process
	combine   bool      // out gets what is printed as errors, too
	interrupt func()    // makes a read of in return; nil if reads do not block

	feeding sync.WaitGroup
	read    atomic.Int64  // bytes of in
	stopped chan struct{} // closed when in is no longer read
	fed     atomic.Bool   // in has been read to its end
	broken  atomic.Pointer[inputError]
}

// A startError says that there was no process.
type startError struct{ err error }

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

// An inputError says that the input broke off, and that the process was killed
// because it could not know that.
type inputError struct{ err error }

func (e *inputError) Error() string { return "read the request: " + e.err.Error() }
func (e *inputError) Unwrap() error { return e.err }

// exec runs a process to its end, which comes when ctx ends at the latest. It
// returns nil if the process ended well and out has all that it printed, and
// else the first of what went wrong. in may still be read then, until
// [execution.finish].
func (f *fork) exec(ctx context.Context, x *execution) (err error) {
	stdin, stdout, child, err := f.start(x)
	if err != nil {
		return &startError{err}
	}
	defer f.forget(child, &err)
	defer stdout.Close()
	kill := func() { _ = child.Signal(syscall.SIGKILL) } // an error means that it has ended
	defer context.AfterFunc(ctx, kill)()

	x.stopped = make(chan struct{})
	x.feeding.Go(func() {
		defer close(x.stopped)
		x.feed(stdin, child, kill)
	})
	var watch sync.WaitGroup
	watch.Go(func() {
		<-child.Done()
		_ = stdout.SetReadDeadline(time.Now().Add(outputGrace))
	})
	_, outErr := io.Copy(x.out, &drained{stdout})
	if outErr != nil {
		kill()
	}
	exit := child.Wait()
	watch.Wait()
	stdin.Close() // ends a write that nobody reads

	switch broken := x.broken.Load(); {
	case exit != nil && broken != nil:
		return broken
	case outErr != nil:
		return outErr
	default:
		return exit
	}
}

// feed gives the process its input. What the process does not want is read,
// too: a caller who is still sending may not look for the answer.
func (x *execution) feed(stdin *os.File, child *proc.Child, kill func()) {
	in := &watched{r: x.in, n: &x.read}
	_, _ = io.Copy(stdin, in) // failing to write means that the process wants no more
	stdin.Close()
	if in.err == nil {
		_, _ = io.Copy(io.Discard, in)
	}
	if in.err == io.EOF { //nolint:errorlint // readers return it bare
		x.fed.Store(true)
		return
	}
	select {
	case <-child.Done():
	default:
		x.broken.Store(&inputError{in.err})
		kill()
	}
}

// finish follows the answer. A caller who goes on sending the request is
// listened to for a moment more; one who holds it open is not.
func (x *execution) finish() {
	if x.stopped == nil {
		return // it never started
	}
	defer x.feeding.Wait()
	if x.interrupt == nil {
		return
	}
	end := time.Now().Add(lingerMost)
	idle := time.NewTicker(lingerIdle)
	defer idle.Stop()
	for {
		before := x.read.Load()
		select {
		case <-x.stopped:
			if !x.fed.Load() {
				x.interrupt() // the server would wait for the rest
			}
			return
		case <-idle.C:
		}
		if x.read.Load() == before || time.Now().After(end) {
			x.interrupt()
			<-x.stopped
			x.interrupt() // for the server, since reading has lifted the deadline
			return
		}
	}
}

// start starts a process. The ends of its pipes are the caller's to close, and
// the process is to be forgotten when it has ended.
func (f *fork) start(x *execution) (stdin, stdout *os.File, child *proc.Child, err error) {
	childIn, stdin, err := os.Pipe()
	if err != nil {
		return nil, nil, nil, err
	}
	defer childIn.Close()
	stdout, childOut, err := os.Pipe()
	if err != nil {
		stdin.Close()
		return nil, nil, nil, err
	}
	defer childOut.Close()
	c := proc.Command{
		Args:          f.o.Process,
		Env:           append(x.env, f.o.Environ...),
		Stdin:         childIn,
		RawStdout:     childOut,
		Stderr:        f.stderr,
		MaxLine:       f.o.LogBuffer,
		OnParentDeath: syscall.SIGKILL,
	}
	if x.combine {
		c.RawStderr = childOut
	}

	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		err = errors.New("the function is ending")
	} else {
		child, err = proc.Start(c)
	}
	if err != nil {
		stdin.Close()
		stdout.Close()
		return nil, nil, nil, err
	}
	f.running[child] = struct{}{}
	f.started++
	f.over.Add(1)
	return stdin, stdout, child, nil
}

// forget counts a process as ended, with the outcome *err.
func (f *fork) forget(child *proc.Child, err *error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if *err != nil {
		f.failures++
	}
	delete(f.running, child)
	f.over.Done()
}

// watched remembers how reading ended, which io.Copy does not tell from
// writing.
type watched struct {
	r   io.Reader
	n   *atomic.Int64 // bytes read
	err error
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.n.Add(int64(n))
	w.err = err
	return n, err
}

// drained reads a pipe until nothing has come for a whole grace since its
// deadline was first set. The deadline alone would lose what a slow reader
// had left in the pipe.
type drained struct{ pipe *os.File }

func (d *drained) Read(p []byte) (int, error) {
	n, err := d.pipe.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		_ = d.pipe.SetReadDeadline(time.Now().Add(outputGrace))
		if n, err = d.pipe.Read(p); errors.Is(err, os.ErrDeadlineExceeded) {
			err = io.EOF
		}
	}
	return n, err
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// bounded holds what is written to it and refuses to hold more than limit. It
// does not embed its buffer, whose ReadFrom knows no limit.
type bounded struct {
	held  bytes.Buffer
	limit int64
}

func (b *bounded) Write(p []byte) (int, error) {
	if int64(b.held.Len()+len(p)) > b.limit {
		return 0, fmt.Errorf("its answer is longer than %d bytes, the most that is held (max_buffer)", b.limit)
	}
	return b.held.Write(p)
}

// readWhole reads a request's body of at most limit bytes.
func readWhole(r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength > limit {
		return nil, &http.MaxBytesError{Limit: limit}
	}
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	n, err := buf.ReadFrom(io.LimitReader(r.Body, limit+1))
	if err == nil && n > limit {
		err = &http.MaxBytesError{Limit: limit}
	}
	return buf.Bytes(), err
}

func (f *fork) note() string { return "" }

func (f *fork) writeMetrics(w io.Writer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	writeHelp(w, "fork_processes", "gauge", "Processes running now, one for each call.")
	fmt.Fprintf(w, "fork_processes %d\n", len(f.running))
	writeHelp(w, "fork_processes_started_total", "counter", "Processes started.")
	fmt.Fprintf(w, "fork_processes_started_total %d\n", f.started)
	writeHelp(w, "fork_processes_failed_total", "counter", "Processes that did not end well, or whose output did not reach the caller.")
	fmt.Fprintf(w, "fork_processes_failed_total %d\n", f.failures)
}
