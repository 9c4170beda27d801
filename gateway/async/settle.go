package async

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/web"
)

func isNotFound(err error) bool { return errors.Is(err, fault.NotFound) }

// conclude does what v says about d, whose try t brought a, step by step. An
// error leaves the call in the queue.
func (w *Worker) conclude(d *delivery, v verdict, a *answer, t Try, policy Policy) error {
	// What has begun is stored also while the worker stops.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), 4*timeout)
	defer cancel()

	d.Tries = append(d.Tries, t)
	after := *d.job
	c := after.call(Done)
	c.Started, c.Status = &t.Started, a.status
	c.Message = d.seq
	now := time.Now().UTC()
	switch v {
	case settle:
		c.Ended = &now
	case callItOff:
		c.State, c.Ended = Cancelled, &now
	case bury:
		c.State, c.Ended = Failed, &now
	case tryAgain:
		next := now.Add(policy.wait(len(d.Tries), a.outcome, chance()))
		c.State, c.Next = Waiting, &next
	}
	body := a.body
	if v != tryAgain {
		c.Header = a.header
		var err error
		switch c.Object, c.Size, err = w.storeBody(ctx, d, a); {
		case errors.Is(err, fault.Busy):
			// Others have made way already. The call has run; that it cannot be
			// shown what to is no reason to run it again.
			c.Dropped = "the answer is larger than the room for answers"
			body = nil
			w.log.Warn("an answer is not kept: it is larger than the room for answers", "call", d.ID, "function", d.Ref.String())
		case err != nil:
			d.Tries = d.Tries[:len(d.Tries)-1]
			return err
		case c.Object != "":
			body = nil
		}
	} else {
		body = nil
	}
	if v == settle && !d.Keyed && len(d.Tries) == 1 && d.Request.CallbackURL == nil {
		e, err := d.ending(c, body)
		if err != nil {
			return err
		}
		w.mu.Lock()
		d.leaving = true
		w.mu.Unlock()
		w.settler.ended <- &settlement{delivery: d, ending: e, call: c}
		return nil
	}
	err := w.carryOut(ctx, d, v, c, body, policy)
	if err != nil {
		d.Tries = d.Tries[:len(d.Tries)-1]
	}
	return err
}

// carryOut takes the steps from a verdict about d, whose record is to be c, to
// the end. A step for which there is no room makes d wait.
func (w *Worker) carryOut(ctx context.Context, d *delivery, v verdict, c *Call, body []byte, policy Policy) error {
	if v == tryAgain || v == bury {
		if err := w.q.touch(ctx, d.Object); err != nil {
			return err
		}
	}
	for _, s := range plan(v, d.Batch != "", d.Batch == "" || d.Keyed || len(d.Tries) > 1 || d.held, d.Request.CallbackURL != nil) {
		err := w.do(ctx, s, v, d, c, body, policy)
		if errors.Is(err, fault.Busy) {
			return w.hold(ctx, d, v, c, body, err)
		}
		if err != nil {
			return err
		}
	}
	if v != tryAgain {
		w.q.o.Meter.Processed(d.Queue)
		if v != bury {
			w.q.dropBody(ctx, d.job)
		}
	}
	return nil
}

// do does one step of the plan for v.
func (w *Worker) do(ctx context.Context, s step, v verdict, d *delivery, c *Call, body []byte, policy Policy) error {
	switch s {
	case storeRecord:
		if v == tryAgain {
			return w.q.putTry(ctx, c)
		}
		return w.q.putRecord(ctx, c, body, anyRecord)
	case storeResult:
		return w.q.putResult(ctx, c, d.Index, body)
	case storeCallback:
		return w.q.putCallback(ctx, d, c, body, policy)
	case storeDead:
		m, err := d.encode(deadSubject + d.Ref.Namespace + "." + d.Ref.Name + "." + d.ID)
		if err != nil {
			return err
		}
		m.Header.Set(headerQueue, d.Queue)
		if _, err := w.q.store(ctx, m); err != nil {
			return full("dead letters: retry or purge some", refused(fmt.Errorf("store a dead letter: %w", err)))
		}
		return nil
	case storeLater:
		m, err := d.encode(laterSubject + subject(d.Queue, d.Ref))
		if err != nil {
			return err
		}
		m.Header.Set(headerDue, strconv.FormatInt(c.Next.UnixMilli(), 10))
		if _, err := w.q.store(ctx, withName(m, tryName(d))); err != nil {
			return full("calls that wait for their next try", refused(fmt.Errorf("store the next try: %w", err)))
		}
		return nil
	case acknowledge:
		if err := d.msg.Ack(); err != nil {
			return fmt.Errorf("acknowledge: %w", err)
		}
		return nil
	}
	return fmt.Errorf("there is no step %d", s)
}

// tryName names the try that d is, so that the broker stores what follows from
// it once, however often the message is delivered. A call that was retried by
// hand counts its tries anew, but has another place in the stream.
func tryName(d *delivery) string {
	return d.ID + "/" + strconv.FormatUint(d.seq, 10) + "/" + strconv.Itoa(len(d.Tries))
}

// storeBody puts the body of an answer into the object store if it is large.
func (w *Worker) storeBody(ctx context.Context, d *delivery, a *answer) (object string, size int64, err error) {
	if a.rest == nil {
		return "", int64(len(a.body)), nil
	}
	if err := w.q.roomForAnswers(ctx); err != nil {
		return "", 0, err
	}
	info, err := w.q.responses.Put(ctx, jetstream.ObjectMeta{Name: d.ID}, io.MultiReader(bytes.NewReader(a.body), a.rest))
	if err != nil {
		return "", 0, refused(fmt.Errorf("store the body of an answer: %w", err))
	}
	return d.ID, int64(info.Size), nil
}

// bringBack moves calls whose next try is due from the later stream to the
// stream they came from. Several workers share the work.
func (w *Worker) bringBack(ctx context.Context) {
	w.consume(ctx, "later", w.q.later, jetstream.ConsumerConfig{
		Name: "bring-back", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		MaxAckPending: 100_000, MemoryStorage: true, InactiveThreshold: time.Minute,
	}, func(msg jetstream.Msg) { w.bringBackOne(ctx, msg) })
}

func (w *Worker) bringBackOne(ctx context.Context, msg jetstream.Msg) {
	due, err := strconv.ParseInt(msg.Headers().Get(headerDue), 10, 64)
	if err != nil {
		w.log.Error("a message without a time waits for one", "subject", msg.Subject())
		due = 0
	}
	if wait := time.Until(time.UnixMilli(due)); wait > 0 {
		_ = msg.NakWithDelay(wait)
		return
	}
	rest := msg.Subject()[len(laterSubject):]
	m := &nats.Msg{Subject: "graphene." + rest, Header: nats.Header{}, Data: msg.Data()}
	for k, v := range msg.Headers() { // the message's name too: it is stored once
		if k != headerDue {
			m.Header[k] = v
		}
	}
	call := !strings.HasPrefix(rest, callbackQueue+".")
	if call {
		m.Subject = callsSubject + rest
	}
	if _, err := w.q.store(ctx, m); err != nil {
		w.log.Debug("a call whose time has come must wait on", "err", err)
		_ = msg.NakWithDelay(timeout)
		return
	}
	_ = msg.Ack() // lost, it comes again, and its reader finds that it was carried on
	if call {
		w.lanes.hint(rest)
	}
}

// consume feeds the messages of a stream to handle, one after the other, until
// ctx ends, also across failures of the broker.
func (w *Worker) consume(ctx context.Context, what string, stream jetstream.Stream, config jetstream.ConsumerConfig, handle func(jetstream.Msg)) {
	for ctx.Err() == nil {
		err := func() error {
			consumer, err := stream.CreateOrUpdateConsumer(ctx, config)
			if err != nil {
				return err
			}
			messages, err := consumer.Messages(jetstream.PullMaxMessages(500))
			if err != nil {
				return err
			}
			stop := context.AfterFunc(ctx, messages.Stop)
			defer stop()
			defer messages.Stop()
			for {
				msg, err := messages.Next()
				if err != nil {
					return err
				}
				handle(msg)
			}
		}()
		if ctx.Err() != nil {
			return
		}
		w.log.Debug("lost the queue for a moment", "stream", what, "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// A callback is an answer on its way to somebody who wants to be told.
type callback struct {
	Call   string      `json:"call"`
	URL    string      `json:"url"`
	Header http.Header `json:"header"`
	Object string      `json:"object,omitempty"` // of the body, if it is not in the message
	Tries  int         `json:"tries,omitempty"`  // that failed
	Batch  string      `json:"batch,omitempty"`
}

// putCallback stores the message that tells d's caller what became of it.
func (q *Queue) putCallback(ctx context.Context, d *delivery, c *Call, body []byte, policy Policy) error {
	h := c.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Del("Content-Length")
	h.Set(web.HeaderCallID, callerID(d.job))
	seconds := d.Tries[len(d.Tries)-1].Seconds
	if h.Get("X-Duration-Seconds") == "" {
		h.Set("X-Duration-Seconds", fmt.Sprintf("%f", seconds))
	}
	status := c.Status
	if status == 0 {
		status = http.StatusServiceUnavailable
	}
	h.Set("X-Function-Status", strconv.Itoa(status))
	h.Set("X-Function-Name", d.Request.Function)
	h.Set("X-Retry", strconv.Itoa(len(d.Tries)-1))
	h.Set("X-Retry-Max", strconv.Itoa(policy.Attempts))
	if trace := d.Request.Header.Get("Traceparent"); trace != "" {
		h.Set("Traceparent", trace)
	}
	m, err := callback{Call: d.ID, URL: d.Request.CallbackURL.String(), Header: h, Object: c.Object, Batch: d.Batch}.encode(
		callbacksSubject+d.Ref.Namespace+"."+d.Ref.Name, body)
	if err != nil {
		return err
	}
	if _, err := q.store(ctx, withName(m, "callback/"+tryName(d))); err != nil {
		return full("callbacks: those on their way are not accepted", refused(fmt.Errorf("store a callback: %w", err)))
	}
	return nil
}

func (c callback) encode(subject string, body []byte) (*nats.Msg, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("write a callback: %w", err)
	}
	return &nats.Msg{Subject: subject, Header: nats.Header{headerCallback: {string(text)}}, Data: body}, nil
}

// callerID is what the caller knows the call by: their own id, if they gave
// one.
func callerID(j *job) string {
	if id := j.Request.Header.Get(web.HeaderCallID); id != "" {
		return id
	}
	return j.ID
}
