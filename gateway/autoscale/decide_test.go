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
	queue    int     // asynchronous calls that wait for room
	owed     float64 // of calls, less than one

	moves []move
	peak  float64 // the most calls at once
	lost  bool    // a sample was not taken
	// unknown is when the last time ended about which nothing is known.
	unknown time.Duration
}

type move struct {
	at       time.Duration
	from, to int
	d        Decision
	over     float64 // calls when it was made
}

const step = 10 * time.Millisecond

// mostQueued is how many asynchronous calls run at once.
const mostQueued = 100

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
		w.reading.InFlight, w.reading.Waiting = len(w.inflight), w.waiting
		w.reading.Wanted = 0
		if w.queue > 0 {
			w.reading.Wanted = min(mostQueued, len(w.inflight)+w.queue)
		}
		w.reading.Behind = max(0, len(w.inflight)+w.queue-mostQueued)
		w.reading.Wished += time.Duration(w.reading.Wanted) * step
		calls := Load{InFlight: len(w.inflight), Waiting: w.waiting, Wanted: w.reading.Wanted}.Calls()
		w.peak = max(w.peak, float64(calls))
		capacity := w.desired * w.slots
		beyond := calls > capacity && at%(50*time.Millisecond) == 0
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
	for w.queue > 0 && len(w.inflight) < min(w.ready*w.slots, mostQueued) {
		w.queue--
		w.reading.Arrived++
		w.inflight = append(w.inflight, w.now.Add(w.service))
	}
}

func (w *world) look(at time.Duration) {
	if w.blind(at) {
		w.lost = true
		w.unknown = at
		return
	}
	span := w.now.Sub(w.readAt)
	s := Sample{
		At: w.now, Span: span, Load: between(w.last, w.reading, span),
		Desired: w.desired, Ready: w.ready, Starting: len(w.starting), Slots: w.slots,
	}
	if w.lost {
		s.Span = 0 // the counters of that time are gone with the gateway that had them
		w.lost, w.unknown = false, at
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
	{"nothing is taken away while something is unknown about the windows", func(w *world) error {
		for _, m := range w.moves {
			since := m.at - w.unknown
			if m.to < m.from && w.unknown > 0 && since < max(w.policy.DownWindow, w.policy.Stable) && since >= 0 {
				return fmt.Errorf("%v: from %d to %d, %v after samples were missing", m.at, m.from, m.to, since)
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
	problems := w.problems()
	for _, p := range problems {
		t.Errorf("%s: not true: %s", name, p)
	}
	if len(problems) > 0 || testing.Verbose() {
		t.Logf("%s: at most %v calls at once; moves:%s", name, w.peak, w.story())
	}
}

// problems returns which properties do not hold.
func (w *world) problems() (all []string) {
	for _, p := range properties {
		if err := p.check(w); err != nil {
			all = append(all, fmt.Sprintf("%s: %v", p.name, err))
		}
	}
	return all
}

func (w *world) story() string {
	var b strings.Builder
	for _, m := range w.moves {
		fmt.Fprintf(&b, "\n  %7v %2d → %2d %s; %s [%s]", m.at, m.from, m.to, m.d.Formula, m.d.Reason, m.d.Bound)
	}
	return b.String()
}

// Whoever changes the rules should know that the properties notice.
func TestThePropertiesCatchRulesThatAreWrong(t *testing.T) {
	for name, wrong := range map[string]func(time.Time, Policy, *History) Decision{
		"follow the load of the moment": func(now time.Time, p Policy, h *History) Decision {
			d := Decide(now, p, h)
			s, _ := h.last()
			d.Desired = max(p.Min, min(p.Max, s.InFlight+s.Waiting))
			return d
		},
		"no window for scaling down": func(now time.Time, p Policy, h *History) Decision {
			p.Stable, p.DownWindow = p.Burst, 0
			return Decide(now, p, h)
		},
		"fewer during a burst": func(now time.Time, p Policy, h *History) Decision {
			d := Decide(now, p, h)
			if d.Bound == BoundBurst || d.Bound == BoundMissing || d.Bursting && d.Desired == d.Previous {
				d.Desired = max(p.Min, min(d.Previous-1, p.Max))
			}
			return d
		},
		"forget the maximum": func(now time.Time, p Policy, h *History) Decision {
			p.Max = 1000
			return Decide(now, p, h)
		},
		"add what waits to what is starting already": func(now time.Time, p Policy, h *History) Decision {
			d := Decide(now, p, h)
			s, _ := h.last()
			d.Desired = max(d.Desired, min(p.Max, s.Ready+s.Starting+s.Waiting))
			return d
		},
		"take silence for peace": func(now time.Time, p Policy, h *History) Decision {
			d := Decide(now, p, h)
			if d.Bound == BoundMissing {
				d.Desired = max(p.Min, d.Recommended)
			}
			return d
		},
	} {
		caught := map[string]bool{}
		for _, pattern := range patterns {
			w := newWorld(policyForTests())
			w.decide, w.blind = wrong, blindFor(100*time.Second, 20*time.Second)
			w.run(3*time.Minute, pattern)
			for _, p := range w.problems() {
				caught[p] = true
			}
		}
		if len(caught) == 0 {
			t.Errorf("%q is not noticed", name)
		}
	}
}

// blindFor makes that the time in which no sample is taken.
func blindFor(from, span time.Duration) func(time.Duration) bool {
	return func(at time.Duration) bool { return at >= from && at < from+span }
}

func TestASteadyLoadIsGivenWhatItNeedsAndNothingMoves(t *testing.T) {
	for _, rate := range []float64{0.5, 5, 17, 35, 80, 250} {
		w := newWorld(policyForTests())
		w.run(3*time.Minute, steady(rate))
		settled := len(w.moves)
		w.run(10*time.Minute, steady(rate))
		want := max(1, int(math.Ceil(rate*w.service.Seconds()/w.policy.Proportion-1e-9)))
		if w.desired != want {
			t.Errorf("%v calls of %v per second have %d replicas, want %d", rate, w.service, w.desired, want)
		}
		if n := len(w.moves) - settled; n > 0 {
			t.Errorf("%v calls per second: %d moves after the first three minutes", rate, n)
		}
	}
}

func TestNothingIsTakenAwayForWantOfSamples(t *testing.T) {
	for name, pattern := range patterns {
		w := newWorld(policyForTests())
		w.blind = blindFor(70*time.Second, 30*time.Second)
		w.run(4*time.Minute, pattern)
		report(t, name, w)
	}
}

func TestABurstIsAnsweredAtOnceAndOutlastsALull(t *testing.T) {
	w := newWorld(policyForTests())
	w.run(time.Minute, steady(3))
	before := w.desired
	w.run(100*time.Millisecond, steady(300))
	if w.desired <= 2*before {
		t.Errorf("%d replicas after 100 ms of a hundred times the load", w.desired)
	}
	w.run(3*time.Second, steady(300))
	high := w.desired
	w.run(20*time.Second, steady(3))
	if w.desired < high {
		t.Errorf("from %d to %d within 20 s after a burst", high, w.desired)
	}
	w.run(2*time.Minute, steady(3))
	if w.desired != before {
		t.Errorf("%d replicas in the end, %d before", w.desired, before)
	}
}

// More replicas than the calls that come will need are asked for, so that those
// that waited for them are soon served. With so many as their flow needs they
// would wait on and on.
func TestSoonAfterTheReplicasOfAStepHaveStartedNobodyWaits(t *testing.T) {
	for _, tt := range []struct {
		rate           float64
		service, start time.Duration
		slots          int
	}{
		{150, 100 * time.Millisecond, 50 * time.Millisecond, 1},
		{150, 100 * time.Millisecond, 500 * time.Millisecond, 1},
		{300, 100 * time.Millisecond, 500 * time.Millisecond, 4},
		{1000, 10 * time.Millisecond, 300 * time.Millisecond, 1},
		{100, 300 * time.Millisecond, 2 * time.Second, 2},
	} {
		p := policyForTests()
		p.Max = 1000
		w := newWorld(p)
		w.service, w.start, w.slots = tt.service, tt.start, tt.slots
		w.run(20*time.Second, steady(3))
		began := w.now
		var last time.Duration
		for range 1000 {
			w.run(step, steady(tt.rate))
			if w.waiting > 0 {
				last = w.now.Sub(began)
			}
		}
		t.Logf("%v calls of %v per second, starts of %v: nobody waits after %v", tt.rate, tt.service, tt.start, last)
		if limit := 2*tt.start + 400*time.Millisecond; last > limit {
			t.Errorf("calls wait until %v after the step, want %v; moves:%s", last, limit, w.story())
		}
	}
}

func TestManyShortCallsAtOnceAreNoReasonForMoreReplicas(t *testing.T) {
	w := newWorld(policyForTests())
	w.service = 10 * time.Millisecond
	w.run(time.Minute, steady(5))
	for range 30 { // eight at a time: one replica has served them after 80 ms
		w.owed += 8
		w.run(2*time.Second, steady(1))
	}
	if len(w.moves) > 0 {
		t.Errorf("moves:%s", w.story())
	}
}

func TestAQueueIsServedByAsManyReplicasAsItNeeds(t *testing.T) {
	for _, tt := range []struct {
		name    string
		calls   int
		service time.Duration
		slots   int
		want    int // replicas at the most
		took    time.Duration
	}{
		{"a handful of long calls", 3, 20 * time.Second, 1, 4, 21 * time.Second},
		{"as many as fit into one replica", 4, 20 * time.Second, 4, 2, 21 * time.Second},
		{"a handful of short calls", 5, 10 * time.Millisecond, 1, 5, time.Second}, // nobody knows yet that they are short
		{"more than there may be replicas for", 600, time.Second, 1, 40, 16 * time.Second},
		{"more than run at once", 600, time.Second, 50, 3, 8 * time.Second},
	} {
		w := newWorld(policyForTests())
		w.slots, w.service = tt.slots, tt.service
		w.run(time.Minute, steady(0))
		w.queue = tt.calls
		var took time.Duration
		most := 0
		for took = 0; (w.queue > 0 || len(w.inflight) > 0) && took < time.Minute; took += step {
			w.run(step, steady(0))
			most = max(most, w.desired)
		}
		if most > tt.want {
			t.Errorf("%s: up to %d replicas, want no more than %d", tt.name, most, tt.want)
		}
		if took > tt.took {
			t.Errorf("%s: they took %v, want %v", tt.name, took, tt.took)
		}
		w.run(2*time.Minute, steady(0))
		if w.desired != 1 {
			t.Errorf("%s: two minutes later there are %d replicas", tt.name, w.desired)
		}
		report(t, tt.name, w)
	}
}

func TestALongQueueOfShortCallsIsWorthMoreReplicas(t *testing.T) {
	w := newWorld(policyForTests())
	w.service = 10 * time.Millisecond
	w.run(time.Minute, steady(10)) // it is known how long they take
	w.queue = 5
	w.run(10*time.Second, steady(10))
	if w.desired != 1 {
		t.Errorf("five calls of 10 ms get %d replicas", w.desired)
	}
	w.queue = 10_000
	w.run(2*time.Second, steady(10))
	if w.desired != 40 {
		t.Errorf("10,000 calls of 10 ms get %d replicas, want all there may be", w.desired)
	}
	report(t, "short calls", w)
}

func TestStepsAreLimitedWhereTheInstallationSaysSo(t *testing.T) {
	p := policyForTests()
	p.StepUp, p.StepDown = 4, 2
	w := newWorld(p)
	w.run(time.Minute, steady(200))
	w.run(3*time.Minute, steady(1))
	for i, m := range w.moves {
		least, most := m.from, m.from
		for _, before := range w.moves[:i] {
			if m.at-before.at < p.Burst {
				least, most = min(least, before.from), max(most, before.from)
			}
		}
		if m.to > least+p.StepUp || m.to < most-p.StepDown {
			t.Errorf("%v: from %d to %d, within %v of %d and %d", m.at, m.from, m.to, p.Burst, least, most)
		}
	}
	if w.desired != 1 {
		t.Errorf("%d in the end", w.desired)
	}
}

func TestEveryTypeOfLoadHasItsFormula(t *testing.T) {
	cpu, backlog := 700.0, 90
	for _, tt := range []struct {
		scale   function.Scale
		sample  Sample
		want    int
		formula string
	}{
		{function.Scale{Type: function.ScaleCapacity, Max: 99}, Sample{Load: Load{Busy: 90, InFlight: 90}, Slots: 10}, 10, "ceil(90 calls in flight and waiting over 30s / (10 × 0.9)) = 10"},
		{function.Scale{Type: function.ScaleCapacity, Max: 99}, Sample{Load: Load{Busy: 90, InFlight: 90}}, 2, "ceil(90 calls in flight and waiting over 30s / (50 × 0.9)) = 2"},
		{function.Scale{Type: function.ScaleCapacity, Max: 99, Target: 100}, Sample{Load: Load{Busy: 90, InFlight: 90}, Slots: 10}, 10, "ceil(90 calls in flight and waiting over 30s / (10 × 0.9)) = 10"},
		{function.Scale{Type: function.ScaleRPS, Max: 99, Target: 20, Proportion: 0.5}, Sample{Load: Load{Rate: 101}}, 11, "ceil(101 calls per second over 30s / (20 × 0.5)) = 11"},
		{function.Scale{Type: function.ScaleRPS, Max: 99}, Sample{Load: Load{Rate: 91}}, 3, "ceil(91 calls per second over 30s / (50 × 0.9)) = 3"},
		{function.Scale{Type: function.ScaleCPU, Max: 99, Target: 200, Proportion: 1}, Sample{CPU: &cpu}, 4, "ceil(700 thousandths of a core over 30s / 200) = 4"},
		{function.Scale{Type: function.ScaleQueue, Max: 99, Target: 10, Proportion: 1}, Sample{Backlog: &backlog}, 9, "ceil(90 asynchronous calls over 30s / 10) = 9"},
		{function.Scale{Type: function.ScaleCPU, Max: 99, Target: 200}, Sample{}, 3, ""}, // nothing is known: what there is stays
	} {
		var h History
		s := tt.sample
		s.At, s.Span, s.Desired, s.Ready = epoch, time.Minute, 3, 3
		h.Add(s)
		d := Decide(epoch, NewPolicy(tt.scale, Defaults{}), &h)
		if d.Formula != tt.formula || tt.formula != "" && d.Recommended != tt.want || tt.formula == "" && d.Desired != tt.want {
			t.Errorf("%+v: %d, %q; want %d, %q", tt.scale, d.Recommended, d.Formula, tt.want, tt.formula)
		}
	}
}

func TestRoomBoundsGrowthAndTakesNothingAway(t *testing.T) {
	for _, tt := range []struct{ room, desired, want int }{{5, 2, 5}, {2, 2, 2}, {1, 4, 4}, {0, 0, 1}} {
		var h History
		s := Sample{
			At: epoch, Span: time.Minute, Load: Load{InFlight: tt.desired, Waiting: 50, Busy: float64(tt.desired), Queued: 50},
			Desired: tt.desired, Ready: tt.desired, Slots: 1, Room: &function.Room{Replicas: tt.room, Reason: "memory is short"},
		}
		h.Add(s)
		d := Decide(epoch, policyForTests(), &h)
		if d.Desired != tt.want || d.Bound != BoundRoom || !strings.Contains(d.Reason, "memory is short") {
			t.Errorf("room for %d, and %d there: %+v", tt.room, tt.desired, d)
		}
	}
}

func TestThereIsRoomForOneReplicaAtTheLeast(t *testing.T) {
	for _, scale := range []function.Scale{{Min: 2, Max: 2}, {Min: 2, Max: 5}, {Min: 2, Max: 5, Type: function.ScaleCPU}} {
		var h History
		h.Add(Sample{At: epoch, Load: Load{Waiting: 3}, Slots: 1, Room: &function.Room{Replicas: 1, Reason: "there is one port"}})
		if d := Decide(epoch, NewPolicy(scale, Defaults{}), &h); d.Desired != 1 {
			t.Errorf("%+v: %+v", scale, d)
		}
	}
}

func TestDeadBandsOfFixedAndSleepingFunctions(t *testing.T) {
	for _, tt := range []struct {
		name    string
		scale   function.Scale
		desired int
		waiting int
		want    int
		bound   Bound
	}{
		{"fixed, under load", function.Scale{Min: 2, Max: 2}, 2, 50, 2, BoundFixed},
		{"fixed, scaled by hand", function.Scale{Min: 2, Max: 2}, 5, 0, 5, BoundFixed},
		{"fixed, woken", function.Scale{Min: 2, Max: 2}, 0, 50, 2, BoundFixed},
		{"asleep", function.Scale{Max: 9}, 0, 0, 0, BoundAsleep},
		{"woken by one", function.Scale{Max: 9}, 0, 1, 1, BoundNone},
		{"woken by one, at least three", function.Scale{Min: 3, Max: 9}, 0, 1, 3, BoundMin},
		{"woken by many", function.Scale{Max: 9}, 0, 50, 9, BoundMax},
	} {
		var h History
		h.Add(Sample{At: epoch, Load: Load{Waiting: tt.waiting}, Desired: tt.desired, Ready: tt.desired, Slots: 1})
		if d := Decide(epoch, NewPolicy(tt.scale, Defaults{}), &h); d.Desired != tt.want || d.Bound != tt.bound || d.Reason == "" {
			t.Errorf("%s: %+v", tt.name, d)
		}
	}
}

func TestDecidingNothingIsKnownChangesNothing(t *testing.T) {
	if d := Decide(epoch, policyForTests(), &History{}); d.Desired != 0 || d.Bound != BoundMissing {
		t.Errorf("%+v", d)
	}
}

func BenchmarkDecide(b *testing.B) {
	w := newWorld(policyForTests())
	w.run(10*time.Minute, patterns["slow sawtooth"])
	for b.Loop() {
		Decide(w.now, w.policy, &w.history)
	}
}

func TestRandomLoadsOfRandomFunctionsBehaveToo(t *testing.T) {
	for seed := range uint64(15) {
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
		w.run(4*time.Minute, func(at time.Duration) float64 {
			if seed%3 == 0 && at%(45*time.Second) == 0 {
				w.queue += 1 + random.IntN(2000)
			}
			return rates[int(at/(10*time.Second))%len(rates)]
		})
		report(t, fmt.Sprintf("seed %d, %d slots, calls of %v, starts of %v", seed, w.slots, w.service, w.start), w)
	}
}
