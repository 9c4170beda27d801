package async

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/gateway/trace"
)

// Sizes of the scheduling.
const (
	quantum    = 64                     // messages that are fetched for a function before it is the next one's turn
	fetchers   = 16                     // functions that are fetched for at once
	fetchAgain = 200 * time.Millisecond // after a fetch that failed
	ackWait    = 30 * time.Second
	maxHeld    = 4096            // calls of one function that all workers together hold
	lingers    = 5 * time.Second // how long a function's consumer outlives its last message
)

// A delivery is a call that a worker holds.
type delivery struct {
	*job
	lane      *lane
	msg       jetstream.Msg
	seq       uint64
	old       bool // it was there before the worker, which one before may have held
	suspect   bool // it may have been run before
	leaving   bool // the settler has it; guarded by Worker.mu
	held      bool // it has a record for want of room
	cancelled bool // guarded by the worker's mu
	stop      context.CancelFunc
	span      *trace.Span // of the try that runs
	backlog   string      // what the gateway is told of its function's calls
}

// A lane is one function of one queue.
type lane struct {
	where    string // subject without its prefix
	consumer jetstream.Consumer
	taken    int  // messages so far
	lost     bool // a consumer, and with it how often it has delivered what
	limit    limit

	buffer   []*delivery // fetched, not started
	running  int
	pending  int  // messages that the broker had after the last fetch
	more     bool // the broker may have messages
	hinted   bool // it got some while we fetched
	fetching bool
	toFetch  bool // in lanes.fetch
	toRun    bool // in lanes.run
	paused   bool // could not be fetched for a moment ago
	used     time.Time
	growth   *time.Timer // grows the limit; nil until it is needed
	growing  bool        // growth is to come
}

// ahead is how many calls are held besides those that run, so that the next
// starts as soon as one ends.
func (l *lane) ahead() int { return min(l.limit.value, quantum) }

// lanes are the functions with calls. They say which function is fetched for,
// and which call starts, next: both round robin, so that a function with a
// million calls does not keep out one with ten. Lanes are safe for concurrent
// use.
type lanes struct {
	max int // calls that run at once
	per int // calls of one function that run at once

	mu      sync.Mutex
	all     map[string]*lane
	fetch   []*lane // want messages
	run     []*lane // have calls to start, and room
	running int
	closed  bool
	wake    *sync.Cond // on mu: fetch or closed has changed
	start   func(*delivery)
}

// newLanes returns lanes that call start, with no lock held, for each call
// that may run.
func newLanes(max, per int, start func(*delivery)) *lanes {
	s := &lanes{max: max, per: per, all: map[string]*lane{}, start: start}
	s.wake = sync.NewCond(&s.mu)
	return s
}

// hint says that there are messages for where.
func (s *lanes) hint(where string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l, ok := s.all[where]
	if !ok {
		l = &lane{where: where, limit: newLimit(s.per)}
		s.all[where] = l
	}
	l.more, l.hinted = true, true
	s.want(l)
}

// want queues l for a fetch if it has room. The caller holds mu.
func (s *lanes) want(l *lane) {
	if l.more && !l.fetching && !l.toFetch && !l.paused && !s.closed && len(l.buffer) <= l.ahead()/2 {
		l.toFetch = true
		s.fetch = append(s.fetch, l)
		s.wake.Signal()
	}
}

// next returns a function to fetch messages for, and how many. It waits for
// one; nil says that the lanes are closed.
func (s *lanes) next() (*lane, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.fetch) == 0 && !s.closed {
		s.wake.Wait()
	}
	if s.closed {
		return nil, 0
	}
	l := s.fetch[0]
	s.fetch = s.fetch[1:]
	l.toFetch, l.fetching, l.hinted = false, true, false
	l.used = time.Now()
	return l, max(1, min(quantum, max(1, l.limit.value-l.running)+l.ahead()-len(l.buffer)))
}

// fetched takes what a fetch for l brought; pending is how many messages the
// broker has besides, full says that there may be more, failed that the fetch
// broke off and is to be repeated in a moment.
func (s *lanes) fetched(l *lane, got []*delivery, pending int, full, failed bool) {
	s.mu.Lock()
	l.fetching = false
	l.pending = pending
	l.more = full || failed || l.hinted
	l.buffer = append(l.buffer, got...)
	if failed {
		s.pause(l, fetchAgain)
	}
	s.want(l)
	s.ready(l)
	s.dispatch() // unlocks
}

// ready queues l for starting calls, or has its limit grown by and by. The
// caller holds mu.
func (s *lanes) ready(l *lane) {
	switch {
	case len(l.buffer) == 0 || l.paused || s.closed:
	case l.running < l.limit.value:
		if !l.toRun {
			l.toRun = true
			s.run = append(s.run, l)
		}
	case l.limit.slow && l.limit.value < l.limit.most && !l.growing:
		s.growIn(l, firstPause)
	}
}

// growIn has the limit of l grown after d, if all of it is used then. The
// caller holds mu.
func (s *lanes) growIn(l *lane, d time.Duration) {
	l.growing = true
	if l.growth == nil {
		l.growth = time.AfterFunc(d, func() { s.grow(l) })
	} else {
		l.growth.Reset(d)
	}
}

func (s *lanes) grow(l *lane) {
	s.mu.Lock()
	l.growing = false
	if len(l.buffer) > 0 && l.running >= l.limit.value {
		l.limit.grow()
	}
	s.ready(l)
	s.want(l)
	s.dispatch()
}

// backlog is what the gateway is told of l's calls: how many would run now if
// their function had room, those that run included, and how many wait behind
// these. The caller holds mu.
func (s *lanes) backlog(l *lane) string {
	all := l.running + len(l.buffer) + l.pending
	now := min(all, s.per, s.max/len(s.all))
	if !l.limit.slow {
		now = min(now, l.limit.value) // it is not for want of room that no more run
	}
	now = max(now, l.running)
	return strconv.Itoa(now) + "+" + strconv.Itoa(all-now)
}

// dispatch starts what may start, and gives up mu.
func (s *lanes) dispatch() {
	for _, d := range s.take() {
		s.start(d)
	}
}

// take returns what may start, and gives up mu.
func (s *lanes) take() (started []*delivery) {
	defer s.mu.Unlock()
	for len(s.run) > 0 && s.running < s.max && !s.closed {
		l := s.run[0]
		s.run = s.run[1:]
		l.toRun = false
		d := l.buffer[0]
		l.buffer[0] = nil
		l.buffer = l.buffer[1:]
		l.running++
		s.running++
		l.used = time.Now()
		d.backlog = s.backlog(l)
		started = append(started, d)
		s.ready(l)
		s.want(l)
	}
	return started
}

// ended says that d does not run any more; good is that its function answered
// it. It returns a call for the caller to run, if there is one: one goroutine
// for many calls keeps its stack.
func (s *lanes) ended(d *delivery, good bool) (next *delivery) {
	s.mu.Lock()
	l := d.lane
	if good {
		l.limit.succeeded(l.running)
	}
	l.running--
	s.running--
	l.used = time.Now()
	s.ready(l)
	s.want(l)
	for i, d := range s.take() {
		if i == 0 {
			next = d
			continue
		}
		s.start(d)
	}
	return next
}

// refused says that d's function had no room for it: it comes first when there
// is. It reports false if the lanes are closed, and d is the caller's.
func (s *lanes) refused(d *delivery) bool {
	s.mu.Lock()
	l := d.lane
	l.running--
	s.running--
	if s.closed {
		s.mu.Unlock()
		return false
	}
	l.buffer = append([]*delivery{d}, l.buffer...)
	s.growIn(l, l.limit.full(l.running))
	s.dispatch()
	return true
}

// pause lets l rest for a while. The caller holds mu.
func (s *lanes) pause(l *lane, d time.Duration) {
	if !l.paused {
		l.paused = true
		time.AfterFunc(d, func() { s.resume(l) })
	}
}

func (s *lanes) resume(l *lane) {
	s.mu.Lock()
	l.paused = false
	s.ready(l)
	s.want(l)
	s.dispatch()
}

// forget drops functions that had nothing to do for a while; the broker drops
// their consumers by itself.
func (s *lanes) forget(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for where, l := range s.all {
		if l.running == 0 && len(l.buffer) == 0 && !l.more && !l.fetching && !l.paused && l.used.Before(before) {
			delete(s.all, where)
		}
	}
}

// close starts nothing any more and returns what is held and was not started.
func (s *lanes) close() []*delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wake.Broadcast()
	var held []*delivery
	for _, l := range s.all {
		held = append(held, l.buffer...)
		l.buffer = nil
	}
	return held
}
