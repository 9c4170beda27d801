package autoscale

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// Functions is what the gateway knows of functions.
type Functions interface {
	// Endpoints returns where ref is; it reports false if there is no such
	// function.
	Endpoints(ref function.Ref) (function.Endpoints, bool)
	// Reading returns what was counted of ref.
	Reading(ref function.Ref) (Reading, bool)
	// Alarm asks for one call of [Autoscaler.Alarm] when ref has more than that
	// many calls in flight and waiting.
	Alarm(ref function.Ref, above int)
}

// A Scaler has a function run with so many replicas.
type Scaler interface {
	Scale(ctx context.Context, ref function.Ref, replicas int) error
}

// Peers are the other gateways in front of the same functions. All see the
// loads of all, and one of them leads: it is the one that scales. Its methods
// are called often and must not block.
type Peers interface {
	// Leading reports whether this gateway decides.
	Leading() bool
	// Publish tells the others what this gateway saw; they call
	// [Autoscaler.Poke] if that may change something. It is called once a second for a function with
	// something to do, and at once when there is more than its replicas are for.
	Publish(ref function.Ref, l Load)
	// Others returns what the others saw lately, together. It reports false
	// while one of them that was there a moment ago is not heard of.
	Others(ref function.Ref) (l Load, complete bool)
	// Announce tells the others what was done; they call [Autoscaler.Learn].
	Announce(ref function.Ref, d Decision)
}

// Sources are the inputs of other parts. A nil function is an input that nobody
// has.
type Sources struct {
	// CPU returns what the replicas of a function use together, in thousandths
	// of a core. It reports false when that is not known.
	CPU func(ref function.Ref) (float64, bool)
	// Backlog returns how many asynchronous calls of a function wait or run. It
	// reports false when that is not known.
	Backlog func(ref function.Ref) (int, bool)
}

// A Listener is told what other gateways tell; an [Autoscaler] is one.
type Listener interface {
	Poke(ref function.Ref)
	Learn(ref function.Ref, d Decision)
}

// Options are what an [Autoscaler] is made of.
type Options struct {
	// Defaults are the installation's.
	Defaults Defaults
	// Off leaves the numbers of replicas to others, such as a horizontal pod
	// autoscaler. Functions are woken all the same.
	Off       bool
	Functions Functions
	Scaler    Scaler
	Peers     Peers // nil: this gateway is alone
	Sources   Sources
	Log       *slog.Logger // nil logs nothing
}

// An Autoscaler keeps functions at the number of replicas that their load
// needs. It is safe for concurrent use.
type Autoscaler struct {
	o Options

	// Alarm is called with the route table's locks held, so this one is held for
	// moments only, and never together with another.
	pokes struct {
		sync.Mutex
		refs   map[function.Ref]bool // whether the others are to be told too
		signal chan struct{}
	}

	mu        sync.Mutex
	functions map[function.Ref]*state
}

// A state is what is remembered of one function.
type state struct {
	history History
	reading Reading
	readAt  time.Time
	slots   int // of one replica, as last seen

	provided int       // replicas that the provider wants
	asked    int       // replicas that were asked for,
	askedAt  time.Time // and when, until the provider says something new; zero: it has
	before   int       // what the provider wanted then
	asking   int       // requests that are on their way

	due     time.Time // when to look next; zero: when something happens
	floor   int       // of an alert that fires
	floored time.Time // until when it counts

	latest  Decision
	changes []Decision // newest last
	failure string     // why the last change could not be made
}

// Times of the engine.
const (
	tick         = time.Second            // between two looks at a function with something to do
	recheck      = 100 * time.Millisecond // after one that may have been too early
	settle       = 5 * time.Second        // for the provider to tell what it was asked for
	scaleTimeout = 10 * time.Second
	alertAge     = 5 * time.Minute // after which an alert that was not repeated is over
	maxChanges   = 32              // that are remembered of each function
)

// New returns an Autoscaler. It starts nothing.
func New(o Options) *Autoscaler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	a := &Autoscaler{o: o, functions: map[function.Ref]*state{}}
	a.pokes.refs = map[function.Ref]bool{}
	a.pokes.signal = make(chan struct{}, 1)
	return a
}

// Alarm has ref looked at now, because this gateway has more to do for it, or
// it has changed. It is quick and never blocks.
func (a *Autoscaler) Alarm(ref function.Ref) { a.poke(ref, true) }

// Poke has ref looked at now, because another gateway has more to do for it.
// It is as quick.
func (a *Autoscaler) Poke(ref function.Ref) { a.poke(ref, false) }

func (a *Autoscaler) poke(ref function.Ref, publish bool) {
	a.pokes.Lock()
	a.pokes.refs[ref] = a.pokes.refs[ref] || publish
	a.pokes.Unlock()
	select {
	case a.pokes.signal <- struct{}{}:
	default:
	}
}

// Forget ends what is known of a function that was removed.
func (a *Autoscaler) Forget(ref function.Ref) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.functions, ref)
}

// Run scales until ctx ends, waits for what it has asked for, and returns nil.
func (a *Autoscaler) Run(ctx context.Context) error {
	var asking sync.WaitGroup
	defer asking.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.pokes.signal:
		case <-timer.C:
		}
		a.pokes.Lock()
		poked := a.pokes.refs
		a.pokes.refs = map[function.Ref]bool{}
		a.pokes.Unlock()

		a.mu.Lock()
		now := time.Now()
		for ref, s := range a.functions {
			if !s.due.IsZero() && !now.Before(s.due) {
				poked[ref] = true
			}
		}
		for ref, publish := range poked {
			if d, act := a.look(now, ref, publish); act {
				s := a.functions[ref]
				s.begin(d)
				asking.Go(func() { _ = a.ask(ctx, ref, s, d) }) // it has logged what went wrong
			}
		}
		next := now.Add(time.Hour)
		for _, s := range a.functions {
			if !s.due.IsZero() && s.due.Before(next) {
				next = s.due
			}
		}
		a.mu.Unlock()
		timer.Reset(time.Until(next))
	}
}

// Wake asks for the replicas that the calls which wait for ref need, at least
// least. It is called while the provider wants none. Errors are fault.NotFound
// and those of the Scaler.
func (a *Autoscaler) Wake(ctx context.Context, ref function.Ref, least int) error {
	a.mu.Lock()
	if s := a.functions[ref]; s != nil {
		s.askedAt = time.Time{} // whatever was asked for before, it sleeps
	}
	d, _ := a.look(time.Now(), ref, true)
	s := a.functions[ref]
	if s == nil {
		a.mu.Unlock()
		return fault.NotFound.Errorf("function %s is not deployed", ref)
	}
	if a.o.Off || d.Desired < least {
		d.Desired = least
	}
	if d.Bound == BoundAsleep {
		d.Bound, d.Reason = BoundMin, "woken by a call"
	}
	s.begin(d)
	a.mu.Unlock()
	return a.ask(ctx, ref, s, d)
}

// Alert takes in what an alert says about ref: that it fires, whereupon ref
// gets more replicas, by its factor, and no fewer until the alert is resolved
// or has not been repeated for five minutes. Errors are fault.NotFound and
// those of the Scaler.
func (a *Autoscaler) Alert(ctx context.Context, ref function.Ref, firing bool) error {
	a.mu.Lock()
	now := time.Now()
	a.look(now, ref, false)
	s := a.functions[ref]
	if s == nil {
		a.mu.Unlock()
		return fault.NotFound.Errorf("function %s is not deployed", ref)
	}
	last, _ := s.history.last()
	e, _ := a.o.Functions.Endpoints(ref)
	p := NewPolicy(e.Scale, a.o.Defaults)
	d := Decision{At: now, Previous: last.Desired, Desired: last.Desired, Recommended: last.Desired, Bound: BoundAlert, Reason: "an alert fires"}
	switch {
	case p.AlertFactor == 0 || p.Fixed():
	case firing:
		d.Desired = p.alerted(last.Desired)
		s.floor, s.floored = d.Desired, now.Add(alertAge)
	case a.o.Off:
		d.Desired, d.Reason = p.Min, "an alert is resolved"
		s.floor = 0
	default:
		s.floor = 0
	}
	act := d.Desired != d.Previous && s.asking == 0
	if act {
		s.begin(d)
	}
	a.mu.Unlock()
	a.Poke(ref)
	if !act {
		return nil
	}
	return a.ask(ctx, ref, s, d)
}

// look samples ref and decides about it. It reports whether the decision is to
// be carried out, by begin and ask. a.mu is held.
func (a *Autoscaler) look(now time.Time, ref function.Ref, publish bool) (d Decision, act bool) {
	e, ok := a.o.Functions.Endpoints(ref)
	reading, counted := a.o.Functions.Reading(ref)
	if !ok || !counted {
		delete(a.functions, ref)
		return Decision{}, false
	}
	s := a.functions[ref]
	if s == nil {
		s = &state{reading: reading, readAt: now}
		a.functions[ref] = s
	}
	p := NewPolicy(e.Scale, a.o.Defaults)
	sample := s.sample(now, e, reading)
	own := sample.Load
	a.complete(ref, p, &sample)
	if publish && a.o.Peers != nil {
		a.o.Peers.Publish(ref, own)
	}
	s.history.Add(sample)
	d = Decide(now, p, &s.history)
	s.history.Keep(d)
	s.history.Forget(now.Add(-max(p.Stable, p.DownWindow) - 2*tick))
	s.latest = d

	rest := p.rests(sample, d)
	switch {
	case s.asking > 0:
		s.due = time.Time{} // its end is told
	case !rest:
		s.due = now.Add(tick)
	case p.Zero && sample.Desired > 0:
		s.due = now.Add(max(tick, p.ZeroAfter-now.Sub(s.history.active)))
	default:
		s.due = time.Time{}
	}
	a.arm(ref, s, p, d, sample, own, rest)
	// Waking is the business of the call that waits, which learns from it why
	// it fails.
	return d, !a.o.Off && s.asking == 0 && sample.Desired > 0 && d.Desired != sample.Desired && a.leads()
}

// rests reports whether nothing will change until a call comes, other than that
// the function is put to sleep.
func (p Policy) rests(s Sample, d Decision) bool {
	switch {
	case !s.idle() || s.Partial || d.Desired != s.Desired:
		return false
	case s.Desired == 0:
		return true
	}
	// Processor time can be used without a call.
	return p.Type != function.ScaleCPU && (s.Desired <= p.Min || p.Fixed())
}

func (a *Autoscaler) leads() bool { return a.o.Peers == nil || a.o.Peers.Leading() }

// complete adds to a sample what others know.
func (a *Autoscaler) complete(ref function.Ref, p Policy, s *Sample) {
	if a.o.Peers != nil {
		others, complete := a.o.Peers.Others(ref)
		s.Load = s.Plus(others)
		s.Partial = !complete
	}
	if p.Type == function.ScaleCPU && a.o.Sources.CPU != nil {
		if cpu, ok := a.o.Sources.CPU(ref); ok {
			s.CPU = &cpu
		}
	}
	if (p.Zero || p.Type == function.ScaleQueue) && a.o.Sources.Backlog != nil {
		if n, ok := a.o.Sources.Backlog(ref); ok {
			s.Backlog = &n
		} else {
			s.Blind = true
		}
	}
}

// arm sets the alarm to the load at which another decision may be due.
func (a *Autoscaler) arm(ref function.Ref, s *state, p Policy, d Decision, sample Sample, own Load, rest bool) {
	calls, mine := sample.Calls(), own.Calls()
	above := noAlarm
	switch {
	case rest:
		above = 0
	case p.Type != function.ScaleCapacity || p.Fixed() || d.Desired >= p.Max || d.Bound == BoundRoom:
		// More calls would change nothing before the next look.
	default:
		capacity := int(float64(sample.Ready+sample.Starting) * d.Inputs.Target)
		above = max(capacity-(calls-mine), mine+mine/4)
		if calls > capacity && d.Desired <= sample.Desired && s.asking == 0 {
			s.due = s.readAt.Add(recheck)
		}
	}
	a.o.Functions.Alarm(ref, above)
}

const noAlarm = 1 << 40

// sample makes a sample of what the gateway itself knows.
func (s *state) sample(now time.Time, e function.Endpoints, reading Reading) Sample {
	span := now.Sub(s.readAt)
	sample := Sample{At: now, Span: span, Load: between(s.reading, reading, span), Desired: e.Desired, Room: e.Room}
	s.reading, s.readAt = reading, now
	if now.Before(s.floored) {
		sample.Floor = s.floor
	}
	s.provided = e.Desired
	switch {
	case s.askedAt.IsZero():
	case s.asking == 0 && (s.provided != s.before || s.provided == s.asked || now.Sub(s.askedAt) > settle):
		s.askedAt = time.Time{}
	default:
		sample.Desired = s.asked
	}
	for _, r := range e.Replicas {
		if r.Ready {
			sample.Ready++
			s.slots = r.Slots
		}
	}
	sample.Starting = max(0, sample.Desired-sample.Ready)
	if sample.Slots = s.slots; sample.Slots == 0 && sample.Ready == 0 {
		sample.Slots = e.Settings.MaxInflight
	}
	return sample
}

// begin notes that d is being carried out.
func (s *state) begin(d Decision) {
	s.asked, s.askedAt, s.before = d.Desired, d.At, s.provided
	s.asking++
}

// ask carries out d, which was begun for s, the state of ref.
func (a *Autoscaler) ask(ctx context.Context, ref function.Ref, s *state, d Decision) error {
	ctx, cancel := context.WithTimeout(ctx, scaleTimeout)
	defer cancel()
	err := a.o.Scaler.Scale(ctx, ref, d.Desired)
	if fresh := a.ended(s, d, err); err != nil {
		if fresh {
			a.o.Log.Warn("cannot scale function", "function", ref, "from", d.Previous, "to", d.Desired, "err", err)
		}
		return err
	}
	a.o.Log.Info("scaled function", "function", ref, "from", d.Previous, "to", d.Desired, "reason", d.Reason, "formula", d.Formula, "bound", string(d.Bound))
	if a.o.Peers != nil {
		a.o.Peers.Announce(ref, d)
	}
	a.Poke(ref)
	return nil
}

// ended notes how the carrying out of d has ended. It reports whether err is
// not what it ended with the last time.
func (a *Autoscaler) ended(s *state, d Decision, err error) (fresh bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.asking--
	before := s.failure
	if err == nil {
		s.failure = ""
		s.remember(d)
		return before != ""
	}
	s.failure = err.Error()
	s.askedAt = time.Time{}
	s.due = time.Now().Add(tick)
	return s.failure != before
}

func (s *state) remember(d Decision) {
	if len(s.changes) == maxChanges {
		s.changes = slices.Delete(s.changes, 0, 1)
	}
	s.changes = append(s.changes, d)
}

// Learn takes in what another gateway has done.
func (a *Autoscaler) Learn(ref function.Ref, d Decision) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.functions[ref]; s != nil {
		s.remember(d)
	}
}
