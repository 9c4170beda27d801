package invoke

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// A route is one function as the gateway sees it: its replicas, and the
// requests that wait for one.
//
// A request that finds a free slot takes no lock. One that does not joins a
// queue; from then on newcomers join it too, and whoever frees a slot hands it
// to the head. Waiting for a slot and waiting for the first replica are the
// same queue, so that a replica's first requests go out in the order they came
// in, as many as it takes.
type route struct {
	table    *Table
	ref      function.Ref
	counters Counters

	view     atomic.Pointer[view]
	inflight meter
	waiting  meter        // length of queue; a releaser that reads 0 need not lock
	arrived  atomic.Int64 // requests that came
	wish     wish
	alarm    atomic.Int64 // with more requests than that, the table's Alarm is called

	mu       sync.Mutex // guards what follows, and changes of view and waiting
	busy     total      // of inflight
	queued   total      // of waiting
	queue    queue
	replicas []*replica
	waking   bool
	changed  chan struct{} // closed and replaced when view changes
	awake    time.Time     // when it last became usable that was not
	startup  startup       // of the replica that made it so
}

// A view is what requests need to know of a route. It is replaced, never
// changed.
type view struct {
	function.Endpoints
	usable  []*replica
	gone    bool // the function was removed
	stopped bool // the table's Run has ended
}

func newRoute(t *Table, ref function.Ref) *route {
	r := &route{table: t, ref: ref, counters: t.o.Counters(ref), changed: make(chan struct{})}
	r.view.Store(&view{})
	if t.o.Alarm == nil {
		r.alarm.Store(unarmed)
	}
	return r
}

// set takes over what the provider says.
func (r *route) set(e function.Endpoints) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.replicas
	r.replicas = make([]*replica, 0, len(e.Replicas))
	for _, now := range e.Replicas {
		i := slices.IndexFunc(old, func(rep *replica) bool { return rep.ID == now.ID && rep.Address == now.Address })
		var rep *replica
		if i >= 0 {
			rep = old[i]
			old = slices.Delete(slices.Clone(old), i, i+1)
			if rep.Ready && !now.Ready {
				rep.probed = false // it was ready and says that it is not any more
			}
			if rep.Tier != now.Tier || rep.Keeps != now.Keeps {
				rep.probed = false // what it said was before
				rep.transport.forget()
				rep.learned, rep.kept = time.Now(), true
			}
		} else {
			rep = newReplica(now, r.table.o.Dial)
		}
		rep.Ready, rep.Revision, rep.Tier, rep.Keeps, rep.Slots, rep.Guessed, rep.Startup = now.Ready, now.Revision, now.Tier, now.Keeps, now.Slots, now.Guessed, now.Startup
		rep.count(e.Settings.MaxInflight)
		r.replicas = append(r.replicas, rep)
	}
	for _, rep := range old {
		rep.removed = true
		rep.transport.close()
	}
	next := *r.view.Load()
	next.Endpoints = e
	r.show(next)
}

func (r *route) remove() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rep := range r.replicas {
		rep.removed = true
		rep.transport.close()
	}
	r.replicas = nil
	r.show(view{gone: true})
}

func (r *route) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rep := range r.replicas {
		rep.transport.close()
	}
	next := *r.view.Load()
	next.stopped = true
	r.show(next)
}

// show makes next the view, with the replicas that can be used now, and does
// what follows from the change. The caller holds r.mu.
func (r *route) show(next view) {
	next.usable = nil
	for _, rep := range r.replicas {
		rep.closed.Store(!rep.usable())
		if rep.usable() {
			next.usable = append(next.usable, rep)
		}
	}
	if len(next.usable) > 0 && len(r.view.Load().usable) == 0 {
		r.awake = time.Now()
		r.startup = next.usable[0].startup(r.awake)
	}
	r.view.Store(&next)
	close(r.changed)
	r.changed = make(chan struct{})
	r.tend()
}

// tend brings the queue and the replicas forward: it hands out free slots,
// refuses those who wait in vain, and starts the waking and probing that those
// who wait need. The caller holds r.mu.
func (r *route) tend() {
	v := r.view.Load()
	r.handOut(v)
	waiting := r.waiting.count() > 0
	if waiting && len(v.usable) == 0 {
		if err := v.hopeless(r.ref); err != nil {
			r.refuseAll(err)
			waiting = false
		}
	}
	if waiting && r.asleep(v) && !r.waking && r.table.o.Scaler != nil {
		r.waking = r.table.background(r.wake)
	}
	for _, rep := range r.replicas {
		if !rep.probing && r.wants(rep) {
			rep.probing = r.table.background(func(ctx context.Context) { r.probe(ctx, rep) })
		}
	}
}

func (r *route) asleep(v *view) bool { return len(v.usable) == 0 && v.Desired == 0 }

// wants reports whether it is worth finding out if rep answers. The caller
// holds r.mu.
func (r *route) wants(rep *replica) bool {
	switch {
	case rep.removed, rep.Tier != function.Hot:
		return false
	case !rep.usable():
		return rep.refused || r.waiting.count() > 0
	}
	return rep.Guessed && !rep.probed
}

// hopeless says why waiting for a first replica is in vain, or nil.
func (v *view) hopeless(ref function.Ref) error {
	switch {
	case v.gone:
		return fault.NotFound.Errorf("error finding function %s: it was removed", ref)
	case v.stopped:
		return fault.Unavailable.Errorf("function %s is not ready, and the gateway is stopping", ref)
	case v.Failure != "" && v.Desired > 0:
		return fault.Unavailable.Errorf("function %s cannot start: %s", ref, v.Failure)
	}
	return nil
}

// handOut gives free slots to those who wait, first come first served. The
// caller holds r.mu.
func (r *route) handOut(v *view) {
	for r.queue.head != nil {
		rep := r.pick(v)
		if rep == nil {
			return
		}
		w := r.queue.head
		r.leave(w)
		w.replica, w.awake, w.startup = rep, r.awake, r.startup
		close(w.done)
	}
}

func (r *route) refuseAll(err error) {
	for w := r.queue.head; w != nil; w = r.queue.head {
		r.leave(w)
		w.err = err
		close(w.done)
	}
}

func (r *route) leave(w *waiter) {
	r.queue.remove(w)
	r.waiting.end(r.table.clock())
}

// pick takes a slot of the less busy of two replicas chosen at random, or of
// any other if both are full. It returns nil if all are full.
func (v *view) pick() *replica {
	n := len(v.usable)
	if n == 0 {
		return nil
	}
	first, second := v.usable[0], v.usable[0]
	start := 0
	if n > 1 {
		start = rand.IntN(n)
		other := (start + 1 + rand.IntN(n-1)) % n
		first, second = v.usable[start], v.usable[other]
		if second.inflight.Load() < first.inflight.Load() {
			first, second = second, first
		}
	}
	if first.take(1) {
		return first
	}
	if second != first && second.take(1) {
		return second
	}
	for i := range n {
		if rep := v.usable[(start+i)%n]; rep.take(1) {
			return rep
		}
	}
	return nil
}

// A grant is the right to send one request to a replica, and what it took to
// get it, or not to.
type grant struct {
	replica *replica // nil if there was none to be had
	waited  time.Duration
	wake    time.Duration // what of it was the wait for the first replica, and not for a free slot
	startup startup       // what that was spent on; all of it is schedule if nothing is known
}

// acquire takes a slot of a replica, waiting for one if need be. Whoever gets
// one must give it back by release. With mayWait false it does not wait behind
// other requests, but still wakes a function that sleeps.
//
// A request that comes back because a replica turned it away says how long it
// has waited before: that counts, and it goes first.
//
// Errors are fault.Busy when the queue is full or the wait too long,
// fault.Unavailable when no replica got ready in time or none can,
// fault.NotFound when the function is gone, and ctx's own.
func (r *route) acquire(ctx context.Context, mayWait bool, before *grant) (grant, error) {
	if before == nil {
		r.arrived.Add(1)
	}
	if r.waiting.count() == 0 || before != nil {
		if rep := r.pick(r.view.Load()); rep != nil {
			r.watch(r.inflight.begin(r.table.clock()))
			return grant{replica: rep}, nil
		}
	}
	return r.wait(ctx, mayWait, before)
}

func (r *route) wait(ctx context.Context, mayWait bool, before *grant) (grant, error) {
	start := time.Now()
	w, v, err := r.enqueue(mayWait, before != nil)
	if err != nil {
		return grant{}, err
	}
	woke := len(v.usable) == 0
	limit := r.table.o.MaxWait
	switch {
	case woke:
		limit = r.wakeLimit(v)
	case limit == 0:
		limit = v.Settings.ExecTimeout.Std()
	}
	if before != nil && limit == 0 {
		limit = turnedLimit
	}
	var expired <-chan time.Time
	if limit > 0 {
		left := limit
		if before != nil {
			left -= before.waited
		}
		timer := time.NewTimer(left)
		defer timer.Stop()
		expired = timer.C
	}

	select {
	case <-w.done:
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-expired:
		if woke {
			err = r.overslept(limit)
		} else {
			err = busy("function %s had no free slot within %s", r.ref, limit)
		}
	}
	g := grant{waited: time.Since(start)}
	if woke {
		g.wake = g.waited
	}
	if err != nil && r.withdraw(w) {
		return g, err
	}
	// If the slot came at the last moment, it is taken: the request goes out
	// and fails there if its caller is gone.
	if w.err != nil {
		return g, w.err
	}
	r.watch(r.inflight.begin(r.table.clock()))
	g.replica = w.replica
	if woke {
		g.wake = min(g.waited, max(0, w.awake.Sub(start)))
		g.startup = w.startup.within(g.wake)
	}
	return g, nil
}

// maxWakers is how many requests may wait for a function's first replica before
// one that may not wait behind others is refused.
const maxWakers = 32

// wakeLimit is how long a request may wait for the first replica.
func (r *route) wakeLimit(v *view) time.Duration {
	return cmp.Or(v.Settings.WakeTimeout.Std(), r.table.o.WakeTimeout, v.Settings.LoadTimeout.Std())
}

// overslept is the error of a request that no replica was ready for in time.
func (r *route) overslept(limit time.Duration) error {
	v := r.view.Load()
	why := cmp.Or(v.Failure, v.Waiting)
	if why != "" {
		why = ": " + why
	}
	return &web.Retry{After: retryAfter, Err: fault.Unavailable.Errorf("function %s was not ready within %s%s", r.ref, limit, why)}
}

func (r *route) enqueue(mayWait, again bool) (*waiter, *view, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.view.Load()
	if len(v.usable) == 0 {
		if err := v.hopeless(r.ref); err != nil {
			return nil, nil, err
		}
	}
	// A caller that may not wait behind others may still be among the first to
	// wait for a replica.
	switch {
	case mayWait:
	case len(v.usable) > 0:
		if rep := r.pick(v); rep != nil {
			w := &waiter{done: make(chan struct{}), replica: rep}
			close(w.done)
			return w, v, nil
		}
		return nil, nil, busy("all replicas of function %s are busy", r.ref)
	case r.waiting.count() >= maxWakers:
		return nil, nil, busy("enough requests wait for the first replica of function %s", r.ref)
	}
	if most := cmp.Or(v.Settings.MaxWaiting, r.table.o.MaxWaiting); r.waiting.count() >= most && !again {
		why := ""
		if v.Waiting != "" && len(v.usable) == 0 {
			why = ", which has no replica yet: " + v.Waiting
		}
		return nil, nil, busy("%d requests wait for function %s already%s", most, r.ref, why)
	}
	w := &waiter{done: make(chan struct{})}
	if again {
		r.queue.pushFront(w)
	} else {
		r.queue.push(w)
	}
	// Counted before slots are looked at for the last time: a slot is either
	// seen there or freed by somebody who sees the count.
	waiting := r.waiting.begin(r.table.clock())
	r.tend()
	r.watch(r.inflight.count() + waiting)
	return w, v, nil
}

// withdraw takes w out of the queue. It reports false if w has been served.
func (r *route) withdraw(w *waiter) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-w.done:
		return false
	default:
		r.leave(w)
		return true
	}
}

// release gives back what acquire took.
func (r *route) release(rep *replica) {
	now := r.table.clock()
	r.inflight.end(now)
	rep.pace.last.Store(now)
	rep.inflight.Add(-1)
	if r.waiting.count() > 0 {
		r.mu.Lock()
		r.handOut(r.view.Load())
		r.mu.Unlock()
	}
}

// Pauses of a replica that has turned a request away. They grow while it goes
// on doing so.
const (
	firstFull = 2 * time.Millisecond
	lastFull  = 64 * time.Millisecond
	// turnedLimit bounds how long a call goes on trying whose function may
	// take forever.
	turnedLimit = time.Minute
)

// turnedAway keeps requests from a replica for a moment, that had no room for
// one although this gateway knew of a free slot: other gateways use it too.
func (r *route) turnedAway(rep *replica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rep.removed || rep.full.Load() {
		return
	}
	pause := min(firstFull<<min(rep.turned.Add(1)-1, 10), lastFull)
	rep.full.Store(true)
	started := r.table.background(func(ctx context.Context) {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		rep.full.Store(false)
		r.handOut(r.view.Load())
	})
	if !started {
		rep.full.Store(false)
	}
}

// refuse takes a replica that could not be reached out of use until it answers
// a probe.
func (r *route) refuse(rep *replica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rep.refused || rep.removed {
		return
	}
	rep.refused, rep.probed = true, false
	rep.learned, rep.listened, rep.kept = time.Now(), time.Time{}, false
	rep.transport.forget()
	r.table.o.Log.Warn("replica cannot be reached", "function", r.ref, "replica", rep.ID)
	r.show(*r.view.Load())
}

// Attempts to wake a function, and the pause between them.
const (
	wakeTries   = 20
	wakePause   = 100 * time.Millisecond
	wakeTimeout = 10 * time.Second // of one attempt
	wakeNotice  = 5 * time.Second  // for the provider to tell that it wants replicas
)

// wake asks for replicas until the provider says that it wants some, nobody
// waits any more, or there is no hope. At most one runs for a route.
func (r *route) wake(ctx context.Context) {
	for try := 1; ; try++ {
		replicas, changed := r.stillAsleep(ctx)
		if replicas == 0 {
			return
		}
		err := r.scale(ctx, replicas)
		pause := wakeNotice
		if err != nil {
			r.table.o.Log.Warn("cannot wake function", "function", r.ref, "try", try, "err", err)
			if try == wakeTries || permanent(err) {
				r.mu.Lock()
				r.waking = false
				r.refuseAll(fault.Unavailable.Errorf("function %s is asleep and cannot be woken: %w", r.ref, err))
				r.mu.Unlock()
				return
			}
			pause = wakePause
		}
		select {
		case <-changed:
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// stillAsleep returns how many replicas to ask for, and a channel that is
// closed when that may have changed. When there is nothing to do it returns 0
// and marks the waking as over.
func (r *route) stillAsleep(ctx context.Context) (replicas int, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.view.Load()
	if ctx.Err() != nil || r.waiting.count() == 0 || !r.asleep(v) {
		r.waking = false
		return 0, nil
	}
	return max(1, v.Min), r.changed
}

func (r *route) scale(ctx context.Context, replicas int) error {
	ctx, cancel := context.WithTimeout(ctx, wakeTimeout)
	defer cancel()
	return r.table.o.Scaler.Scale(ctx, r.ref, replicas)
}

// permanent reports whether asking again is in vain.
func permanent(err error) bool {
	for _, kind := range []fault.Kind{fault.NotFound, fault.Invalid, fault.Denied, fault.Unauthenticated, fault.Unsupported} {
		if errors.Is(err, kind) {
			return true
		}
	}
	return false
}

// Pauses between probes of one replica.
const (
	firstProbe = time.Millisecond
	slowProbe  = 25 * time.Millisecond
)

// probe asks rep whether it is ready until it is or nobody wants to know any
// more. At most one runs for a replica.
func (r *route) probe(ctx context.Context, rep *replica) {
	for pause := firstProbe; ; pause = min(pause+pause/2, slowProbe) {
		if r.probed(ctx, rep, rep.answers(ctx)) {
			return
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// probed takes in the result of a probe, and reports whether it was the last.
func (r *route) probed(ctx context.Context, rep *replica, said probeAnswer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if said.listens && rep.listened.IsZero() {
		rep.listened = time.Now()
	}
	if said.ready && !rep.removed {
		rep.probing, rep.probed, rep.refused = false, true, false
		rep.capacity = said.capacity
		rep.count(r.view.Load().Settings.MaxInflight)
		r.show(*r.view.Load())
		return true
	}
	rep.probing = ctx.Err() == nil && r.wants(rep)
	return !rep.probing
}

// parted is [Table.Parted] for the replica of that name.
func (r *route) parted(id string, nth int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	rep := r.find(id)
	return rep != nil && rep.Tier != function.Hot && rep.Keeps == nth && rep.parted()
}

// onReplica is how many requests the replica of that name is answering.
func (r *route) onReplica(id string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rep := r.find(id); rep != nil {
		return int(rep.inflight.Load())
	}
	return 0
}

// find returns the replica of that name, or nil. The caller holds r.mu.
func (r *route) find(id string) *replica {
	for _, rep := range r.replicas {
		if rep.ID == id {
			return rep
		}
	}
	return nil
}

func (r *route) endpoints() function.Endpoints {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.view.Load().Endpoints
	e.Ref = r.ref
	e.Replicas = make([]function.Replica, len(r.replicas))
	for i, rep := range r.replicas {
		e.Replicas[i] = rep.Replica
		e.Replicas[i].Ready = rep.usable()
		e.Replicas[i].Slots = int(rep.slots.Load())
	}
	return e
}

// retryAfter is what callers are told when a function is full. Slots come free
// at the pace of calls, which nobody knows in advance.
const retryAfter = time.Second

func busy(format string, args ...any) error {
	return &web.Retry{After: retryAfter, Err: fault.Busy.Errorf(format, args...)}
}

// A waiter is a request without a slot. done is closed once replica or err is
// set.
type waiter struct {
	done       chan struct{}
	replica    *replica
	awake      time.Time // as the route's, when replica was set
	startup    startup
	err        error
	prev, next *waiter
}

// A queue is a list of waiters, first come first.
type queue struct{ head, tail *waiter }

func (q *queue) push(w *waiter) {
	if w.prev = q.tail; w.prev != nil {
		w.prev.next = w
	} else {
		q.head = w
	}
	q.tail = w
}

func (q *queue) pushFront(w *waiter) {
	if w.next = q.head; w.next != nil {
		w.next.prev = w
	} else {
		q.tail = w
	}
	q.head = w
}

func (q *queue) remove(w *waiter) {
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.head = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.tail = w.prev
	}
	w.prev, w.next = nil, nil
}
