package invoke

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/web"
)

// timeoutGrace is how much longer than exec_timeout the gateway waits, so that
// the watchdog, which knows more, gets to say that time is up.
const timeoutGrace = 250 * time.Millisecond

// maxAttempts bounds how often one request is sent. All but one of the
// attempts failed before a byte was out.
const maxAttempts = 10

// A call is one request on its way. It is the transport of a ReverseProxy of
// its own, whose hooks are its methods: so the hooks know the call without a
// look-up. Calls are used again for later requests.
type call struct {
	proxy   *Proxy
	reverse httputil.ReverseProxy
	buf     []byte // where messages are built

	start  time.Time
	id     []string // X-Call-Id, as a header's values
	began  []string // X-Start-Time, likewise
	status int      // of the answer

	route    *route
	target   target
	mayWait  bool
	grant    grant
	deadline time.Time // zero if there is none
	resent   bool      // sent again although a replica may have seen it
	message  message
	answer   *exchange // the answer's body, if it came over our own transport
	cancel   context.CancelFunc
	caller   *http.ResponseController
	traced   traced
}

func newCall(p *Proxy) *call {
	c := &call{proxy: p}
	c.reverse = httputil.ReverseProxy{
		Transport:      c,
		Rewrite:        c.rewrite,
		ModifyResponse: c.modify,
		ErrorHandler:   c.fail,
		ErrorLog:       p.errors,
		BufferPool:     &copyBuffers,
	}
	return c
}

// begin makes c the call of r, which has arrived at start.
func (c *call) begin(r *http.Request, start time.Time) {
	values := &[2]string{r.Header.Get(web.HeaderCallID), strconv.FormatInt(start.UnixNano(), 10)}
	if !web.ValidCallID(values[0]) {
		values[0] = web.NewCallID()
	}
	c.start, c.id, c.began = start, values[:1:1], values[1:]
}

// end gives back what the call holds.
func (c *call) end() {
	if c.route != nil {
		took := time.Since(c.start)
		if rep := c.grant.replica; rep != nil {
			rep.pace.note(took-c.grant.waited, rep.inflight.Load(), rep.slots.Load())
			c.route.release(rep)
		}
		c.route.counters.Finished(c.status, took)
	}
	if c.traced.call != nil {
		c.endSpans()
	}
	if c.cancel != nil {
		c.cancel()
	}
	*c = call{proxy: c.proxy, reverse: c.reverse, buf: c.buf}
}

func (c *call) serve(w http.ResponseWriter, r *http.Request, to *route, where target) {
	c.route, c.target = to, where
	queued := r.Header.Get(HeaderQueued)
	if c.mayWait = queued == ""; !c.mayWait && c.proxy.vouched(r) {
		to.wishes(queued)
	}
	to.counters.Started()
	if c.proxy.tracer != nil {
		c.beginSpans(r)
	}
	if err := c.acquire(r.Context(), false); err != nil {
		c.fail(w, r, err)
		return
	}
	c.caller = http.NewResponseController(w)
	c.reverse.ServeHTTP(w, r)
	if c.answer.broken() {
		// Under a server ReverseProxy has done this already.
		panic(http.ErrAbortHandler)
	}
	c.settle()
}

// settle lets the sending of a body that nobody wants any more come to its own
// end, which it does when it next writes. The server would interrupt it within
// a read, could not read on after that, and would cut the connection of a
// caller who still sends, and who then loses the answer.
func (c *call) settle() {
	up := c.message.upload
	if up == nil {
		return
	}
	select {
	case <-up.done:
		return
	default:
	}
	_ = c.caller.Flush() // the caller may want the answer before it goes on
	select {
	case <-up.done:
	case <-time.After(lastWrite):
	}
}

// acquire takes a slot, and sets the deadline by the settings of its time. A
// call that gives one back to take another says again.
func (c *call) acquire(ctx context.Context, again bool) error {
	before := c.grant
	var waited *grant
	if again {
		waited = &before
	}
	g, err := c.route.acquire(ctx, c.mayWait, waited)
	g.waited += before.waited
	if before.wake > 0 {
		g.wake += before.wake
		g.startup = before.startup
	}
	c.grant, c.deadline = g, time.Time{}
	if err != nil {
		return err
	}
	if limit := c.route.view.Load().Settings.ExecTimeout.Std(); limit > 0 {
		c.deadline = time.Now().Add(limit + timeoutGrace)
	}
	return nil
}

// rewrite makes the function's request out of the caller's.
func (c *call) rewrite(pr *httputil.ProxyRequest) {
	in, out := pr.In, pr.Out
	out.URL.Scheme, out.URL.Host = "http", "replica" // for show; the slot says where it goes
	out.URL.Path, out.URL.RawPath = c.target.path, c.target.rawPath
	out.URL.RawQuery = in.URL.RawQuery // also what Go's own parser would not take
	out.Trailer = in.Trailer           // the map that is filled when the body ends

	h := out.Header
	h[web.HeaderCallID], h[web.HeaderStartTime] = c.id, c.began
	delete(h, HeaderQueued)
	delete(h, HeaderSubmitter)
	// OpenFaaS functions rely on these as they are: the first proxy's word
	// counts, and the address has a port.
	keep(h, in.Header, "Forwarded", "")
	keep(h, in.Header, "X-Forwarded-For", in.RemoteAddr)
	keep(h, in.Header, "X-Forwarded-Host", in.Host)
	scheme := "http"
	if in.TLS != nil {
		scheme = "https"
	}
	keep(h, in.Header, "X-Forwarded-Proto", scheme)
	keep(h, in.Header, "X-Forwarded-Uri", in.URL.EscapedPath())
	if c.traced.call != nil {
		c.traceSending(h)
	}
}

// keep copies a header from in to out, or sets it to value if in has none.
func keep(out, in http.Header, name, value string) {
	if had, ok := in[name]; ok {
		out[name] = had
	} else if value != "" {
		out[name] = []string{value}
	}
}

// RoundTrip sends out to the replica whose slot the call holds, and to others
// as long as that can be done without handling it twice.
func (c *call) RoundTrip(out *http.Request) (*http.Response, error) {
	if isGRPC(out) {
		return c.overHTTP2(out)
	}
	if err := c.prepare(out); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		rep := c.grant.replica
		res, err := rep.transport.send(&c.message, c.deadline)
		switch {
		case err == nil && c.turnedAway(res):
			// The time to wait bounds this, and no number of attempts.
			attempt--
			_, _ = io.CopyN(io.Discard, res.Body, maxRefusal) // lets the connection be used again
			res.Body.Close()
			c.route.turnedAway(rep)
		case err == nil:
			if rep.turned.Load() > 0 {
				rep.turned.Store(0)
			}
			c.answer, _ = res.Body.(*exchange)
			return res, nil
		case attempt == maxAttempts || !c.again(out, err, c.message.streams()):
			return nil, err
		}
		if err := c.move(out.Context()); err != nil {
			return nil, err
		}
	}
}

// maxRefusal is how much is read of an answer that turns a request away.
const maxRefusal = 4 << 10

// turnedAway reports whether res is a watchdog's word that its replica had no
// room, so that the call was never started and can go elsewhere, or wait. What
// comes with Retry-After is meant for the caller.
func (c *call) turnedAway(res *http.Response) bool {
	return res.StatusCode == http.StatusTooManyRequests && c.mayWait && !c.message.streams() &&
		len(res.Header["Retry-After"]) == 0 && fromWatchdog(res.Header)
}

// prepare builds the message for out. A small body is read here, by a caller
// that holds a slot, so the time for it is bounded.
func (c *call) prepare(out *http.Request) error {
	bounded := isSmall(out.ContentLength) && !c.deadline.IsZero()
	if bounded {
		_ = c.caller.SetReadDeadline(c.deadline) // a caller in this process has none
	}
	var err error
	c.message, err = newMessage(c.buf, out)
	if cap(c.message.start) <= maxBuf {
		c.buf = c.message.start
	}
	if bounded {
		_ = c.caller.SetReadDeadline(time.Time{})
	}
	return err
}

// maxBuf is the largest buffer that a call keeps for the next one.
const maxBuf = 64 << 10

// overHTTP2 sends a gRPC request. What http.Transport says of a failure is
// enough to know that a dial failed, not whether a request was seen.
func (c *call) overHTTP2(out *http.Request) (*http.Response, error) {
	ctx := out.Context()
	if !c.deadline.IsZero() {
		ctx, c.cancel = context.WithDeadlineCause(ctx, c.deadline, os.ErrDeadlineExceeded)
	}
	out = out.WithContext(ctx)
	// A transport that fails closes the body, which another may still need.
	// ReverseProxy ends it in any case.
	out.Body = io.NopCloser(out.Body)
	for attempt := 1; ; attempt++ {
		res, err := c.grant.replica.http2().RoundTrip(out)
		if err == nil {
			return res, nil
		}
		failed := &sendError{err: err, sent: true}
		if cause := context.Cause(ctx); cause != nil {
			failed.err = cause
		} else if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			failed.sent, failed.gone = false, gone(err)
		}
		if attempt == maxAttempts || !c.again(out, failed, true) {
			return nil, failed
		}
		if err := c.move(ctx); err != nil {
			return nil, err
		}
	}
}

// isGRPC reports whether a request needs HTTP/2 all the way.
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// again reports whether a request that failed with err can be sent again. A
// replica that could not be reached is taken out of use.
func (c *call) again(out *http.Request, err error, streams bool) bool {
	failed, ok := errors.AsType[*sendError](err)
	if !ok || out.Context().Err() != nil {
		return false
	}
	if failed.gone {
		c.route.refuse(c.grant.replica)
	}
	if !failed.sent {
		return true
	}
	if c.resent || streams || !idempotent(out.Method) || errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	c.resent = true
	return true
}

// move gives the slot back and takes another.
func (c *call) move(ctx context.Context) error {
	c.route.release(c.grant.replica)
	c.grant.replica = nil
	return c.acquire(ctx, true)
}

// modify makes the caller's answer out of the function's.
func (c *call) modify(res *http.Response) error {
	h := res.Header
	if len(h[web.HeaderInternal]) > 0 && !fromWatchdog(h) {
		delete(h, web.HeaderInternal)
	}
	if len(h["Content-Type"]) == 0 && res.Body != http.NoBody {
		// Guessing from the content is what the server would do.
		h["Content-Type"] = contentType(res.Request)
	}
	if !c.message.upload.finished() {
		c.interrupt(h, res.Request)
	}
	c.status = res.StatusCode
	if c.traced.call != nil {
		c.traced.timings = h["Server-Timing"]
	}
	c.mark(h)
	return nil
}

// interrupt readies the caller's connection for an answer that begins before
// the request has been read. An HTTP/1 server would otherwise want the rest of
// the body first, which may not come before the answer. Where the body was
// left nobody knows afterwards, so the connection carries no further request.
func (c *call) interrupt(h http.Header, out *http.Request) {
	if out.ProtoMajor != 1 || out.ContentLength == 0 {
		return
	}
	_ = c.caller.EnableFullDuplex() // a caller in this process needs none
	h.Set("Connection", "close")
}

// contentType is that of an answer that has none: the request's, else plain
// text, as OpenFaaS has it.
func contentType(r *http.Request) []string {
	if sent := r.Header["Content-Type"]; len(sent) > 0 {
		return sent
	}
	return []string{"text/plain"}
}

// mark sets the headers that every answer has.
func (c *call) mark(h http.Header) {
	h[web.HeaderCallID], h[web.HeaderStartTime] = c.id, c.began
	h["X-Served-By"] = []string{c.proxy.servedBy}
	timing := c.grant.timing()
	if had := h["Server-Timing"]; len(had) > 0 {
		timing = strings.Join(had, ", ") + ", " + timing
	}
	h["Server-Timing"] = []string{timing}
}

// fail answers r with err, which kept a function from answering.
func (c *call) fail(w http.ResponseWriter, r *http.Request, err error) {
	status, err := c.explain(r, err)
	c.status = status
	c.traced.failure = err
	h := w.Header()
	if _, broken := errors.AsType[*bodyError](err); broken || !c.message.upload.finished() {
		c.interrupt(h, r)
	}
	h.Set(web.HeaderInternal, internal)
	c.mark(h)
	if status == http.StatusBadGateway {
		c.proxy.log.Warn("no answer from function", "function", c.route.ref, "call_id", c.id[0], "err", err)
		http.Error(w, err.Error(), status)
		return
	}
	web.WriteError(w, r, c.proxy.log, err)
}

// explain turns an error of any layer below into one for the caller, and the
// status it is answered with.
func (c *call) explain(r *http.Request, err error) (int, error) {
	failed, unanswered := errors.AsType[*sendError](err)
	broken, unread := errors.AsType[*bodyError](err)
	late := (unanswered || unread) && errors.Is(err, os.ErrDeadlineExceeded)
	tooLarge, _ := errors.AsType[*http.MaxBytesError](err)
	switch {
	case tooLarge != nil:
		err = fault.TooLarge.Errorf("request body exceeds %d bytes", tooLarge.Limit)
	case unread && late:
		err = fault.Timeout.Errorf("the request took longer than exec_timeout to arrive: %w", broken)
	case r.Context().Err() != nil:
		return web.StatusClientClosedRequest, r.Context().Err()
	case unread:
		err = fault.Invalid.Errorf("%w", broken)
	case late:
		limit := c.route.view.Load().Settings.ExecTimeout
		err = fault.Timeout.Errorf("function %s did not answer within its exec_timeout of %s", c.route.ref, limit)
	case unanswered && !failed.sent:
		err = fault.Unavailable.Errorf("function %s cannot be reached: %w", c.route.ref, err)
	case fault.KindOf(err) == fault.Internal:
		return http.StatusBadGateway, fmt.Errorf("function %s: replica %s gave no answer: %w", c.route.ref, c.grant.replica.ID, err)
	}
	return web.Status(err), err
}
