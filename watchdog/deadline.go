package watchdog

import (
	"context"
	"sync"
	"time"
)

// deadlines ends calls that take too long. All calls of a function have the
// same time, so that those that began first run out first: they are a queue,
// with one timer for its head, and a call that ends in time costs no timer.
type deadlines struct {
	budget time.Duration

	mu          sync.Mutex
	first, last *answer
	timer       *time.Timer
	armed       bool
}

// add starts a's time.
func (d *deadlines) add(a *answer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a.queued = true
	if a.before = d.last; a.before != nil {
		a.before.after = a
	} else {
		d.first = a
	}
	d.last = a
	if d.armed {
		return
	}
	d.armed = true
	if d.timer == nil {
		d.timer = time.AfterFunc(d.budget, d.fire)
	} else {
		d.timer.Reset(d.budget)
	}
}

// remove stops a's time. If that has run out, remove returns when
// [answer.expire] has: nobody else uses the connection from then on.
func (d *deadlines) remove(a *answer) {
	d.mu.Lock()
	queued := a.queued
	if queued {
		d.unlink(a)
	}
	d.mu.Unlock()
	if !queued {
		a.lapsed.Wait()
	}
}

func (d *deadlines) unlink(a *answer) {
	if a.before != nil {
		a.before.after = a.after
	} else {
		d.first = a.after
	}
	if a.after != nil {
		a.after.before = a.before
	} else {
		d.last = a.before
	}
	a.before, a.after, a.queued = nil, nil, false
}

// fire expires the calls at the head that have run out. The timer was set for
// a call that may have ended long ago, so there may be none.
func (d *deadlines) fire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.first != nil {
		a := d.first
		if left := time.Until(a.context.deadline); left > 0 {
			d.timer.Reset(left)
			return
		}
		d.unlink(a)
		a.lapsed.Go(func() { a.expire(d.budget) }) // which may have to wait for the call's client
	}
	d.armed = false
}

// A callContext is the context of one call: the request's, which ends when the
// client leaves, with the deadline of the call, which [answer.expire] enforces
// and may decide not to, as for a WebSocket. Most functions never look at their
// context, so what it takes to cancel it is made for the first who does.
type callContext struct {
	request  context.Context
	deadline time.Time // zero if there is none

	mu     sync.Mutex
	inner  context.Context // nil until somebody looks
	cancel context.CancelCauseFunc
	cause  error // that the call was ended with; nil until then
}

// end cancels the context with a cause.
func (c *callContext) end(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = cause
	}
	if c.cancel != nil {
		c.cancel(cause)
	}
}

func (c *callContext) look() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.cancel = context.WithCancelCause(c.request)
		if c.cause != nil {
			c.cancel(c.cause)
		}
	}
	return c.inner
}

func (c *callContext) Deadline() (time.Time, bool) {
	if c.deadline.IsZero() {
		return c.request.Deadline()
	}
	return c.deadline, true
}

func (c *callContext) Done() <-chan struct{} { return c.look().Done() }
func (c *callContext) Err() error            { return c.look().Err() }
func (c *callContext) Value(key any) any     { return c.look().Value(key) }
