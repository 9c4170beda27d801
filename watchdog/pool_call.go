package watchdog

import (
	"container/list"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	cancelGrace = 2 * time.Second        // for a handler to end after its call has, if it can be interrupted or its worker may have other calls
	heedTime    = 100 * time.Millisecond // of that, until its worker gets no more calls
	shortCall   = 16 << 10               // bytes of a request that whoever finds a worker for it sends there at once
	fewCalls    = 8                      // calls at a time of a worker whose socket has room for so many short ones
)

var (
	errWorkerGone = errors.New("the function's process is gone")
	errYours      = errors.New("a worker has been found; the call is to be sent there")
)

// A call is one request on its way through the pool. Its own goroutine waits
// for the answer; whoever finds a worker for it sends it there, or has that
// goroutine do it if the request is long.
type call struct {
	frame    []byte        // REQUEST with the body or its beginning, not sealed
	whole    bool          // it has all of the body
	deadline time.Time     // zero for none
	wake     chan struct{} // rung when there is something for next

	// Guarded by the pool's lock.
	place   *list.Element // among those that wait; nil if it does not
	w       *worker       // that it was given to last; nil before that
	id      uint32        // there
	running bool          // the worker has not answered yet
	own     bool          // its own goroutine sends it there
	handed  bool          // the request has been written, or is being
	left    bool          // nobody waits for the answer
	doubted bool          // see doubt
	recall  recallState   // of a call behind another
	batch   *batch        // that it is part of; nil if the function does not answer batches
	arrived time.Time     // at the pool
	waited  bool          // it was not given to an idle worker at once
	began   time.Time     // when it was given to the worker, or the call before it there was answered
	bound   *time.Timer   // ends the worker when a call that has been left takes too long; nil for none

	mu         sync.Mutex // guards the rest
	queue      []frame    // from the worker
	one        [1]frame   // where queue begins
	yours      bool       // see errYours
	refused    error      // why no worker will be found
	lost       bool       // the worker has ended
	status     string     // in words how it did, if lost
	uploaded   bool       // the whole body has been sent, as far as it came
	credit     int        // bytes of the body that may be sent
	creditNews chan struct{}
}

// recallState is how far the recall of a call has come.
type recallState uint8

const (
	recallNone recallState = iota
	recallSent             // or pending
	recallDue              // the worker does not begin the call if it has not yet
)

// newCall reads as much of a request as must be there before it takes up a
// worker. A batch's calls have to be whole.
func newCall(r *http.Request, batching bool) (*call, error) {
	c := &call{wake: make(chan struct{}, 1)}
	c.queue = c.one[:0]
	c.deadline, _ = r.Context().Deadline()
	room := requestRoom(r) + int(max(0, min(r.ContentLength, wholeBody)))
	var err error
	if c.frame, c.whole, err = readFirst(appendRequest(make([]byte, 0, room), r), r, batching); err != nil {
		return nil, err
	}
	c.uploaded = c.whole
	if !c.whole {
		c.credit, c.creditNews = creditWindow, make(chan struct{}, 1)
	}
	return c, nil
}

// readFirst appends to dst a body that is known to be small, or the beginning
// of one that is known to be large. last says that this is all. A body of
// unknown length may be half of a conversation, so nothing of it is waited for;
// except if it may become part of a batch.
func readFirst(dst []byte, r *http.Request, batching bool) (with []byte, last bool, err error) {
	whole := int64(wholeBody)
	if batching {
		whole = batchBody
	}
	switch n := r.ContentLength; {
	case n == 0 || r.Body == nil || r.Body == http.NoBody:
		return dst, true, nil
	case n < 0 && batching:
		body, err := io.ReadAll(io.LimitReader(r.Body, whole))
		return append(dst, body...), int64(len(body)) < whole, err
	case n < 0:
		return dst, false, nil
	default:
		last = n <= whole
		if !last {
			n = wholeBody
		}
		begin := len(dst)
		dst = slices.Grow(dst, int(n))[:begin+int(n)]
		if _, err = io.ReadFull(r.Body, dst[begin:]); err == nil && last {
			// Let the server see the end, for it watches for the client's leaving only then.
			var more [1]byte
			if _, err = r.Body.Read(more[:]); err == io.EOF {
				err = nil
			}
		}
		return dst, last, err
	}
}

// requestRoom is about as many bytes as [appendRequest] needs.
func requestRoom(r *http.Request) int {
	n := 160 + len(r.URL.Path) + len(r.URL.RawQuery) + len(r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			n += len(name) + len(value) + 8
		}
	}
	return n
}

// short reports whether the call can be sent by whoever finds a worker for it:
// in one piece that surely fits into the socket of a worker that has room.
func (c *call) short() bool { return c.whole && len(c.frame) <= shortCall }

// timeLeft is what the call may still take; zero means as long as it likes.
func (c *call) timeLeft(now time.Time) time.Duration {
	if c.deadline.IsZero() {
		return 0
	}
	return max(c.deadline.Sub(now), time.Millisecond)
}

func (c *call) deliver(f frame) {
	c.mu.Lock()
	news := c.wake
	if f.kind == frameCredit {
		c.credit += parseCredit(f.payload)
		news = c.creditNews
	} else {
		c.queue = append(c.queue, f)
	}
	c.mu.Unlock()
	ring(news)
}

// lose tells that the worker has ended, in words how.
func (c *call) lose(status string) {
	c.mu.Lock()
	c.lost, c.status = true, status
	c.mu.Unlock()
	ring(c.wake)
	ring(c.creditNews)
}

func (c *call) refuse(why error) {
	c.mu.Lock()
	c.refused = why
	c.mu.Unlock()
	ring(c.wake)
}

func (c *call) makeYours() {
	c.mu.Lock()
	c.yours = true
	c.mu.Unlock()
	ring(c.wake)
}

// ring wakes who waits for the bell, now or later. A nil bell has nobody.
func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// next waits for the worker's next frame, or until done is closed. more says
// that another is here already.
func (c *call) next(done <-chan struct{}) (f frame, more bool, err error) {
	for {
		c.mu.Lock()
		switch {
		case len(c.queue) > 0:
			f = c.queue[0]
			if c.queue = c.queue[1:]; len(c.queue) > 0 {
				more = true
			} else {
				c.one[0] = frame{}
				c.queue = c.one[:0]
			}
		case c.lost:
			err = errWorkerGone
		case c.refused != nil:
			err = c.refused
		case c.yours:
			c.yours, err = false, errYours
		default:
			c.mu.Unlock()
			select {
			case <-c.wake:
			case <-done:
				return frame{}, false, context.Canceled
			}
			continue
		}
		c.mu.Unlock()
		return f, more, err
	}
}

// isUploaded reports whether nothing of the request is still to come.
func (c *call) isUploaded() bool {
	if c.whole {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.uploaded
}

// acknowledge lets the worker send n more bytes.
func (c *call) acknowledge(n int) {
	if n > 0 {
		c.w.send(frameCredit, c.id, binary.BigEndian.AppendUint32(nil, uint32(n)))
	}
}

// sendBody sends the rest of a request's body until it ends or done is closed.
func (c *call) sendBody(body io.Reader, done <-chan struct{}) {
	buf := make([]byte, dataPiece)
	for {
		c.mu.Lock()
		credit, lost := c.credit, c.lost
		c.mu.Unlock()
		if lost {
			return
		}
		if credit == 0 {
			select {
			case <-c.creditNews:
				continue
			case <-done:
				return
			}
		}
		n, err := body.Read(buf[:min(credit, len(buf))])
		if n > 0 {
			c.mu.Lock()
			c.credit -= n
			c.mu.Unlock()
			c.w.send(frameData, c.id, buf[:n])
		}
		if err != nil {
			// Noted first, because the answer may come at once.
			c.mu.Lock()
			c.uploaded = true
			c.mu.Unlock()
			var reason []byte
			if err != io.EOF {
				reason = []byte(err.Error())
			}
			c.w.send(frameEnd, c.id, reason)
			return
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

// ServeHTTP carries one call to a worker and the answer back.
func (p *pool) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := w.(*answer)
	c, err := newCall(r, p.batching.Load())
	if err != nil {
		a.bodyError(err)
		return
	}
	if err := p.submit(c); err != nil {
		if busy, ok := errors.AsType[*busyError](err); ok {
			a.refuseBusy(busy.text, busy.retry)
		} else {
			a.refuse(http.StatusServiceUnavailable, err.Error())
		}
		return
	}
	u := &upload{c: c, body: r.Body}
	whole, err := p.answer(r.Context(), a, u)
	u.stop()
	if !whole {
		p.abandon(r.Context(), c)
	}
	if u.begun() && !c.isUploaded() {
		// The sender may be waiting for a client that has nothing to say. If it
		// waits for the worker, that has ended the call or its life by now.
		_ = http.NewResponseController(a).SetReadDeadline(time.Unix(1, 0))
	}
	u.sending.Wait()
	if !c.whole {
		p.settle(c)
	}
	if err != nil {
		a.Flush()                   // what was said before that
		panic(http.ErrAbortHandler) // the only way to say that the answer is not whole
	}
}

// An upload sends the rest of a body while the answer may already come.
type upload struct {
	c       *call
	body    io.Reader
	sending sync.WaitGroup
	over    chan struct{} // nil until there is something to send
}

func (u *upload) start() {
	u.over = make(chan struct{})
	u.sending.Go(func() { u.c.sendBody(u.body, u.over) })
}

func (u *upload) begun() bool { return u.over != nil }

func (u *upload) stop() {
	if u.over != nil {
		close(u.over)
	}
}

// A busyError is a call that is refused because there are too many.
type busyError struct {
	text  string
	retry time.Duration // when it may fare better
}

func (e *busyError) Error() string { return e.text }

// bodyError answers for a body that could not be read, as fail does. What is
// left of it must not be taken for the next request.
func (a *answer) bodyError(err error) bool {
	a.closeAfter(true)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return a.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("a request may have %d bytes", tooLarge.Limit), true)
	}
	return a.fail(http.StatusBadRequest, "the request's body ended early", true)
}

// answer writes what the worker answers. whole says that the worker is done
// with the call; the error, that the answer has begun and will not be whole.
func (p *pool) answer(ctx context.Context, a *answer, u *upload) (whole bool, err error) {
	c := u.c
	begun := false
	for {
		f, more, err := c.next(ctx.Done())
		switch err {
		case nil:
		case errYours:
			if p.sendLong(c) && !c.whole {
				a.closeAfter(true)
				u.start()
			}
			continue
		case errWorkerGone:
			text := "the function's process ended during the call: " + c.status
			if c.batch != nil && c.batch.size > 1 {
				text += fmt.Sprintf("; it was answering %d calls together", c.batch.size)
			}
			if a.fail(http.StatusInternalServerError, text, false) {
				return true, nil
			}
			return true, err
		case errPoolEnded:
			a.refuse(http.StatusServiceUnavailable, err.Error())
			return true, nil
		default:
			return false, nil // the timeout answers, or nobody listens
		}
		switch f.kind {
		case frameResponse:
			res, err := parseResponse(f.payload, &p.heads)
			if err != nil || begun {
				p.log.Error("function answered nonsense", "err", err)
				a.fail(http.StatusInternalServerError, "the function's answer cannot be read", false)
				return false, nil
			}
			begun = true
			if c.waited {
				a.timing("wait", c.began.Sub(c.arrived))
			}
			if c.batch != nil {
				a.timingOf("batch", time.Since(c.batch.begun), fmt.Sprintf("n=%d", c.batch.size))
			}
			if !c.whole {
				a.closeAfter(!c.isUploaded())
			}
			a.begin(res)
			if _, err := a.Write(res.body); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
				return res.last, nil
			}
			if res.last {
				return true, nil
			}
			if !more {
				a.Flush()
			}
		case frameData:
			if _, err := a.Write(f.payload); err != nil && !errors.Is(err, http.ErrBodyNotAllowed) {
				return false, nil // the client has left
			}
			c.acknowledge(len(f.payload))
			if !more {
				a.Flush()
			}
		case frameEnd:
			return true, nil
		case frameError:
			if a.fail(http.StatusInternalServerError, errorText(f.payload), false) {
				return true, nil
			}
			return true, errors.New(errorText(f.payload))
		}
	}
}

// begin writes the head of the function's answer.
func (a *answer) begin(res response) {
	h := a.Header()
	maps.Copy(h, res.header)
	if res.last && res.status != http.StatusNoContent && res.status != http.StatusNotModified &&
		(a.r.Method != http.MethodHead || h.Get("Content-Length") == "") {
		h["Content-Length"] = []string{strconv.Itoa(len(res.body))}
	}
	a.WriteHeader(res.status)
}

func errorText(payload []byte) string {
	var e struct {
		Message string `json:"message"`
	}
	if err := json.Unmarshal(payload, &e); err != nil || e.Message == "" {
		return "the function failed"
	}
	return e.Message
}

// abandon ends a call whose caller no longer waits, and returns when the
// worker is free again or dying, or when the call has yet to begin. A handler
// that runs in a process of its own cannot be interrupted: if only the caller
// has left, it may use up its time.
func (p *pool) abandon(ctx context.Context, c *call) {
	const why = "a call took too long"
	p.mu.Lock()
	if !p.leave(c) {
		p.unlock()
		return
	}
	w := c.w
	grace := time.Duration(0)
	if w.async || w.many > 1 {
		grace = cancelGrace // for the handler to see that it has been cancelled
	}
	p.unlock()

	expired := errors.Is(context.Cause(ctx), context.DeadlineExceeded)
	deadline := c.deadline
	switch {
	case c.batch != nil && c.batch.size > 1:
		// The others may have more time.
		if deadline = c.batch.until; !deadline.IsZero() {
			deadline = deadline.Add(grace)
		}
	case expired && grace > 0:
		deadline = time.Now().Add(grace)
	case expired:
		p.kill(w, killTime, why)
		return
	}
	if !deadline.IsZero() {
		// Set before anything is sent, which a worker that hangs would block.
		timer := time.AfterFunc(time.Until(deadline), func() { p.kill(w, killTime, why) })
		defer timer.Stop()
	}
	if expired && grace > 0 {
		timer := time.AfterFunc(heedTime, func() { p.doubt(c) })
		defer timer.Stop()
	}
	w.send(frameCancel, c.id, nil)
	for {
		if f, _, err := c.next(nil); err != nil || f.ends() {
			return
		}
	}
}

// doubt notes that a call does not end though it has been cancelled: its worker
// is likely to be killed over it, and gets no more until it has ended.
func (p *pool) doubt(c *call) {
	p.mu.Lock()
	defer p.unlock()
	if c.running && !c.doubted {
		c.doubted = true
		c.w.doubted++
		p.dispatch(time.Now())
	}
}

// leave notes that nobody waits for the answer, and reports whether the worker
// is at work on the call. The caller holds the lock.
func (p *pool) leave(c *call) bool {
	c.left = true
	switch {
	case c.place != nil:
		p.waiting.Remove(c.place)
		c.place = nil
		return false
	case !c.running:
		return false
	case c.own && !c.handed:
		p.takeBack(c)
		return false
	case c == c.w.behind:
		p.cancel(c)
		return false
	}
	return true
}
