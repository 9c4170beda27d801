// Package watchdog makes a function an HTTP server: it stands between the
// platform and the function's code, in the same container or on the same
// machine, and promises the platform the same behaviour whatever the function
// is made of.
//
// It answers /_/health and /_/ready, bounds how many calls run at once and how
// long one may take, writes the access log and metrics, says in X-OpenFaaS-Internal
// when an error is the platform's and not the function's, and on the way out
// lets calls finish before the function is told to end. There is one file per
// mode: a Go handler in this process, a child that speaks HTTP, a process for
// each call, a directory of files, and a pool of Python workers forked from one process that has loaded
// the function (docs/reference/pool-protocol.md).
//
// A Go function calls [Main]. Everything else builds [Options], most of them by
// [FromEnviron], and calls [New] and [Watchdog.Run]. The package links the
// standard library only, because a copy of it is in every function.
package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	idleTimeout   = 3 * time.Minute        // longer than any peer keeps an idle connection, so that it is the peer who closes
	headerTimeout = 30 * time.Second       // reading a request's headers
	failureLinger = time.Second            // how long calls are still answered after the function has ended
	acceptTime    = 20 * time.Millisecond  // how long those who have connected may wait in the backlog when the drain begins
	settleTime    = 200 * time.Millisecond // from the last call's end to the closing of connections
	lateAnswer    = 10 * time.Second       // from a call's deadline until a client that does not read what came of it is dropped
	childGrace    = 10 * time.Second       // from a child's SIGTERM to its SIGKILL

	mostFloor = 32 << 20 // bytes; see heapFloor
)

// errAbandoned is the cause of stopping when the platform has died: nobody is
// left to wait for.
var errAbandoned = errors.New("the platform that started this process has died")

// A mode answers the calls of one kind of function.
type mode interface {
	// ServeHTTP answers one call. It is called only after ready has been
	// closed. When the request's context ends, it returns soon.
	http.Handler

	// run starts what the mode needs and blocks until ctx ends, then stops it,
	// at once if the cause is errAbandoned. It calls ready, once, when calls
	// can be answered. An error means that the function ended by itself.
	run(ctx context.Context, ready func()) error

	// note says what a person should know about a ready function; often nothing.
	note() string

	// writeMetrics appends the mode's own metrics.
	writeMetrics(w io.Writer)
}

// A Watchdog serves one function. Make it with [New] and call [Watchdog.Run] once.
type Watchdog struct {
	o       Options
	log     *slog.Logger
	mode    mode
	calls   gate
	metrics *metrics
	access  accessLog
	tokens  *tokenCheck // nil: everybody may call

	deadlines deadlines

	draining atomic.Bool
	ready    chan struct{} // closed when the mode can answer
	failed   chan struct{} // closed when the mode ended by itself
	failure  error         // why; valid once failed is closed
}

// New checks the options and returns a watchdog that has not started anything.
func New(o Options) (*Watchdog, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Stdout == nil {
		o.Stdout = io.Discard
	}
	if o.Stderr == nil {
		o.Stderr = io.Discard
	}
	setDefault(&o.MaxHeaderBytes, 1<<20)
	setDefault(&o.MaxBuffer, defaultBuffer)
	o.Workers = o.Workers.withDefaults(runtime.GOMAXPROCS(0))

	wd := &Watchdog{
		o:       o,
		log:     o.Log,
		metrics: newMetrics(),
		ready:   make(chan struct{}),
		failed:  make(chan struct{}),
	}
	wd.calls.limit = o.MaxInflight
	wd.access.w = o.Stderr
	if o.FunctionTokens != nil {
		wd.tokens = newTokenCheck(*o.FunctionTokens)
	}
	wd.deadlines.budget = o.budget()
	var err error
	if wd.mode, err = newMode(&wd.o); err != nil {
		return nil, err
	}
	return wd, nil
}

func newMode(o *Options) (mode, error) {
	forks := o.Mode == Streaming || o.Mode == Serializing || o.Mode == Classic
	child := o.Mode == HTTP || o.Mode == Pool || forks
	switch {
	case child && len(o.Process) == 0:
		return nil, fmt.Errorf("mode %s needs fprocess, the program to run", o.Mode)
	case o.Mode == HTTP && o.Upstream == nil:
		return nil, errors.New("mode http needs upstream_url, where the program listens")
	case o.Mode == InProcess && o.Handler == nil:
		return nil, errors.New("mode inproc is for Go functions, which bring their handler")
	}
	switch o.Mode {
	case HTTP:
		return newProxy(o), nil
	case Static:
		return resident{http.FileServer(http.Dir(o.StaticPath))}, nil
	case InProcess:
		return resident{o.Handler}, nil
	case Pool:
		return newPool(o), nil
	}
	if forks {
		return newFork(o), nil
	}
	if o.Mode == "" {
		return nil, errors.New("fprocess, the program to run, is not set")
	}
	return nil, fmt.Errorf("mode=%s: want http, streaming, serializing, classic, static or pool", o.Mode)
}

// Run serves until ctx ends, then drains: it is no longer ready, lets running
// calls finish within their timeout, ends the function and returns nil. It
// returns an error when the function ended by itself, which includes a child
// that exits with status 0, or when it cannot listen.
func (wd *Watchdog) Run(ctx context.Context) error {
	listener, err := listen(&wd.o)
	if err != nil {
		return err
	}
	unlock := wd.lock()
	defer unlock()
	floor := make([]byte, heapFloor(memoryLimit("/")))
	defer runtime.KeepAlive(floor)
	defer wd.access.flush()

	var background sync.WaitGroup
	defer background.Wait()

	// The function outlives ctx by the time it takes to drain, so it has a
	// context of its own.
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)

	server := wd.server(listener.Addr().Network() == "unix")
	background.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) && !wd.draining.Load() {
			wd.log.Error("listener failed", "err", err)
			end(fmt.Errorf("accept connections: %w", err))
		}
	})
	defer server.Close()

	if wd.o.Metrics != "" {
		stop, err := wd.serveMetrics(&background)
		if err != nil {
			return err
		}
		defer stop()
	}
	if wd.o.LifelineFD != 0 {
		stop, err := watchLifeline(wd.o.LifelineFD, &background, wd.obey, func() { end(errAbandoned) })
		if err != nil {
			return err
		}
		defer stop()
	}

	if wd.o.Adopt {
		if err := adoptOrphans(); err != nil {
			wd.log.Debug("processes whose parent ends are not followed", "err", err)
		}
		background.Go(func() { buryOrphans(life) })
	}
	background.Go(func() {
		wd.failure = wd.mode.run(life, func() { close(wd.ready) })
		close(wd.failed)
	})

	select {
	case <-ctx.Done():
		wd.drain(life, server, listener)
		end(nil)
		<-wd.failed // the mode has stopped; how no longer matters
		return nil
	case <-life.Done(): // abandoned, or no longer listening
		server.Close()
		<-wd.failed
		return context.Cause(life)
	case <-wd.failed:
		wd.log.Error("function ended", "err", wd.failure)
		wd.linger(ctx, server)
		return wd.failure
	}
}

func (wd *Watchdog) server(metricsHere bool) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true) // gRPC, without TLS inside the platform
	return &http.Server{
		Handler:           wd.routes(metricsHere),
		Protocols:         &protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    wd.o.MaxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(wd.log.Handler(), slog.LevelDebug),
	}
}

// drain lets running calls finish. New ones are still accepted for DrainDelay,
// because it takes a moment until everybody knows that this replica is leaving,
// and at least until those who have connected are accepted.
func (wd *Watchdog) drain(life context.Context, server *http.Server, listener net.Listener) {
	wd.draining.Store(true)
	wd.log.Info("draining", "in_flight", wd.calls.running())
	wait(life, max(wd.o.DrainDelay, acceptTime))

	ctx := life
	if budget := wd.o.budget(); budget > 0 {
		bounded, cancel := context.WithTimeout(life, budget)
		defer cancel()
		ctx = bounded
	}
	// Not by Shutdown: that drops first requests of connections which it reads
	// just then, and forgets those that became WebSockets.
	listener.Close()
	server.SetKeepAlivesEnabled(false)
	for {
		wd.calls.awaitIdle(ctx)
		wait(ctx, settleTime)
		if wd.calls.running() == 0 || ctx.Err() != nil {
			break
		}
	}
	server.Close()
}

// linger goes on serving for a moment after the function has ended: so that
// whoever waits for it can read at /_/ready why it never became ready, or so
// that running calls get an answer.
func (wd *Watchdog) linger(ctx context.Context, server *http.Server) {
	moment, cancel := context.WithTimeout(ctx, failureLinger)
	defer cancel()
	select {
	case <-wd.ready:
		wd.calls.awaitIdle(moment)
		wd.settle(moment, server)
	default:
		<-moment.Done()
	}
}

// settle closes the server once no call is running: what they have written may
// still be on its way out.
func (wd *Watchdog) settle(ctx context.Context, server *http.Server) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	_ = server.Shutdown(ctx) // an error means that time is up, and then they are closed
}

// wait returns after d or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// lock writes the lock file that container health checks look for, and returns
// what removes it. Not being able to is no reason not to serve.
func (wd *Watchdog) lock() (unlock func()) {
	path := wd.o.LockFile
	if path == "" {
		return func() {}
	}
	if err := os.WriteFile(path, nil, 0o660); err != nil {
		wd.log.Warn("no lock file", "path", path, "err", err)
		wd.o.LockFile = ""
		return func() {}
	}
	return func() {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			wd.log.Warn("lock file left behind", "path", path, "err", err)
		}
	}
}

// serveMetrics serves /metrics on a port of its own.
func (wd *Watchdog) serveMetrics(background *sync.WaitGroup) (stop func(), err error) {
	listener, err := net.Listen("tcp", wd.o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", wd.serveMetricsText)
	server := &http.Server{Handler: mux, ReadHeaderTimeout: headerTimeout}
	background.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) && !wd.draining.Load() {
			wd.log.Error("metrics listener failed", "err", err)
		}
	})
	return func() { server.Close() }, nil
}
