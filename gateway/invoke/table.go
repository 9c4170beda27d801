package invoke

import (
	"context"
	"iter"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A Scaler asks for replicas of a function. Replicas that are asked for show
// up in the table later, if at all.
type Scaler interface {
	Scale(ctx context.Context, ref function.Ref, replicas int) error
}

// Counters count the calls of one function. Every Started is followed by
// exactly one Finished, with the status of the answer and the time since the
// call arrived. They are called on every request, so they must be quick.
type Counters interface {
	Started()
	Finished(code int, took time.Duration)
}

// TableOptions tune a [Table].
type TableOptions struct {
	// Namespace is the one of functions that are called without; "" is
	// [function.DefaultNamespace].
	Namespace string
	// Scaler wakes functions that sleep; nil leaves them asleep, and their
	// callers wait for somebody else to wake them.
	Scaler Scaler
	// Counters returns the counters of one function. It is called once for
	// every function that enters the table; nil counts nothing.
	Counters func(function.Ref) Counters
	// Alarm is told of a function that is new, changed, or has more requests
	// than [Table.Alarm] has set, which is none to begin with; nil is nobody.
	// It is called on the way of a request, so it must be quick, and must not
	// call the table.
	Alarm func(function.Ref)
	// Removed is told of every function that left the table; nil is nobody.
	Removed func(function.Ref)
	// MaxWaiting is how many requests may wait for one function that does not
	// say so itself, whether for a free slot or for its first replica; 0 is
	// 1000. Each holds its headers in memory, none its body.
	MaxWaiting int
	// WakeTimeout bounds the wait for the first replica of a function that does
	// not say so itself; 0 is the function's load_timeout.
	WakeTimeout time.Duration
	// MaxWait bounds the wait for a free slot; 0 is the function's own
	// exec_timeout.
	MaxWait time.Duration
	// Dial opens connections to replicas; nil gives up after a second, and
	// notices within about ten that a peer is gone without a word.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	Log  *slog.Logger
}

// A Table knows every function and where its replicas are. Whoever watches the
// provider feeds it through Set, Remove and Synced, from one goroutine at a
// time; everything else is safe for concurrent use.
//
// Run does the table's background work, so a table without it serves only
// replicas that are ready when they are set.
type Table struct {
	o     TableOptions
	began time.Time // of the meters' time
	// routes holds each *route under "name.namespace", and those of the
	// default namespace under "name" too: the text in the path of a request
	// finds its route in one look-up, without being parsed.
	routes sync.Map

	synced     chan struct{} // closed by the first Synced
	syncedOnce sync.Once

	mu      sync.Mutex // guards what follows
	jobs    []func(context.Context)
	poke    chan struct{} // says that jobs has grown
	stopped bool
}

// NewTable returns an empty table.
func NewTable(o TableOptions) *Table {
	if o.Namespace == "" {
		o.Namespace = function.DefaultNamespace
	}
	if o.Counters == nil {
		o.Counters = func(function.Ref) Counters { return noCounters{} }
	}
	if o.Removed == nil {
		o.Removed = func(function.Ref) {}
	}
	if o.MaxWaiting == 0 {
		o.MaxWaiting = 1000
	}
	if o.Dial == nil {
		o.Dial = newDialer().DialContext
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Table{o: o, began: time.Now(), synced: make(chan struct{}), poke: make(chan struct{}, 1)}
}

// dialTimeout bounds the making of a connection. Replicas are near: one that
// takes longer cannot be reached, and another may.
const dialTimeout = time.Second

// How soon a peer that is gone without a word is noticed, a machine that lost
// its power for example: while it owes an answer, and while it has not
// acknowledged what was sent.
const (
	keepAliveIdle     = 5 * time.Second
	keepAliveInterval = 2 * time.Second
	keepAliveCount    = 3
	unacknowledged    = 10 * time.Second
)

func newDialer() *net.Dialer {
	return &net.Dialer{
		Timeout:         dialTimeout,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount},
		Control:         boundUnacknowledged,
	}
}

// Run wakes functions and probes replicas until ctx ends. Then it refuses
// those who still wait, closes connections nobody uses, waits for what it
// started, and returns nil. It must not be called twice.
func (t *Table) Run(ctx context.Context) error {
	var jobs sync.WaitGroup
	defer jobs.Wait()
	watch := time.NewTicker(watchPause)
	defer watch.Stop()
	for {
		select {
		case <-ctx.Done():
			t.stop()
			return nil
		case <-watch.C:
			for r := range t.all() {
				r.suspect()
			}
		case <-t.poke:
			t.mu.Lock()
			started := t.jobs
			t.jobs = nil
			t.mu.Unlock()
			for _, job := range started {
				jobs.Go(func() { job(ctx) })
			}
		}
	}
}

func (t *Table) stop() {
	t.mu.Lock()
	t.stopped = true
	t.jobs = nil
	t.mu.Unlock()
	for r := range t.all() {
		r.stop()
	}
}

// background has Run call job. It reports whether Run will, or may once it is
// called.
func (t *Table) background(job func(context.Context)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.jobs = append(t.jobs, job)
	select {
	case t.poke <- struct{}{}:
	default:
	}
	return true
}

// Set enters a function, or replaces what is known about it.
func (t *Table) Set(e function.Endpoints) {
	if t.o.Alarm != nil {
		defer t.o.Alarm(e.Ref)
	}
	if found, ok := t.routes.Load(e.Ref.String()); ok {
		found.(*route).set(e)
		return
	}
	r := newRoute(t, e.Ref)
	r.set(e) // first, so that nobody finds a route that knows nothing
	t.routes.Store(e.Ref.String(), r)
	if e.Namespace == t.o.Namespace {
		t.routes.Store(e.Name, r)
	}
}

// Remove takes a function out. Those who wait for it are told that it is gone;
// requests that replicas are answering go on.
func (t *Table) Remove(ref function.Ref) {
	found, ok := t.routes.LoadAndDelete(ref.String())
	if !ok {
		return
	}
	if ref.Namespace == t.o.Namespace {
		t.routes.Delete(ref.Name)
	}
	found.(*route).remove()
	t.o.Removed(ref)
}

// Synced says that the table now holds every function there is. Until it is
// called for the first time, requests for unknown functions wait.
func (t *Table) Synced() { t.syncedOnce.Do(func() { close(t.synced) }) }

// Ready reports whether the table knows every function there is.
func (t *Table) Ready() bool {
	select {
	case <-t.synced:
		return true
	default:
		return false
	}
}

// All yields what is known about every function, in no order. Replicas are
// Ready, and have Slots, as the table sees them, not as the provider reported
// them.
func (t *Table) All() iter.Seq[function.Endpoints] {
	return func(yield func(function.Endpoints) bool) {
		for r := range t.all() {
			if !yield(r.endpoints()) {
				return
			}
		}
	}
}

func (t *Table) all() iter.Seq[*route] {
	return func(yield func(*route) bool) {
		for key, found := range t.routes.Range {
			if strings.IndexByte(key.(string), '.') < 0 {
				continue // the short name of a function that is also there by its full one
			}
			if !yield(found.(*route)) {
				return
			}
		}
	}
}

// Find returns what is known about a function by the name in a path, NAME or
// NAME.NAMESPACE. Errors are those of a call: fault.NotFound, or
// fault.Unavailable while the table is not complete.
func (t *Table) Find(ctx context.Context, name string) (function.Endpoints, error) {
	r, err := t.find(ctx, name)
	if err != nil {
		return function.Endpoints{}, err
	}
	e := r.endpoints()
	e.Ref = r.ref
	return e, nil
}

// Endpoints returns what is known about ref, as All does. It reports false if
// there is no such function.
func (t *Table) Endpoints(ref function.Ref) (function.Endpoints, bool) {
	found, ok := t.routes.Load(ref.String())
	if !ok {
		return function.Endpoints{}, false
	}
	return found.(*route).endpoints(), true
}

// InFlight is how many requests ref's replicas are answering.
func (t *Table) InFlight(ref function.Ref) int {
	if found, ok := t.routes.Load(ref.String()); ok {
		return found.(*route).inflight.count()
	}
	return 0
}

// OnReplica is how many requests one replica of ref is answering.
func (t *Table) OnReplica(ref function.Ref, id string) int {
	if found, ok := t.routes.Load(ref.String()); ok {
		return found.(*route).onReplica(id)
	}
	return 0
}

// Parted reports whether it is certain that a replica of ref, which the
// provider has said for the nth time is not hot any more, answers no request,
// and gets none before the provider says that it is hot again.
func (t *Table) Parted(ref function.Ref, id string, nth int) bool {
	found, ok := t.routes.Load(ref.String())
	return ok && found.(*route).parted(id, nth)
}

// Waiting is how many requests wait for ref: for a free slot, or for its first
// replica.
func (t *Table) Waiting(ref function.Ref) int {
	if found, ok := t.routes.Load(ref.String()); ok {
		return found.(*route).waiting.count()
	}
	return 0
}

// firstSync bounds how long a request waits for a gateway that has only just
// started to learn which functions there are.
const firstSync = 10 * time.Second

// find returns the route of name, which is NAME or NAME.NAMESPACE. Errors are
// fault.NotFound, or fault.Unavailable when the table is not complete yet.
func (t *Table) find(ctx context.Context, name string) (*route, error) {
	if found, ok := t.routes.Load(name); ok {
		return found.(*route), nil
	}
	if !t.Ready() {
		ctx, cancel := context.WithTimeout(ctx, firstSync)
		defer cancel()
		select {
		case <-t.synced:
		case <-ctx.Done():
			return nil, fault.Unavailable.Errorf("the gateway does not know the functions yet: %w", ctx.Err())
		}
		if found, ok := t.routes.Load(name); ok {
			return found.(*route), nil
		}
	}
	ref, err := function.ParseRef(name, t.o.Namespace)
	if err != nil {
		return nil, fault.NotFound.Errorf("error finding function: %v", err)
	}
	return nil, fault.NotFound.Errorf("error finding function %s: not deployed", ref)
}

type noCounters struct{}

func (noCounters) Started()                    {}
func (noCounters) Finished(int, time.Duration) {}
