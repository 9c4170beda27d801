package web

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// ServeOptions tune [Serve]. The zero value serves without limits.
type ServeOptions struct {
	// Drain bounds how long requests in flight may take after ctx ends; 0
	// cuts them off at once.
	Drain time.Duration
	// ReadHeaderTimeout bounds the time a caller takes to send headers; 0 is
	// 10 seconds.
	ReadHeaderTimeout time.Duration
	// ReadTimeout and WriteTimeout bound whole requests and answers; 0 is no
	// bound. Handlers of long streams lift them by http.ResponseController.
	ReadTimeout, WriteTimeout time.Duration
	// IdleTimeout bounds how long a connection without a request is kept; 0
	// is two minutes.
	IdleTimeout time.Duration
	// MaxHeaderBytes bounds a request's headers; 0 is 1 MiB.
	MaxHeaderBytes int
	// TLS is how callers are spoken to; nil is without. See [TLSFiles].
	TLS *tls.Config
	// Log takes the server's own complaints, such as TLS handshakes that fail.
	Log *slog.Logger
}

type servingKey struct{}

// UntilDrain returns a context that ends as ctx does, and also when the server
// that took the request ctx belongs to begins to drain. It is for answers
// without an end of their own, which would only use up the time a drain has.
func UntilDrain(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	serving, ok := ctx.Value(servingKey{}).(context.Context)
	if !ok {
		return ctx, cancel
	}
	stop := context.AfterFunc(serving, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

const (
	// stragglers is how long a handler whose connection was cut may take to
	// notice.
	stragglers = 5 * time.Second
	// firstRequest is how long callers who have connected before a server stops
	// may take to send their request.
	firstRequest = 3 * time.Second
	// parting is how long no request may have come before a server that stops
	// closes the connections that are kept alive, and longestParting how long it
	// waits for that.
	parting        = 250 * time.Millisecond
	longestParting = 3 * time.Second
)

// Serve answers requests on ln with h, over HTTP/1 and HTTP/2, until ctx ends;
// then it stops accepting and waits for the requests in flight, upgraded
// connections among them, and for those of callers who have only just
// connected, as long as o.Drain allows. Callers who keep connections busy learn
// from an answer that theirs ends. What is left after that is cut off:
// connections close and contexts end. Serve returns when every handler has,
// with nil if the end was ctx's doing. It closes ln in any case.
func Serve(ctx context.Context, ln net.Listener, h http.Handler, o ServeOptions) error {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(o.TLS != nil)
	protocols.SetUnencryptedHTTP2(o.TLS == nil)
	// Requests outlive ctx while they drain, so they do not inherit its end.
	requests, cutOff := context.WithCancel(context.WithValue(context.WithoutCancel(ctx), servingKey{}, ctx))
	defer cutOff()
	running := newInFlight()
	var arriving newcomers
	var leave leaving
	srv := &http.Server{
		Handler:           running.count(arriving.welcome(leave.tell(reportPanics(o.Log, h)))),
		Protocols:         &protocols,
		TLSConfig:         o.TLS,
		ReadHeaderTimeout: cmp.Or(o.ReadHeaderTimeout, 10*time.Second),
		ReadTimeout:       o.ReadTimeout,
		WriteTimeout:      o.WriteTimeout,
		IdleTimeout:       cmp.Or(o.IdleTimeout, 2*time.Minute),
		MaxHeaderBytes:    o.MaxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return requests },
		ConnContext:       arriving.connected,
		ConnState:         arriving.changed,
	}
	if o.Log != nil {
		srv.ErrorLog = slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug)
	}

	var failed error
	served := make(chan struct{})
	go func() {
		defer close(served)
		if o.TLS != nil {
			failed = srv.ServeTLS(ln, "", "")
			return
		}
		failed = srv.Serve(ln)
	}()
	select {
	case <-served:
		srv.Close()
		cutOff()
		return errors.Join(fmt.Errorf("serve %s: %w", ln.Addr(), failed), running.end(ctx))
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(requests, o.Drain)
	defer cancel()
	// A listener that is closed drops callers who have connected and were not
	// accepted yet, and a server that shuts down drops first requests that it is
	// reading, and those on their way along a connection that it thinks is idle.
	leave.note()
	acceptWaiting(drain, ln)
	ln.Close()
	<-served
	arriving.wait(drain)
	leave.wait(drain, arriving.none)
	srv.SetKeepAlivesEnabled(false)
	err := srv.Shutdown(drain)
	if err == nil {
		// Shutdown forgets upgraded connections; their handlers still run.
		err = running.wait(drain)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	cutOff()
	return errors.Join(err, running.end(ctx))
}

// reportPanics logs the panics of h as the errors they are: net/http's own
// complaints are mostly of broken connections and go to the debug level.
func reportPanics(log *slog.Logger, h http.Handler) http.Handler {
	if log == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if err, ok := p.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
				logPanic(log, r, p)
			}
			panic(http.ErrAbortHandler)
		}()
		h.ServeHTTP(w, r)
	})
}

// newcomers are the connections on which no request has arrived yet.
type newcomers struct {
	n      atomic.Int64
	latest atomic.Int64 // when the last one came, in nanoseconds of Unix time
	conns  sync.Map     // of *newcomer, by net.Conn, also those whose request has arrived
}

type newcomer struct{ arrived atomic.Bool }

type newcomerKey struct{}

func (all *newcomers) connected(ctx context.Context, conn net.Conn) context.Context {
	c := &newcomer{}
	all.n.Add(1)
	all.latest.Store(time.Now().UnixNano())
	all.conns.Store(conn, c)
	return context.WithValue(ctx, newcomerKey{}, c)
}

// changed notices connections that end, or are taken over by their handlers.
func (all *newcomers) changed(conn net.Conn, state http.ConnState) {
	if state != http.StateClosed && state != http.StateHijacked {
		return
	}
	if c, ok := all.conns.LoadAndDelete(conn); ok {
		all.leave(c.(*newcomer))
	}
}

func (all *newcomers) welcome(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(newcomerKey{}).(*newcomer); ok && !c.arrived.Load() {
			all.leave(c)
		}
		h.ServeHTTP(w, r)
	})
}

// none reports whether there are no connections at all, but for upgraded ones.
func (all *newcomers) none() bool {
	for range all.conns.Range {
		return false
	}
	return true
}

func (all *newcomers) leave(c *newcomer) {
	if !c.arrived.Swap(true) {
		all.n.Add(-1)
	}
}

// wait returns when there are none, or ctx ends, or they have had their time.
// The server accepts no more by then.
func (all *newcomers) wait(ctx context.Context) {
	ctx, cancel := context.WithDeadline(ctx, time.Unix(0, all.latest.Load()).Add(firstRequest))
	defer cancel()
	for all.n.Load() > 0 && ctx.Err() == nil {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// leaving is how a server that stops tells its callers to use their connections
// no more.
type leaving struct{ asked atomic.Int64 } // when a request last came, in nanoseconds of Unix time; 0 until the server stops

func (l *leaving) note() { l.asked.Store(time.Now().UnixNano()) }

func (l *leaving) tell(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if l.asked.Load() != 0 {
			l.note()
			if r.ProtoMajor == 1 && r.Header.Get("Upgrade") == "" {
				w.Header().Set("Connection", "close")
			}
		}
		h.ServeHTTP(w, r)
	})
}

// wait returns when no request has come for a while: who would have used a
// connection has done so, and was told. It does not wait for longer than there
// are connections.
func (l *leaving) wait(ctx context.Context, none func() bool) {
	ctx, cancel := context.WithTimeout(ctx, longestParting)
	defer cancel()
	for ctx.Err() == nil && !none() && time.Since(time.Unix(0, l.asked.Load())) < parting {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// inFlight counts the handlers that run, and says when there are none left.
type inFlight struct {
	n       atomic.Int64 // handlers, and one for the server until it stops
	stop    sync.Once    // takes the server's own one away
	reached sync.Once    // guards the closing of idle
	idle    chan struct{}
}

func newInFlight() *inFlight {
	f := &inFlight{idle: make(chan struct{})}
	f.n.Store(1)
	return f
}

func (f *inFlight) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.n.Add(1)
		defer f.leave()
		h.ServeHTTP(w, r)
	})
}

func (f *inFlight) leave() {
	if f.n.Add(-1) == 0 {
		f.reached.Do(func() { close(f.idle) })
	}
}

// wait returns once no handler runs, or with ctx's error. The server has
// stopped accepting by then.
func (f *inFlight) wait(ctx context.Context) error {
	f.stop.Do(f.leave)
	select {
	case <-f.idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end waits for handlers whose connections are gone.
func (f *inFlight) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stragglers)
	defer cancel()
	if f.wait(ctx) != nil {
		return fmt.Errorf("%d requests are still handled %v after their connections were cut", f.n.Load(), stragglers)
	}
	return nil
}
