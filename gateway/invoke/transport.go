package invoke

import (
	"bufio"
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// idleTimeout is how long an unused connection is kept.
	idleTimeout = 30 * time.Second
	// maxIdle bounds the unused connections to one replica.
	maxIdle = 256
	// maxHead bounds the status line and headers of an answer, and of all
	// informational answers before it.
	maxHead = 1 << 20
	// continueTimeout is how long a request with "Expect: 100-continue" waits
	// for a replica that does not know the header before it sends its body.
	continueTimeout = time.Second
)

// A transport speaks HTTP/1.1 to one replica. It is an [http.RoundTripper]
// that differs from [http.Transport] in three ways: an idle connection costs
// no goroutine and is looked at before it is used again, so that one which the
// replica has closed never fails a request; errors are of type *sendError and
// tell whether the replica may have seen the request; and nothing is retried
// here, because only the caller knows other replicas.
type transport struct {
	dial func(context.Context) (net.Conn, error)

	mu      sync.Mutex // guards what follows
	idle    []*conn    // the longest unused first
	pruning *time.Timer
	closed  bool
	closers []func()
	sockets map[*socket]struct{} // WebSockets that are open
}

// A sendError is a request that got no answer.
type sendError struct {
	err error
	// sent is false if not one byte of the request left this process. It can
	// then be sent again, whatever it is.
	sent bool
	// gone says that nobody is at the replica's address, or cannot be reached.
	gone bool
}

func (e *sendError) Error() string { return e.err.Error() }
func (e *sendError) Unwrap() error { return e.err }

// RoundTrip sends req, without a time limit of its own.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	m, err := newMessage(nil, req)
	if err != nil {
		return nil, err
	}
	return t.send(&m, time.Time{})
}

// send sends m on an idle connection or a new one and returns the answer's
// head; its body must be read or closed. After deadline, unless it is zero,
// whatever the exchange is waiting for fails with [os.ErrDeadlineExceeded].
//
// A body that m does not hold is sent in the background, so that an answer may
// come before its end.
func (t *transport) send(m *message, deadline time.Time) (*http.Response, error) {
	ctx := m.req.Context()
	for {
		c := t.takeIdle()
		reused := c != nil
		if !reused {
			var err error
			if c, err = t.connect(ctx); err != nil {
				return nil, &sendError{err: err, gone: ctx.Err() == nil && gone(err)}
			}
		}
		res, err := c.exchange(ctx, m, deadline)
		if failed, ok := err.(*sendError); ok && !failed.sent && reused && ctx.Err() == nil {
			continue // closed since it was looked at; a new one will tell more
		}
		return res, err
	}
}

// connect opens a connection. A full backlog of a Unix socket fails at once
// where TCP would wait: the replica is busy, not gone, so connect waits too.
func (t *transport) connect(ctx context.Context) (*conn, error) {
	for pause := time.Millisecond; ; pause *= 2 {
		nc, err := t.dial(ctx)
		if err == nil {
			return newConn(nc, t), nil
		}
		if !errors.Is(err, syscall.EAGAIN) || pause > time.Second {
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// gone reports whether a dial failed because nobody is there, or nobody
// answered in time. That a full backlog of TCP looks the same does no harm: the
// replica is used again as soon as it answers a probe.
func gone(err error) bool {
	for _, errno := range []syscall.Errno{syscall.ECONNREFUSED, syscall.ENOENT, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.ETIMEDOUT} {
		if errors.Is(err, errno) {
			return true
		}
	}
	late, ok := errors.AsType[net.Error](err)
	return ok && late.Timeout() && !errors.Is(err, syscall.EAGAIN) // which is a full backlog of a Unix socket
}

// takeIdle returns the connection that was used last, or nil. Those that the
// replica has closed meanwhile are thrown away.
func (t *transport) takeIdle() *conn {
	for {
		t.mu.Lock()
		n := len(t.idle)
		if n == 0 {
			t.mu.Unlock()
			return nil
		}
		c := t.idle[n-1]
		t.idle[n-1] = nil
		t.idle = t.idle[:n-1]
		t.mu.Unlock()
		if c.quiet() {
			return c
		}
		c.Close()
	}
}

func (t *transport) putIdle(c *conn) {
	c.since = time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || len(t.idle) >= maxIdle {
		c.Close()
		return
	}
	t.idle = append(t.idle, c)
	if t.pruning == nil {
		t.pruning = time.AfterFunc(idleTimeout, t.prune)
	}
}

// prune closes connections that were not used for long. It runs while there
// are idle ones.
func (t *transport) prune() {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	for n < len(t.idle) && time.Since(t.idle[n].since) >= idleTimeout {
		t.idle[n].Close()
		n++
	}
	t.idle = append(t.idle[:0], t.idle[n:]...)
	clear(t.idle[len(t.idle):cap(t.idle)])
	t.pruning = nil
	if len(t.idle) > 0 && !t.closed {
		t.pruning = time.AfterFunc(idleTimeout-time.Since(t.idle[0].since), t.prune)
	}
}

// forget closes the connections that are idle now. They may lead nowhere.
func (t *transport) forget() {
	t.mu.Lock()
	idle := t.idle
	t.idle = nil
	t.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
}

// close closes idle connections, now and as soon as they become idle, and has
// WebSockets come to their end. Requests in flight go on, and new ones are
// still sent.
func (t *transport) close() {
	t.mu.Lock()
	idle, closers, sockets := t.idle, t.closers, slices.Collect(maps.Keys(t.sockets))
	t.idle, t.closers, t.closed = nil, nil, true
	if t.pruning != nil {
		t.pruning.Stop()
	}
	t.mu.Unlock()
	for _, c := range idle {
		c.Close()
	}
	for _, f := range closers {
		f()
	}
	for _, s := range sockets {
		s.leave()
	}
}

// onClose has close call f.
func (t *transport) onClose(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closers = append(t.closers, f)
}

// A conn is a connection to a replica, used by one exchange at a time.
type conn struct {
	net.Conn
	transport *transport
	br        *bufio.Reader // reads from the conn, so that headLeft holds
	headLeft  int           // what an answer's head may still take; negative is no limit
	timed     bool          // a deadline is set
	since     time.Time     // when it was used last

	raw     syscall.RawConn // nil if there is no socket below
	isQuiet bool
	// look and abort are methods as values, made once as every request needs
	// them.
	look  func(fd uintptr)
	abort func()
}

func newConn(nc net.Conn, t *transport) *conn {
	c := &conn{Conn: nc, transport: t, headLeft: -1}
	c.br = bufio.NewReader(c)
	c.look = c.lookAt
	c.abort = func() { c.Conn.Close() }
	if sc, ok := nc.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn() // a closed connection will be found out soon enough
	}
	return c
}

var errHeadTooLarge = errors.New("headers of the answer exceed 1 MiB")

func (c *conn) Read(p []byte) (int, error) {
	if c.headLeft < 0 {
		return c.Conn.Read(p)
	}
	if c.headLeft == 0 {
		return 0, errHeadTooLarge
	}
	n, err := c.Conn.Read(p[:min(len(p), c.headLeft)])
	c.headLeft -= n
	return n, err
}

// exchange sends m and reads the head of the answer.
func (c *conn) exchange(ctx context.Context, m *message, deadline time.Time) (*http.Response, error) {
	if c.timed || !deadline.IsZero() {
		c.timed = !deadline.IsZero()
		if err := c.SetDeadline(deadline); err != nil {
			c.Close()
			return nil, &sendError{err: err}
		}
	}
	x := &exchange{conn: c, req: m.req, stop: unwatched}
	if ctx.Done() != nil {
		x.stop = context.AfterFunc(ctx, c.abort)
	}

	n, err := c.Write(m.start)
	if err != nil && n == 0 {
		return nil, x.fail(err, false)
	}
	if err == nil && m.streams() {
		m.upload = startUpload(c, m)
		x.upload = m.upload
	}
	// A replica that answers early may have stopped reading: what it said is
	// worth more than the error of having written on.
	res, readErr := c.readHead(m.req, x.upload)
	if readErr != nil {
		if x.upload != nil {
			x.upload.proceed(false)
			if bodyErr := x.upload.sourceErr(); bodyErr != nil {
				readErr = bodyErr
			}
		} else if err != nil {
			readErr = err
		}
		return nil, x.fail(readErr, true)
	}
	x.answered(res)
	return res, nil
}

// unwatched is what stops the watch over a context that never ends.
func unwatched() bool { return true }

// readHead reads the head of the answer to req, passing on the informational
// ones that come before it.
func (c *conn) readHead(req *http.Request, up *upload) (*http.Response, error) {
	c.headLeft = maxHead
	defer func() { c.headLeft = -1 }()
	for {
		res, err := http.ReadResponse(c.br, req)
		if err != nil {
			if err == io.ErrUnexpectedEOF {
				err = errNoAnswer
			}
			return nil, err
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			if up != nil {
				up.proceed(false) // it is too late for "100 Continue"
			}
			return res, nil
		}
		if trace := httptrace.ContextClientTrace(req.Context()); trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
		}
		// Last, as reading the body makes our own server say "100 Continue"
		// too unless that has been passed on.
		if res.StatusCode == http.StatusContinue && up != nil {
			up.proceed(true)
		}
	}
}

var errNoAnswer = errors.New("connection closed before the answer")

// An exchange is the rest of a request and its answer: it is the answer's
// body. At its end the connection is used again, or closed if that cannot be.
type exchange struct {
	req    *http.Request
	conn   *conn
	upload *upload     // nil if the request was sent at once
	stop   func() bool // ends the watch over the caller's context
	body   io.Reader   // as it comes; nil after the end
	keep   bool        // the connection may be used again
	err    error       // what Read returned last, once body is nil
}

// fail ends an exchange without an answer.
func (x *exchange) fail(err error, sent bool) error {
	x.stop()
	x.conn.Close()
	if cause := context.Cause(x.req.Context()); cause != nil {
		err = cause
	}
	// The peer may be gone without a word, which the connection's own timers
	// find out. One that is only slow runs into the deadline.
	return &sendError{err: err, sent: sent, gone: errors.Is(err, syscall.ETIMEDOUT)}
}

// answered makes x the body of res.
func (x *exchange) answered(res *http.Response) {
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols:
		// The timeout bounded the change of protocol; how long the two sides
		// talk from here on is theirs to say.
		_ = x.conn.SetDeadline(time.Time{}) // a connection that is broken will say so
		t := &tunnel{conn: x.conn, stop: x.stop}
		res.Body = t
		if strings.EqualFold(res.Header.Get("Upgrade"), "websocket") {
			res.Body = newSocket(x.req.Context(), t)
		}
		return
	case res.Body == http.NoBody:
		x.keep = !res.Close
		x.finish(true)
		return
	}
	x.body, x.keep = res.Body, !res.Close
	if res.ContentLength >= 0 && int64(x.conn.br.Buffered()) < res.ContentLength {
		// ReverseProxy takes an unknown length as the sign to pass on what
		// comes as it comes. A body that is here already needs no such haste.
		res.ContentLength = -1
	}
	res.Body = x
}

func (x *exchange) Read(p []byte) (int, error) {
	if x.body == nil {
		return 0, x.err
	}
	n, err := x.body.Read(p)
	if err == nil {
		return n, nil
	}
	if cause := context.Cause(x.req.Context()); err != io.EOF && cause != nil {
		err = cause
	}
	x.err = err
	x.finish(err == io.EOF)
	return n, err
}

// Close ends the exchange. If the body was not read to its end, the connection
// is closed, and the replica learns from that.
func (x *exchange) Close() error {
	if x.body != nil {
		x.err = errClosedBody
		x.finish(false)
	}
	return nil
}

var errClosedBody = errors.New("body of the answer is closed")

func (x *exchange) finish(complete bool) {
	x.body = nil
	// The order matters: once stop succeeds nobody else closes the connection.
	if complete && x.keep && x.stop() && x.conn.br.Buffered() == 0 && x.upload.finished() {
		x.conn.transport.putIdle(x.conn)
		return
	}
	x.stop()
	x.conn.Close()
}

// A tunnel is the connection of an answer that switched protocols.
type tunnel struct {
	*conn
	stop func() bool
}

func (t *tunnel) Read(p []byte) (int, error) { return t.br.Read(p) }

func (t *tunnel) Close() error {
	t.stop()
	return t.conn.Close()
}

// CloseWrite tells the replica that nothing more comes, if the connection can
// say so.
func (t *tunnel) CloseWrite() error {
	if c, ok := t.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return t.Close()
}

// broken reports whether the answer ended before it was complete. A nil
// exchange is not.
func (x *exchange) broken() bool {
	return x != nil && x.err != nil && x.err != io.EOF
}
