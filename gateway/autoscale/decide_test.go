package autoscale

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// A world is a function with replicas that take time to start, calls that come
// as a pattern says, and a scaler. Time passes in steps; nothing waits.
type world struct {
	policy  Policy
	decide  func(time.Time, Policy, *History) Decision
	slots   int
	service time.Duration // of one call
	start   time.Duration // of one replica
	blind   func(at time.Duration) bool

	now      time.Time
	history  History
	reading  Reading
	last     Reading // as it was looked at last
	readAt   time.Time
	desired  int
	ready    int
	starting []time.Time // when each is ready
	inflight []time.Time // when each ends
	waiting  int
	owed     float64 // of calls, less than one

	moves []move
	peak  float64 // the most calls at once
	lost  bool    // a sample was not taken
}

type move struct {
	at       time.Duration
	from, to int
	d        Decision
	over     float64 // calls when it was made
}

const step = 10 * time.Millisecond

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func newWorld(p Policy) *world {
	w := &world{policy: p, decide: Decide, slots: 1, service: 100 * time.Millisecond, start: 500 * time.Millisecond, now: epoch, readAt: epoch, desired: p.Min, ready: p.Min}
	w.blind = func(time.Duration) bool { return false }
	return w
}

// run lets calls come, rate(at) per second, for that long.
func (w *world) run(span time.Duration, rate func(at time.Duration) float64) {
	for end := w.now.Add(span); w.now.Before(end); {
		w.now = w.now.Add(step)
		at := w.now.Sub(epoch)
		w.owed += rate(at) * step.Seconds()
		for ; w.owed >= 1; w.owed-- {
			w.waiting++
			w.reading.Arrived++
		}
		w.serve()
		w.reading.Busy += time.Duration(len(w.inflight)) * step
		w.reading.Queued += time.Duration(w.waiting) * step
		w.peak = max(w.peak, float64(len(w.inflight)+w.waiting))
		capacity := w.desired * w.slots
		beyond := len(w.inflight)+w.waiting > capacity && at%(50*time.Millisecond) == 0
		if at%time.Second == 0 || beyond {
			w.look(at)
		}
	}
}

func (w *world) serve() {
	var left []time.Time
	for _, end := range w.inflight {
		if end.After(w.now) {
			left = append(left, end)
		}
	}
	w.inflight = left
	var later []time.Time
	for _, at := range w.starting {
		if at.After(w.now) {
			later = append(later, at)
		} else {
			w.ready++
		}
	}
	w.starting = later
	for w.waiting > 0 && len(w.inflight) < w.ready*w.slots {
		w.waiting--
		w.inflight = append(w.inflight, w.now.Add(w.service))
	}
}

func (w *world) look(at time.Duration) {
	if w.blind(at) {
		w.lost = true
		return
	}
	w.reading.InFlight, w.reading.Waiting = len(w.inflight), w.waiting
	span := w.now.Sub(w.readAt)
	s := Sample{
		At: w.now, Span: span, Load: between(w.last, w.reading, span),
		Desired: w.desired, Ready: w.ready, Starting: len(w.starting), Slots: w.slots,
	}
	if w.lost {
		s.Span = 0 // the counters of that time are gone with the gateway that had them
		w.lost = false
	}
	w.last, w.readAt = w.reading, w.now
	w.history.Add(s)
	d := w.decide(w.now, w.policy, &w.history)
	w.history.Keep(d)
	if d.Desired != w.desired {
		w.moves = append(w.moves, move{at, w.desired, d.Desired, d, float64(len(w.inflight) + w.waiting)})
		w.scale(d.Desired)
	}
}

func (w *world) scale(n int) {
	for ; w.desired < n; w.desired++ {
		w.starting = append(w.starting, w.now.Add(w.start))
	}
	for ; w.desired > n; w.desired-- {
		if k := len(w.starting); k > 0 {
			w.starting = w.starting[:k-1]
		} else {
			w.ready--
		}
	}
}

// A property is what must hold of any way that a world went.
type property struct {
	name  string
	check func(w *world) error
}

var properties = []property{
	{"the number is always between min and max", func(w *world) error {
		for _, m := range w.moves {
			if m.to < w.policy.Min || m.to > w.policy.Max {
				return fmt.Errorf("%v: %d", m.at, m.to)
			}
		}
		return nil
	}},
	{"in any down window there is at most one reversal", func(w *world) error {
		for i := range w.moves {
			reversals, last := 0, 0
			for _, m := range w.moves[i:] {
				if m.at-w.moves[i].at >= w.policy.DownWindow {
					break
				}
				direction := 1
				if m.to < m.from {
					direction = -1
				}
				if last != 0 && direction != last {
					reversals++
				}
				last = direction
			}
			if reversals > 1 {
				return fmt.Errorf("%d from %v on", reversals, w.moves[i].at)
			}
		}
		return nil
	}},
	{"nothing is taken away during a burst", func(w *world) error {
		for _, m := range w.moves {
			if m.to < m.from && m.d.Bursting {
				return fmt.Errorf("%v: from %d to %d", m.at, m.from, m.to)
			}
		}
		return nil
	}},
	{"there are never more than the calls that there were at once need", func(w *world) error {
		most := max(w.policy.Min, int(math.Ceil(w.peak/(float64(w.slots)*w.policy.Proportion)-1e-9)))
		for _, m := range w.moves {
			if m.to > most {
				return fmt.Errorf("%v: %d, though there were never more than %v calls at once", m.at, m.to, w.peak)
			}
		}
		return nil
	}},
	{"every move up has a load that asks for it", func(w *world) error {
		for _, m := range w.moves {
			if m.to > m.from && m.to > m.d.Recommended {
				return fmt.Errorf("%v: %d, and the load asks for %d", m.at, m.to, m.d.Recommended)
			}
		}
		return nil
	}},
	{"every move has a reason", func(w *world) error {
		for _, m := range w.moves {
			if m.d.Reason == "" || m.d.Formula == "" && m.d.Bound == "" {
				return fmt.Errorf("%v: %+v", m.at, m.d)
			}
		}
		return nil
	}},
}

// Patterns of calls per second.
func steady(rate float64) func(time.Duration) float64 {
	return func(time.Duration) float64 { return rate }
}

func stepAt(when time.Duration, before, after float64) func(time.Duration) float64 {
	return func(at time.Duration) float64 {
		if at < when {
			return before
		}
		return after
	}
}

func ramp(from, to float64, over time.Duration) func(time.Duration) float64 {
	return func(at time.Duration) float64 {
		return from + (to-from)*min(1, at.Seconds()/over.Seconds())
	}
}

func spike(when, width time.Duration, base, top float64) func(time.Duration) float64 {
	return func(at time.Duration) float64 {
		if at >= when && at < when+width {
			return top
		}
		return base
	}
}

func sawtooth(period time.Duration, low, high float64) func(time.Duration) float64 {
	return func(at time.Duration) float64 {
		return low + (high-low)*float64(at%period)/float64(period)
	}
}

func square(period time.Duration, low, high float64) func(time.Duration) float64 {
	return func(at time.Duration) float64 {
		if at%period < period/2 {
			return low
		}
		return high
	}
}

func policyForTests() Policy {
	return NewPolicy(function.Scale{Min: 1, Max: 40}, Defaults{})
}

var patterns = map[string]func(time.Duration) float64{
	"steady":             steady(35),
	"step up":            stepAt(20*time.Second, 3, 150),
	"step down":          stepAt(60*time.Second, 150, 3),
	"ramp up":            ramp(1, 200, 2*time.Minute),
	"ramp down":          ramp(200, 1, 2*time.Minute),
	"spike":              spike(30*time.Second, 2*time.Second, 5, 300),
	"fast sawtooth":      sawtooth(4*time.Second, 5, 150),
	"slow sawtooth":      sawtooth(40*time.Second, 5, 150),
	"square of a minute": square(time.Minute, 5, 150),
	"square of a window": square(2*15*time.Second, 5, 150),
	"beyond the most":    steady(900),
	"nothing":            steady(0),
}

func TestWhateverTheLoadTheNumberOfReplicasBehaves(t *testing.T) {
	for name, pattern := range patterns {
		w := newWorld(policyForTests())
		w.run(4*time.Minute, pattern)
		report(t, name, w)
	}
}

func report(t *testing.T, name string, w *world) {
	t.Helper()
	for _, p := range properties {
		if err := p.check(w); err != nil {
			t.Errorf("%s: not true: %s: %v", name, p.name, err)
		}
	}
	if t.Failed() || testing.Verbose() {
		var moves strings.Builder
		for _, m := range w.moves {
			fmt.Fprintf(&moves, "\n  %7v %2d → %2d %s %s [%s]", m.at, m.from, m.to, m.d.Formula, m.d.Reason, m.d.Bound)
		}
		t.Logf("%s: %d moves, at most %v calls at once%s", name, len(w.moves), w.peak, moves.String())
	}
}

func TestRandomLoadsOfRandomFunctionsBehaveToo(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 1))
		p := policyForTests()
		p.Min, p.Max = 1+random.IntN(3), 3+random.IntN(40)
		w := newWorld(p)
		w.slots = 1 + random.IntN(8)
		w.service = time.Duration(10+random.IntN(2000)) * time.Millisecond
		w.start = time.Duration(random.IntN(5000)) * time.Millisecond
		var rates [24]float64
		for i := range rates {
			rates[i] = random.Float64() * random.Float64() * 300
		}
		w.run(4*time.Minute, func(at time.Duration) float64 { return rates[int(at/(10*time.Second))%len(rates)] })
		report(t, fmt.Sprintf("seed %d, %d slots, calls of %v, starts of %v", seed, w.slots, w.service, w.start), w)
	}
}
