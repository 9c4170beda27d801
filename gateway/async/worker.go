package async

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/web"
)

// WorkerOptions are what a [Worker] needs. Zero values mean the default in the
// field's comment.
type WorkerOptions struct {
	// Name is the queue that is worked on; "" is [DefaultQueue], and "*" every
	// queue.
	Name string
	// Gateway carries the calls to the gateway, which answers at URL. Both are
	// needed.
	Gateway http.RoundTripper
	URL     *url.URL
	// Queued is the header that tells the gateway not to let a call wait, and
	// how many others do: "5+95" says that five calls of its function, those that
	// run included, would run now if there were room, and 95 come after these.
	Queued string
	// Submitter names a header that tells the gateway who submitted a call, escaped
	// as in a query; "" tells nobody.
	Submitter string
	// MaxInflight is how many calls run at once; 0 is 256. MaxPerFunction is
	// how many of one function; 0 is 100.
	MaxInflight, MaxPerFunction int
	// Policy is for functions whose annotations say nothing else; zero is
	// [DefaultPolicy].
	Policy Policy
	// Poll is how often the worker looks for calls that nobody told it of; 0
	// is two seconds.
	Poll time.Duration
	// Hold is how long a call waits that has run, and for whose outcome there
	// is no room, before that is tried again; 0 is 15 seconds.
	Hold time.Duration
	// Drain is how long calls may go on when Run's context ends; 0 cuts them
	// off.
	Drain    time.Duration
	Callback CallbackOptions
	// Tracer makes a span of each try and of each callback; nil makes none.
	Tracer *trace.Tracer
}

// A Worker runs the calls of a queue. Several may work on one queue.
type Worker struct {
	q       *Queue
	o       WorkerOptions
	log     *slog.Logger
	lanes   *lanes
	calls   sync.WaitGroup
	settler *settler
	past    *past
	ctx     context.Context
	next    *callbacks

	mu   sync.Mutex
	held map[string]*delivery // calls that were fetched, by id
}

// NewWorker returns a worker. It does nothing until [Worker.Run].
func NewWorker(q *Queue, o WorkerOptions) *Worker {
	o.Name = cmp.Or(o.Name, DefaultQueue)
	o.MaxInflight = cmp.Or(o.MaxInflight, 256)
	o.MaxPerFunction = cmp.Or(o.MaxPerFunction, 100)
	o.Poll = cmp.Or(o.Poll, 2*time.Second)
	o.Hold = cmp.Or(o.Hold, 15*time.Second)
	if o.Policy.Attempts == 0 {
		o.Policy = DefaultPolicy()
	}
	w := &Worker{q: q, o: o, log: q.o.Log, held: map[string]*delivery{}}
	w.lanes = newLanes(o.MaxInflight, o.MaxPerFunction, w.begin)
	w.next = newCallbacks(w)
	w.settler = newSettler(w)
	return w
}

// Run works from when the queue is open until ctx ends; then it starts no more calls, lets those that run
// finish within WorkerOptions.Drain, gives back the others, and returns nil.
// It must not be called twice. It returns an error if the connection was
// closed.
func (w *Worker) Run(ctx context.Context) error {
	if !w.look(ctx) {
		return nil // told to stop before there was anything to do
	}
	running, cutOff := context.WithCancel(context.WithoutCancel(ctx))
	defer cutOff()
	w.ctx = running
	for _, listen := range []struct {
		subject string
		handle  nats.MsgHandler
	}{{hintSubject, w.hinted}, {cancelSubject, w.cancelled}, {askSubject, w.asked}} {
		sub, err := w.q.nc.Subscribe(listen.subject, listen.handle)
		if err != nil {
			return unavailable(fmt.Errorf("listen on %s: %w", listen.subject, err))
		}
		defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	}

	w.settler.start()
	var parts sync.WaitGroup
	for range fetchers {
		parts.Go(w.fetchAll)
	}
	parts.Go(func() { w.discover(ctx) })
	parts.Go(func() { w.bringBack(ctx) })
	parts.Go(func() { w.sweepAll(ctx) })
	parts.Go(func() { w.next.run(ctx) })
	beating, stopBeating := context.WithCancel(running)
	var heart sync.WaitGroup
	heart.Go(func() { w.beat(beating) })

	<-ctx.Done()
	for _, d := range w.lanes.close() {
		_ = d.msg.Nak() // else the broker waits until the lease ends
	}
	timer := time.AfterFunc(w.o.Drain, cutOff)
	w.calls.Wait()
	timer.Stop()
	w.settler.stop()
	stopBeating()
	parts.Wait()
	heart.Wait()
	flush, cancel := context.WithTimeout(running, timeout)
	defer cancel()
	_ = w.q.nc.FlushWithContext(flush) // acknowledgements that stay behind repeat their calls
	return nil
}

// look notes which calls are there already, as soon as the queue can say. It
// returns false if ctx ends before.
func (w *Worker) look(ctx context.Context) bool {
	select {
	case <-w.q.Opened():
	case <-ctx.Done():
		return false
	}
	for {
		var err error
		if w.past, err = w.q.newPast(ctx); err == nil {
			return true
		}
		if ctx.Err() == nil {
			w.log.Warn("the worker cannot look at the queue; trying again", "err", err)
		}
		select {
		case <-time.After(w.o.Poll):
		case <-ctx.Done():
			return false
		}
	}
}

// hinted is told of each call that a gateway accepts.
func (w *Worker) hinted(m *nats.Msg) {
	if where := string(m.Data); w.mine(where) {
		w.lanes.hint(where)
	}
}

// mine reports whether a call with this subject is of the worker's queue.
func (w *Worker) mine(where string) bool {
	queue, _, _ := strings.Cut(where, ".")
	return w.o.Name == "*" || queue == w.o.Name
}

// discover finds the functions that have calls, also those nobody hinted at:
// of a time before this worker, or of another worker that is gone.
func (w *Worker) discover(ctx context.Context) {
	tick := time.NewTicker(w.o.Poll)
	defer tick.Stop()
	for {
		backlog, err := w.q.backlog(ctx)
		if err != nil && ctx.Err() == nil {
			w.log.Warn("cannot look for calls", "err", err)
		}
		for where := range backlog {
			if w.mine(where) {
				w.lanes.hint(where)
			}
		}
		w.lanes.forget(time.Now().Add(-lingers))
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// fetchAll fetches for one function after the other until the lanes close.
func (w *Worker) fetchAll() {
	for {
		l, n := w.lanes.next()
		if l == nil {
			return
		}
		got, pending, full, err := w.fetch(l, n)
		if err != nil {
			l.consumer, l.lost = nil, true // made again by the next fetch
			w.log.Debug("cannot fetch calls", "function", l.where, "err", err)
		}
		w.lanes.fetched(l, got, pending, full, err != nil)
	}
}

// fetch gets up to n calls of l. It returns how many messages there were besides
// the last one, and reports whether there may be more.
func (w *Worker) fetch(l *lane, n int) (got []*delivery, pending int, full bool, err error) {
	if l.consumer == nil {
		ctx, cancel := context.WithTimeout(w.ctx, timeout)
		defer cancel()
		l.consumer, err = w.q.calls.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Name:              "work-" + strings.ReplaceAll(l.where, ".", "_"),
			FilterSubject:     callsSubject + l.where,
			AckPolicy:         jetstream.AckExplicitPolicy,
			AckWait:           ackWait,
			MaxAckPending:     maxHeld,
			MemoryStorage:     true, // on as many servers as the stream
			InactiveThreshold: lingers,
		})
		if err != nil {
			return nil, 0, false, err
		}
	}
	batch, err := l.consumer.FetchNoWait(n)
	if err != nil {
		return nil, 0, false, err
	}
	received := 0
	for msg := range batch.Messages() {
		received++
		d, behind := w.take(l, msg)
		if d != nil {
			got = append(got, d)
		}
		pending = behind
	}
	w.past.suspects(w.ctx, got)
	if err := batch.Error(); err != nil {
		return got, pending, false, err
	}
	return got, pending, received == n, nil
}

// take makes a delivery of a message, behind which so many wait. What is no call
// goes away: nothing could ever run it.
func (w *Worker) take(l *lane, msg jetstream.Msg) (d *delivery, behind int) {
	meta, err := msg.Metadata()
	if err != nil {
		w.log.Error("a message of the queue is none", "err", err)
		return nil, 0
	}
	behind = int(meta.NumPending)
	j, err := decode(l.where, msg.Headers(), msg.Data(), meta.Sequence.Stream)
	if err != nil {
		w.log.Error("a message in the queue is no call", "subject", msg.Subject(), "err", err)
		_ = msg.Term() // else it is delivered again, and dropped again
		return nil, behind
	}
	d = &delivery{job: j, lane: l, msg: msg, seq: meta.Sequence.Stream}
	// Of the calls that were there before the worker, those may have been run
	// that a worker before it may have held: the first ones.
	d.old = d.seq <= w.past.last && l.taken < maxHeld
	l.taken++
	d.suspect = j.Keyed || len(j.Tries) > 0 || meta.NumDelivered > 1 || d.old && l.lost
	w.mu.Lock()
	w.held[j.ID] = d
	w.mu.Unlock()
	return d, behind
}

// drop forgets d, which is settled or somebody else's.
func (w *Worker) drop(d *delivery) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.held[d.ID] == d {
		delete(w.held, d.ID)
	}
}

// cancelled stops a call if it is here.
func (w *Worker) cancelled(m *nats.Msg) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if d, ok := w.held[string(m.Data)]; ok {
		d.cancelled = true
		if d.stop != nil {
			d.stop()
		}
	}
}

// asked tells whether a call runs here, or which ones do.
func (w *Worker) asked(m *nats.Msg) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if string(m.Data) == askForAll {
		var ids strings.Builder
		for id, d := range w.held {
			if d.stop != nil && !d.leaving {
				ids.WriteString(id + "\n")
			}
		}
		_ = m.Respond([]byte(ids.String())) // nobody hears it: the calls count as waiting
		return
	}
	if d, ok := w.held[string(m.Data)]; ok && d.stop != nil {
		_ = m.Respond([]byte(Running)) // nobody hears it: the call counts as waiting
	}
}

// beat extends the leases of all calls that are held.
func (w *Worker) beat(ctx context.Context) {
	tick := time.NewTicker(ackWait / 3)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		w.mu.Lock()
		held := make([]jetstream.Msg, 0, len(w.held))
		for _, d := range w.held {
			held = append(held, d.msg)
		}
		w.mu.Unlock()
		for _, msg := range held {
			_ = msg.InProgress() // an answer that is lost comes again
		}
	}
}

// begin runs d in a goroutine of its own, and then what may follow it.
func (w *Worker) begin(d *delivery) {
	w.calls.Go(func() {
		for d != nil {
			d = w.work(d)
		}
	})
}

// work runs d. It returns another call that may run now, if there is one.
func (w *Worker) work(d *delivery) (next *delivery) {
	w.q.o.Meter.Running(d.Queue, d.Ref, 1)
	v, good := w.run(d)
	w.q.o.Meter.Running(d.Queue, d.Ref, -1)
	switch {
	case v != giveBack:
		if !d.leaving {
			w.drop(d)
		}
		return w.lanes.ended(d, good)
	case !w.lanes.refused(d):
		w.drop(d)
		_ = d.msg.Nak() // else the broker waits until the lease ends
	}
	return nil
}

// run tries d once and does what follows. It reports whether the function was
// there.
func (w *Worker) run(d *delivery) (v verdict, good bool) {
	ctx, stop := context.WithCancel(w.ctx)
	defer stop()
	w.mu.Lock()
	cancelled := d.cancelled
	d.stop = stop
	w.mu.Unlock()
	if d.suspect {
		ours, err := w.stillToDo(ctx, d)
		if err != nil {
			w.log.Warn("cannot tell whether a call was run before", "call", d.ID, "err", err)
			_ = d.msg.NakWithDelay(time.Second)
			return leaveAlone, true
		}
		if !ours {
			if !d.held {
				w.ack(d)
			}
			return leaveAlone, true
		}
	}
	if cancelled {
		w.ack(d) // whoever cancelled it has stored that
		return leaveAlone, true
	}
	started := time.Now()
	w.beginTry(ctx, d, started)
	a := w.try(ctx, d)
	defer a.close()
	defer func() { d.endTry(v, a) }()
	if w.ctx.Err() != nil && a.outcome.status == 0 {
		_ = d.msg.Nak() // the worker stops
		return leaveAlone, true
	}
	w.mu.Lock()
	a.outcome.cancelled = d.cancelled && a.outcome.status == 0
	w.mu.Unlock()
	policy := w.o.Policy.with(d.Request.Annotations)
	v = policy.judge(len(d.Tries)+1, a.outcome)
	if v == giveBack {
		return v, true
	}
	t := Try{Started: started.UTC(), Seconds: time.Since(started).Seconds(), Status: a.outcome.status}
	switch v {
	case settle:
	case callItOff:
		t.Reason = "it was cancelled"
	default:
		t.Reason = a.why()
	}
	if err := w.conclude(d, v, a, t, policy); err != nil {
		// The broker delivers the call again; what was stored is stored again.
		w.log.Warn("what became of a call cannot be stored; it is run again", "call", d.ID, "err", err)
		_ = d.msg.NakWithDelay(time.Second)
	}
	return v, !a.outcome.platform
}

// stillToDo reports whether d, which may not be new, is still to be run, and
// takes hold of it if it has a key. If d has run and was held, it carries on
// from there.
func (w *Worker) stillToDo(ctx context.Context, d *delivery) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		c, body, err := w.q.record(ctx, d.ID)
		if isNotFound(err) {
			if c, _, err = w.q.bundled(ctx, d.ID); isNotFound(err) {
				return true, nil
			}
		}
		if err != nil {
			return false, err
		}
		switch {
		case c.State == Cancelled:
			w.q.dropBody(ctx, d.job) // whoever cancelled it while it waited for a try did not have it
			return false, nil
		case c.State.Ended():
			return false, nil
		case c.Outcome != "" && len(c.Tries) > len(d.Tries):
			d.held = true
			return w.resume(ctx, d, c, body)
		case len(c.Tries) > len(d.Tries):
			return false, nil // the next try is in the queue already
		case !d.Keyed || len(d.Tries) > 0:
			return true, nil
		case c.Message == d.seq:
			return true, nil
		case c.Message != 0:
			return false, nil // the same call, submitted twice
		}
		c.Message = d.seq
		if err := w.q.putRecord(ctx, c, nil, c.seq); !errors.Is(err, errConflict) {
			return err == nil, err
		}
	}
}

// ack tells the broker that the call is settled.
func (w *Worker) ack(d *delivery) {
	if err := d.msg.Ack(); err != nil {
		w.log.Warn("a call is settled and may be run again", "call", d.ID, "err", err)
	}
}

// An answer is what a try brought.
type answer struct {
	outcome
	reason string // why there is no answer
	maker  string // of the answer, if it is not the function
	header http.Header
	body   []byte        // the body, or where it is large its beginning
	rest   io.ReadCloser // what follows; nil if body is all of it
	close  func()
}

// try sends d to its function.
func (w *Worker) try(ctx context.Context, d *delivery) *answer {
	a := &answer{close: func() {}}
	req, err := w.request(ctx, d)
	if err != nil {
		a.reason = err.Error()
		return a
	}
	resp, err := w.o.Gateway.RoundTrip(req) //nolint:bodyclose // answer.close does
	if err != nil {
		a.reason = fmt.Sprintf("the gateway gave no answer: %v", err)
		return a
	}
	a.close = func() { resp.Body.Close() }
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, int64(w.q.o.InlineBody)+1))
	if err != nil {
		a.reason = fmt.Sprintf("the answer broke off: %v", err)
		return a
	}
	if len(a.body) > w.q.o.InlineBody {
		a.rest = resp.Body
	}
	a.maker = resp.Header.Get(web.HeaderInternal)
	a.platform = a.maker != ""
	// The call's token will not be a better one; what the gateway refuses are the
	// worker's own credentials, which somebody may put right.
	a.refused = a.maker == "watchdog" && (resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden)
	a.retryAfter = readRetryAfter(resp.Header.Get("Retry-After"), time.Now())
	a.status, a.header = resp.StatusCode, resp.Header
	dropHopByHop(a.header)
	return a
}

// why says why the answer is no success.
func (a *answer) why() string {
	if a.status == 0 {
		return a.reason
	}
	return fmt.Sprintf("%s answered %d: %s", cmp.Or(a.maker, "the function"), a.status, excerpt(a.body))
}

// excerpt returns the first words of a body, for people.
func excerpt(body []byte) string {
	const most = 300
	text := strings.TrimSpace(strings.ToValidUTF8(string(body[:min(len(body), most)]), "?"))
	if len(body) > most {
		text += "…"
	}
	return text
}

// request makes the request to the gateway out of a call.
func (w *Worker) request(ctx context.Context, d *delivery) (*http.Request, error) {
	r := &d.Request
	target := w.o.URL.Scheme + "://" + w.o.URL.Host + w.o.URL.Path + "/function/" + r.Function + r.Path
	if r.QueryString != "" {
		target += "?" + r.QueryString
	}
	var body io.Reader = bytes.NewReader(r.Body)
	length := int64(len(r.Body))
	if d.Object != "" {
		object, err := w.q.requests.Get(ctx, d.Object)
		if err != nil {
			return nil, fmt.Errorf("the body of the call cannot be read: %w", err)
		}
		info, err := object.Info()
		if err != nil {
			return nil, fmt.Errorf("the body of the call cannot be read: %w", err)
		}
		body, length = object, int64(info.Size)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, body)
	if err != nil {
		return nil, fmt.Errorf("the call cannot be made: %w", err)
	}
	req.ContentLength = length
	if req.Header = maps.Clone(r.Header); req.Header == nil { // values are replaced, never changed
		req.Header = http.Header{}
	}
	req.Host = r.Host
	req.Header.Del("Content-Length")
	if req.Header.Get(web.HeaderCallID) == "" {
		req.Header.Set(web.HeaderCallID, d.ID)
	}
	if w.o.Queued != "" {
		req.Header.Set(w.o.Queued, d.backlog)
	}
	if w.o.Submitter != "" {
		req.Header.Del(w.o.Submitter) // callers do not say it
		if d.Caller != "" {
			req.Header.Set(w.o.Submitter, url.QueryEscape(d.Caller))
		}
	}
	if d.Batch != "" {
		req.Header.Set("X-Batch-Id", d.Batch)
		req.Header.Set("X-Batch-Index", strconv.Itoa(d.Index))
	}
	d.span.Inject(req.Header)
	return req, nil
}
