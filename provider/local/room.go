package local

import (
	"fmt"
	"sync"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

const (
	// A part of the machine's memory is left to everything else: a twentieth,
	// within these bounds.
	leastReserve, mostReserve = 64 << 20, 512 << 20
	// highPressure is the share of time, in percent, in which processes wait
	// for memory and from which kept replicas go.
	highPressure = 20
	// firstWeigh is after how long it is measured again what a replica takes;
	// each time it is twice as long, up to lastWeigh. Reading the kernel's tables
	// of a large process costs some milliseconds.
	firstWeigh, lastWeigh = 10 * time.Second, 5 * time.Minute
	// weighAfter is when a replica that became ready has what it needs.
	weighAfter = time.Second
	// enough replicas for memory to bound nothing.
	enough = 64
	// crampedPause is between looks whether there is memory for a replica.
	crampedPause = 200 * time.Millisecond
)

// A ledger accounts for the memory of all replicas.
type ledger struct {
	most int64 // that all may have together; 0 is no bound
	free func() (free, total int64, err error)

	mu       sync.Mutex // guards what follows; taken after a supervisor's
	holdings map[*replica]*holding
}

// A holding is what one replica takes.
type holding struct {
	bytes  int64
	at     time.Time     // when it was measured; zero: bytes are expected
	again  time.Duration // until it is measured again
	colder chan chill    // of one that is kept
	kept   time.Time
}

func newLedger(most int64, free func() (int64, int64, error)) *ledger {
	return &ledger{most: most, free: free, holdings: map[*replica]*holding{}}
}

// expect enters a replica that is being started.
func (l *ledger) expect(r *replica, bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.holdings[r] = &holding{bytes: bytes}
}

// measured enters what a replica takes.
func (l *ledger) measured(r *replica, bytes int64, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.holdings[r]; ok {
		e.bytes, e.at, e.again = bytes, now, min(max(2*e.again, firstWeigh), lastWeigh)
	}
}

// due reports whether a replica should be measured again.
func (l *ledger) due(r *replica, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.holdings[r]
	return ok && now.Sub(e.at) >= e.again
}

// keep enters that a replica is only kept, and how to have it hold less.
func (l *ledger) keep(r *replica, colder chan chill) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.holdings[r]; ok {
		e.colder = colder
		if e.kept.IsZero() {
			e.kept = time.Now()
		}
	}
}

// release enters that a replica is not only kept any more.
func (l *ledger) release(r *replica) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.holdings[r]; ok {
		e.colder, e.kept = nil, time.Time{}
	}
}

// forget removes a replica that has ended.
func (l *ledger) forget(r *replica) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.holdings, r)
}

// A balance is how the memory stands.
type balance struct {
	free   int64 // for replicas that are not started yet; may be less than 0
	spare  int64 // that kept replicas hold, and give back when it is needed
	oldest *holding
}

// stands returns the balance. l.mu is held.
func (l *ledger) stands() (balance, error) {
	free, total, err := l.free()
	if err != nil {
		return balance{}, err
	}
	b := balance{free: free - min(max(total/20, leastReserve), mostReserve)}
	var used int64
	for _, e := range l.holdings {
		used += e.bytes
		if e.at.IsZero() {
			b.free -= e.bytes // it will take it yet
		}
		if e.colder != nil {
			b.spare += e.bytes
			if b.oldest == nil || e.kept.Before(b.oldest.kept) {
				b.oldest = e
			}
		}
	}
	if l.most > 0 {
		b.free = min(b.free, l.most-used)
	}
	return b, nil
}

// relieve has the replica that has been kept for the longest time hold less.
// l.mu is held.
func (b balance) relieve(c chill) {
	if b.oldest == nil {
		return
	}
	select {
	case b.oldest.colder <- c:
	default: // it has been told
	}
}

// admit returns how many of n more replicas that take bytes each can be
// started. If not all can, kept ones are told to go, and coming says that it is
// worth to ask again soon; otherwise why says what is missing.
func (l *ledger) admit(name function.Ref, n int, bytes int64) (fit int, coming bool, why string) {
	if bytes == 0 {
		return n, false, ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, err := l.stands()
	if err != nil {
		return n, false, "" // what cannot be measured bounds nothing
	}
	if fit = int(max(0, b.free) / bytes); fit >= n {
		return n, false, ""
	}
	if b.oldest != nil {
		b.relieve(chill{why: fmt.Sprintf("memory was needed for %s", name), all: true})
		return fit, true, ""
	}
	return fit, false, fmt.Sprintf("there is not enough memory: a replica takes %s, and %s are free", mebibytes(bytes), mebibytes(b.free))
}

// admit returns how many of n more replicas are started now, and when to try
// the others. f.mu is held.
func (f *supervisor) admit(n int) (fit int, again time.Duration) {
	if n == 0 {
		return 0, 0
	}
	fit, coming, why := f.rt.ledger.admit(f.ref, n, f.cost)
	if why == "" || f.cramped == "" { // the first reason counts: what is free changes all the time
		f.cramped = why
	}
	if coming || fit < n {
		again = crampedPause
	}
	return fit, again
}

// balance measures what replicas take, has kept ones hold less when memory is
// short, and works out how many more there can be.
func (r *Runtime) balance(now time.Time) error {
	all := r.everyone()
	var table map[int]processInfo
	for _, f := range all {
		for _, rep := range f.live() {
			if !f.settledIn(rep, now) || !r.ledger.due(rep, now) {
				continue
			}
			if table == nil {
				var err error
				if table, err = processes(); err != nil {
					return err
				}
			}
			rep.weigh(table)
		}
	}
	r.ledger.mu.Lock()
	b, err := r.ledger.stands()
	if err != nil {
		r.ledger.mu.Unlock()
		return err
	}
	if pressure := memoryPressure(); b.free < 0 {
		b.relieve(chill{why: "memory was short"})
	} else if pressure >= highPressure {
		b.relieve(chill{why: fmt.Sprintf("processes waited for memory during %.0f %% of the time", pressure)})
	}
	r.ledger.mu.Unlock()
	for _, f := range all {
		f.setRoom(max(0, b.free)+b.spare, b.free)
	}
	return nil
}

// settledIn reports whether the replica serves, and has for a moment.
func (f *supervisor) settledIn(r *replica, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return r.ready && !r.leaving && now.Sub(r.readyAt) >= weighAfter
}

// weigh measures what the replica takes.
func (r *replica) weigh(table map[int]processInfo) {
	bytes := shared(table, r.process().PID())
	r.f.rt.ledger.measured(r, bytes, time.Now())
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	if r.tier == function.Hot && r.keeping == nil {
		r.f.cost = bytes
	}
}

// staying is how many replicas are not about to leave. f.mu is held.
func (f *supervisor) staying() (n int) {
	for _, r := range f.replicas {
		if !r.leaving {
			n++
		}
	}
	return n
}

// setRoom works out how many replicas there can be, of which each takes its
// part of bytes.
func (f *supervisor) setRoom(bytes, free int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	running := f.staying()
	var room *function.Room
	if f.cost > 0 {
		if n := running + int(bytes/f.cost); n < enough {
			room = &function.Room{Replicas: n, Reason: fmt.Sprintf("memory: a replica takes %s, and %s are free", mebibytes(f.cost), mebibytes(free))}
		}
	}
	if room != nil && f.room != nil && room.Replicas == f.room.Replicas {
		return // what is free changes all the time
	}
	f.room = room
	f.report()
}

func mebibytes(bytes int64) string { return fmt.Sprintf("%d MiB", max(0, bytes)>>20) }
