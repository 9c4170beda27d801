package invoke

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// Demand is what was counted of one function since the table knows it. All but
// the numbers of requests only grow.
type Demand struct {
	InFlight int // requests that replicas are answering
	Waiting  int // requests without a slot
	Wanted   int // requests that the queue worker would have in flight now, if there were room
	Behind   int // requests that the queue worker has besides these

	Busy    time.Duration // time spent in flight, all requests together
	Queued  time.Duration // time spent waiting, all requests together
	Wished  time.Duration // the same for what the queue worker wanted in flight
	Arrived int64         // requests that came
}

// Demand returns what was counted of ref. It reports false if there is no such
// function. To be right it must be called at least every few hours while ref
// has requests.
func (t *Table) Demand(ref function.Ref) (Demand, bool) {
	found, ok := t.routes.Load(ref.String())
	if !ok {
		return Demand{}, false
	}
	return found.(*route).demand(), true
}

// Alarm has [TableOptions.Alarm] called, once, when ref has more than that many
// requests in flight and waiting, be it now or later.
func (t *Table) Alarm(ref function.Ref, above int) {
	if found, ok := t.routes.Load(ref.String()); ok {
		r := found.(*route)
		r.alarm.Store(int64(above))
		wanted, _, _ := r.wish.read(t.clock())
		r.watch(max(r.inflight.count()+r.waiting.count(), wanted))
	}
}

func (r *route) demand() Demand {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.table.clock()
	var d Demand
	d.Busy, d.InFlight = r.busy.read(&r.inflight, now)
	d.Queued, d.Waiting = r.queued.read(&r.waiting, now)
	d.Wanted, d.Behind, d.Wished = r.wish.read(now)
	d.Arrived = r.arrived.Load()
	return d
}

// wishes takes in what the queue worker says about its calls: "5+95" if it
// would have five in flight now, and 95 besides.
func (r *route) wishes(text string) {
	now, besides, _ := strings.Cut(text, "+")
	wanted, err := strconv.Atoi(now)
	behind, also := strconv.Atoi(besides)
	if errors.Join(err, also) != nil || wanted < 0 || behind < 0 {
		return // it is no more than a mark
	}
	r.wish.say(r.table.clock(), wanted, behind)
	r.watch(wanted)
}

// wishAge is for how long a wish counts that is not repeated, in microseconds.
// Workers try more calls than there is room for about once a second.
const wishAge = 2_000_000

// A wish is what the queue worker said last about its calls of one function. Of
// several workers the one counts that spoke last: they share what waits. The
// zero value is none. It is safe for concurrent use.
type wish struct {
	mu             sync.Mutex
	wanted, behind int
	until          uint64 // by the table's clock
	at             uint64 // up to which sum is
	sum            time.Duration
}

func (w *wish) say(now uint64, wanted, behind int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pass(now)
	w.wanted, w.behind, w.until = wanted, behind, now+wishAge
}

// read returns what counts now, and how much time all that was wanted has taken
// so far, as a meter would.
func (w *wish) read(now uint64) (wanted, behind int, sum time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pass(now)
	return w.wanted, w.behind, w.sum
}

// pass lets time go by until now. The caller holds w.mu.
func (w *wish) pass(now uint64) {
	if end := min(now, w.until); end > w.at {
		w.sum += time.Duration(end-w.at) * time.Duration(w.wanted) * time.Microsecond
	}
	if w.at = max(w.at, now); now >= w.until {
		w.wanted, w.behind = 0, 0
	}
}

// watch rings the alarm if so many requests are too many.
func (r *route) watch(requests int) {
	if int64(requests) > r.alarm.Load() && r.alarm.Swap(unarmed) != unarmed {
		r.table.o.Alarm(r.ref)
	}
}

// unarmed is the threshold of an alarm that nobody waits for.
const unarmed = math.MaxInt64

// clock is the time of meters, in microseconds.
func (t *Table) clock() uint64 { return uint64(time.Since(t.began) / time.Microsecond) }

// A meter counts what goes on at this moment, and how much time all of it
// takes together, in one word, so that both are read as of one moment and
// counting costs no more than a counter does.
//
// The lower bits are the number. The upper ones are the sum of the times of
// the ends minus that of the beginnings, modulo their width: with the number
// times now that makes the time taken so far.
type meter struct{ word atomic.Uint64 }

const (
	meterBits = 20 // a million at once
	meterOne  = 1 << meterBits
)

// begin counts one more, and returns how many there are.
func (m *meter) begin(now uint64) int { return int(m.word.Add(1-now<<meterBits) % meterOne) }

// end counts one less.
func (m *meter) end(now uint64) { m.word.Add(now<<meterBits - 1) }

func (m *meter) count() int { return int(m.word.Load() % meterOne) }

// A total is how much time what a meter counts has taken, read so often that
// the meter's own sum, which is modulo 200 days, cannot overflow in between.
type total struct {
	seen uint64 // what the meter said
	sum  time.Duration
}

// read brings the total up to now. It returns it, and how many m counts.
func (t *total) read(m *meter, now uint64) (sum time.Duration, count int) {
	word := m.word.Load()
	count = int(word % meterOne)
	said := (word>>meterBits + uint64(count)*now) % (1 << (64 - meterBits))
	t.sum += time.Duration((said-t.seen)%(1<<(64-meterBits))) * time.Microsecond
	t.seen = said
	return t.sum, count
}
