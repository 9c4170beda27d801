package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// cancelGrace is how long an async handler has to end after its call has.
const cancelGrace = 2 * time.Second

// ServeHTTP carries one call to a worker and the answer back.
func (p *pool) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := w.(*answer)
	first, last, err := readFirst(r, p.batching.Load())
	if err != nil {
		a.bodyError(err)
		return
	}
	for {
		begun := time.Now()
		g, waited, err := p.acquire(&claim{r: r, body: first, last: last})
		if waited {
			a.timing("wait", time.Since(begun))
		}
		if busy, ok := errors.AsType[*busyError](err); ok {
			a.refuseBusy(busy.text, busy.retry)
			return
		}
		switch {
		case err != nil && r.Context().Err() == nil:
			a.refuse(http.StatusServiceUnavailable, err.Error())
			return
		case err != nil:
			return // nobody waits any more, or the timeout has answered
		}
		x := g.x
		if x == nil {
			if x, err = g.w.begin(r, first, last); err != nil {
				// The worker had died, and the function has not seen the call.
				p.discard(g)
				continue
			}
			x.batch = g.batch
		}
		p.converse(a, r, x, last)
		return
	}
}

// A busyError is a call that is refused because there are too many.
type busyError struct {
	text  string
	retry time.Duration // when it may fare better
}

func (e *busyError) Error() string { return e.text }

// readFirst reads a body that is known to be small, or the beginning of one
// that is known to be large, before the call takes up a worker. last says that
// this is all. A body of unknown length may be half of a conversation, so
// nothing of it is waited for; except if it may become part of a batch, whose
// calls have to be whole.
func readFirst(r *http.Request, batching bool) (first []byte, last bool, err error) {
	whole := int64(wholeBody)
	if batching {
		whole = batchBody
	}
	switch n := r.ContentLength; {
	case n == 0 || r.Body == nil || r.Body == http.NoBody:
		return nil, true, nil
	case n < 0 && batching:
		first, err = io.ReadAll(io.LimitReader(r.Body, whole))
		return first, int64(len(first)) < whole, err
	case n < 0:
		return nil, false, nil
	default:
		if n > whole {
			first = make([]byte, wholeBody)
		} else {
			first = make([]byte, n)
		}
		_, err = io.ReadFull(r.Body, first)
		if err == nil && n <= whole {
			last = true
			// Let the server see the end, for it watches for the client's leaving only then.
			_, err = r.Body.Read(make([]byte, 1))
			if err == io.EOF {
				err = nil
			}
		}
		return first, last, err
	}
}

// bodyError answers for a body that could not be read, as fail does. What is
// left of it must not be taken for the next request.
func (a *answer) bodyError(err error) bool {
	a.closeAfter(true)
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return a.fail(http.StatusRequestEntityTooLarge, fmt.Sprintf("a request may have %d bytes", tooLarge.Limit), true)
	}
	return a.fail(http.StatusBadRequest, "the request's body ended early", true)
}

// converse moves the rest of the request to the worker and its answer to the
// client, and gives the worker back.
func (p *pool) converse(a *answer, r *http.Request, x *exchange, last bool) {
	over := make(chan struct{})
	var sending sync.WaitGroup
	if !last {
		a.closeAfter(true)
		sending.Go(func() { x.sendBody(r.Body, over) })
	}
	whole, err := p.answer(a, x, r.Context())
	close(over)
	if !whole {
		p.abandon(r.Context(), x)
	}
	if !x.requestSent() {
		// The sender may be waiting for a client that has nothing to say. If it
		// waits for the worker, that has ended the call or its life by now.
		_ = http.NewResponseController(a).SetReadDeadline(time.Unix(1, 0))
	}
	sending.Wait()
	p.settle(x)
	if err != nil {
		panic(http.ErrAbortHandler) // the only way to say that the answer is not whole
	}
}

// settle gives the worker back, once.
func (p *pool) settle(x *exchange) {
	if !x.settled {
		x.settled = true
		x.end()
		p.release(grant{w: x.w, batch: x.batch})
	}
}

// answer writes what the worker answers. whole says that the worker is done
// with the call; the error, that the answer has begun and will not be whole.
func (p *pool) answer(a *answer, x *exchange, ctx context.Context) (whole bool, err error) {
	begun := false
	for {
		f, more, err := x.next(ctx.Done())
		switch {
		case errors.Is(err, errWorkerGone):
			text := "the function's process ended during the call: " + x.status
			if x.batch != nil && x.batch.size > 1 {
				text += fmt.Sprintf("; it was answering %d calls together", x.batch.size)
			}
			if a.fail(http.StatusInternalServerError, text, false) {
				return true, nil
			}
			return true, err
		case err != nil:
			return false, nil // the timeout answers, or nobody listens
		}
		switch f.kind {
		case frameResponse:
			res, err := parseResponse(f.payload)
			if err != nil || begun {
				p.log.Error("function answered nonsense", "err", err)
				a.fail(http.StatusInternalServerError, "the function's answer cannot be read", false)
				return false, nil
			}
			begun = true
			sent := x.requestSent()
			if res.last && sent {
				p.settle(x) // before the client has taken the answer, which may be slow at it
			}
			if x.batch != nil {
				a.timingOf("batch", time.Since(x.batch.begun), fmt.Sprintf("n=%d", x.batch.size))
			}
			a.closeAfter(!sent)
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
			x.acknowledge(len(f.payload))
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
	for _, pair := range res.Headers {
		switch name := http.CanonicalHeaderKey(pair[0]); name {
		case "Connection", "Transfer-Encoding":
			// Between the function and us there is no HTTP.
		default:
			h[name] = append(h[name], pair[1])
		}
	}
	if res.last && (a.r.Method != http.MethodHead || h.Get("Content-Length") == "") {
		h.Set("Content-Length", strconv.Itoa(len(res.body)))
	}
	if res.Status == http.StatusNoContent || res.Status == http.StatusNotModified {
		h.Del("Content-Length")
	}
	if _, named := h["Content-Type"]; !named {
		h["Content-Type"] = nil // no guessing from the body
	}
	a.WriteHeader(res.Status)
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
// worker is free again or dying. A handler that runs in a process of its own
// cannot be interrupted: if only the caller has left, it may use up its time.
func (p *pool) abandon(ctx context.Context, x *exchange) {
	const why = "a call took too long"
	expired := errors.Is(context.Cause(ctx), context.DeadlineExceeded)
	deadline, bounded := ctx.Deadline()
	switch {
	case x.batch != nil && x.batch.size > 1:
		// The others may have more time.
		deadline, bounded = x.batch.until, !x.batch.until.IsZero()
	case expired && p.isAsync(x.w):
		deadline = time.Now().Add(cancelGrace)
	case expired:
		p.kill(x.w, why)
		return
	}
	patience := time.Until(deadline)
	if bounded {
		// Set before anything is sent, which a worker that hangs would block.
		timer := time.AfterFunc(patience, func() { p.kill(x.w, why) })
		defer timer.Stop()
	}
	x.w.send(frameCancel, x.id, nil)
	for {
		f, _, err := x.next(nil)
		switch {
		case err != nil: // the worker is gone
			return
		case f.kind == frameEnd || f.kind == frameError:
			return
		case f.kind == frameResponse && len(f.payload) > 0 && f.payload[0]&messageLast != 0:
			return
		}
	}
}
