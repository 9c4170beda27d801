package autoscale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var echo = function.Ref{Name: "echo", Namespace: "openfaas-fn"}

// A platform is one function as a gateway and a provider see it. Calls last
// until they are ended.
type platform struct {
	t *testing.T
	a *Autoscaler

	mu      sync.Mutex
	e       function.Endpoints
	start   time.Duration // of a replica
	calls   int
	wanted  int
	behind  int
	arrived int64
	busy    time.Duration
	queued  time.Duration
	wished  time.Duration
	counted time.Time
	alarm   int
	looks   int // how often it was read
	scaled  []int
	refuse  error // of Scale
}

// inTime runs f with an Autoscaler that has a platform, in virtual time.
func inTime(t *testing.T, labels map[string]string, o Options, f func(t *testing.T, p *platform)) {
	t.Helper()
	scale, err := function.ReadScale(labels)
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		p := &platform{t: t, start: 200 * time.Millisecond, counted: time.Now(), e: function.Endpoints{Ref: echo, Scale: scale}}
		o.Functions, o.Scaler, o.Log = p, p, testkit.Log(t)
		p.a = New(o)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = p.a.Run(ctx) })
		p.set(scale.Min)
		time.Sleep(2 * p.start) // the first ones are ready
		f(t, p)
		cancel()
		running.Wait()
	})
}

func (p *platform) Endpoints(ref function.Ref) (function.Endpoints, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.e, ref == echo
}

func (p *platform) Reading(ref function.Ref) (Reading, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.looks++
	p.count()
	slots := p.slots()
	return Reading{
		InFlight: min(p.calls, slots), Waiting: max(0, p.calls-slots), Wanted: p.wanted, Behind: p.behind,
		Busy: p.busy, Queued: p.queued, Wished: p.wished, Arrived: p.arrived,
	}, ref == echo
}

// slots is one for each replica that is ready. p.mu is held.
func (p *platform) slots() int { return len(p.e.Replicas) }

// count brings the counters up to now. p.mu is held.
func (p *platform) count() {
	span := time.Since(p.counted)
	p.busy += time.Duration(min(p.calls, p.slots())) * span
	p.queued += time.Duration(max(0, p.calls-p.slots())) * span
	p.wished += time.Duration(p.wanted) * span
	p.counted = time.Now()
}

func (p *platform) Alarm(_ function.Ref, above int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.alarm = above
	p.ring()
}

func (p *platform) ring() {
	if max(p.calls, p.wanted) > p.alarm {
		p.alarm = 1 << 40
		p.a.Alarm(echo)
	}
}

func (p *platform) Scale(_ context.Context, ref function.Ref, replicas int) error {
	time.Sleep(5 * time.Millisecond)
	p.mu.Lock()
	err := p.refuse
	p.mu.Unlock()
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.scaled = append(p.scaled, replicas)
	p.mu.Unlock()
	p.set(replicas)
	return nil
}

// set is what a provider does that was asked for n replicas.
func (p *platform) set(n int) {
	p.mu.Lock()
	p.count()
	p.e.Desired = n
	if n < len(p.e.Replicas) {
		p.e.Replicas = p.e.Replicas[:n]
	}
	p.mu.Unlock()
	p.a.Alarm(echo)
	time.AfterFunc(p.start, func() {
		p.mu.Lock()
		p.count()
		for len(p.e.Replicas) < min(n, p.e.Desired) {
			p.e.Replicas = append(p.e.Replicas, function.Replica{ID: fmt.Sprint(len(p.e.Replicas)), Ready: true, Slots: 1})
		}
		p.mu.Unlock()
		p.a.Alarm(echo)
	})
}

// load makes it n calls at once.
func (p *platform) load(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count()
	p.arrived += int64(max(0, n-p.calls))
	p.calls = n
	p.ring()
}

// expect fails the test unless the function was scaled so, since expect was
// called last.
func (p *platform) expect(when string, want ...int) {
	p.t.Helper()
	synctest.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	if diff := cmp.Diff(want, p.scaled); diff != "" {
		p.t.Errorf("%s it was scaled otherwise (-want +got):\n%s", when, diff)
	}
	p.scaled = nil
}

// queue makes it so many calls that the queue worker wants in flight, and so
// many that come after them.
func (p *platform) queue(wanted, behind int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count()
	p.wanted, p.behind = wanted, behind
	p.ring()
}

func (p *platform) explain() Explanation {
	p.t.Helper()
	x, ok := p.a.Explain(echo)
	if !ok {
		p.t.Fatal("the function is not known")
	}
	return x
}

func labels(kv ...string) map[string]string {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m["com.openfaas.scale."+kv[i]] = kv[i+1]
	}
	return m
}

func TestMoreCallsThanReplicasAreForAreAnsweredByMoreReplicasAtOnce(t *testing.T) {
	inTime(t, labels("max", "8"), Options{}, func(_ *testing.T, p *platform) {
		time.Sleep(time.Minute + 300*time.Millisecond) // between two ticks
		p.load(5)
		time.Sleep(20 * time.Millisecond)
		p.expect("20 ms after the calls came", 5)
		x := p.explain()
		if len(x.Changes) != 1 || x.Changes[0].Previous != 1 || x.Changes[0].Desired != 5 || x.Changes[0].Formula != "ceil(5 calls in flight and waiting now / 1) = 5" {
			p.t.Errorf("the change is explained by %+v", x.Changes)
		}
		time.Sleep(2 * time.Minute)
		p.expect("once the mean is known to fill them all", 6)
		p.load(0)
		time.Sleep(10 * time.Second)
		p.expect("soon after it has gone")
		time.Sleep(time.Minute)
		synctest.Wait()
		p.mu.Lock()
		if p.e.Desired != 1 {
			p.t.Errorf("a minute later there are %d", p.e.Desired)
		}
		p.scaled = nil
		p.mu.Unlock()
	})
}

func TestAsynchronousCallsThatWaitAreAnsweredByMoreReplicasAtOnce(t *testing.T) {
	inTime(t, labels("max", "8"), Options{}, func(_ *testing.T, p *platform) {
		time.Sleep(time.Minute + 300*time.Millisecond) // between two ticks
		p.load(1)
		p.queue(3, 0)
		time.Sleep(20 * time.Millisecond)
		p.expect("20 ms after three calls were wanted in flight", 3)
		p.queue(100, 900)
		time.Sleep(20 * time.Millisecond)
		p.expect("20 ms after more were wanted than there may be replicas", 8)
		if d := p.explain().Latest; d.Bound != BoundMax || d.Inputs.Wanted != 100 || d.Inputs.Behind != 900 {
			p.t.Errorf("it is explained by %+v", d)
		}
		p.load(8)
		time.Sleep(2 * time.Minute)
		p.expect("while the queue is long")
		p.load(0)
		p.queue(0, 0)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		p.mu.Lock()
		if p.e.Desired != 1 {
			p.t.Errorf("two minutes after the queue was empty there are %d", p.e.Desired)
		}
		p.scaled = nil
		p.mu.Unlock()
	})
}

func TestAFunctionWithoutCallsIsNotLookedAt(t *testing.T) {
	for _, l := range []map[string]string{labels(), labels("min", "2", "max", "2"), labels("min", "0"), labels("zero", "true", "zero-duration", "48h"), labels("type", "cpu", "min", "0"), labels("type", "rps")} {
		inTime(t, l, Options{}, func(_ *testing.T, p *platform) {
			p.load(1)
			time.Sleep(time.Minute)
			p.load(0)
			time.Sleep(2 * time.Minute)
			p.mu.Lock()
			before := p.looks
			p.mu.Unlock()
			time.Sleep(24 * time.Hour)
			p.mu.Lock()
			defer p.mu.Unlock()
			if n := p.looks - before; n > 2 {
				p.t.Errorf("%v: looked at %d times in a day", l, n)
			}
			p.scaled = nil
		})
	}
}

func TestAFunctionThatMaySleepIsPutToSleepWhenItHasBeenIdleForLong(t *testing.T) {
	var backlog atomic.Int64
	var blind atomic.Bool
	backlogOf := func(function.Ref) (int, bool) { return int(backlog.Load()), !blind.Load() }
	o := Options{Sources: Sources{Backlog: backlogOf}}
	inTime(t, labels("zero", "true", "zero-duration", "5m"), o, func(_ *testing.T, p *platform) {
		p.load(1)
		time.Sleep(time.Hour)
		p.mu.Lock()
		p.scaled = nil
		p.mu.Unlock()
		p.expect("during a call of an hour")
		p.load(0)
		time.Sleep(4 * time.Minute)
		p.expect("before it was idle for so long", 1) // the second that the call's load asked for
		blind.Store(true)
		time.Sleep(10 * time.Minute)
		p.expect("while it is not known if asynchronous calls wait")
		blind.Store(false)
		backlog.Store(1)
		time.Sleep(10 * time.Minute)
		p.expect("while asynchronous calls wait")
		backlog.Store(0)
		time.Sleep(5*time.Minute + 2*time.Second)
		p.expect("five minutes after the last one", 0)
		if x := p.explain(); x.Changes[0].Bound != BoundIdle || x.Changes[0].Reason != "no call for 5m0s" {
			p.t.Errorf("it is explained by %+v", x.Changes[0])
		}
		time.Sleep(time.Hour)
		p.expect("while nobody calls")
	})
}

func TestWakingAsksForWhatTheWaitingCallsNeed(t *testing.T) {
	inTime(t, labels("min", "2", "max", "5"), Options{}, func(_ *testing.T, p *platform) {
		p.set(0) // by hand
		time.Sleep(time.Hour)
		p.expect("while nobody calls")
		p.load(4)
		if err := p.a.Wake(p.t.Context(), echo, 2); err != nil {
			p.t.Error(err)
		}
		p.expect("when it was woken", 4)
		if d := p.explain().Changes[0]; d.Previous != 0 || !strings.Contains(d.Reason, "4 calls wait for the function, which was asleep") {
			p.t.Errorf("it is explained by %+v", d)
		}
		p.set(0)
		p.load(0)
		time.Sleep(time.Minute)
		p.load(1)
		if err := p.a.Wake(p.t.Context(), echo, 2); err != nil {
			p.t.Error(err)
		}
		p.expect("when one call woke it", 2)
	})
}

func TestWhoeverWakesLearnsWhyItFails(t *testing.T) {
	inTime(t, labels("max", "5"), Options{}, func(_ *testing.T, p *platform) {
		p.set(0)
		p.load(1)
		p.mu.Lock()
		p.refuse = fault.Unavailable.Errorf("no room")
		p.mu.Unlock()
		if err := p.a.Wake(p.t.Context(), echo, 1); !errors.Is(err, fault.Unavailable) {
			p.t.Errorf("the error is %v", err)
		}
		if x := p.explain(); x.Failure != "no room" {
			p.t.Errorf("the failure is explained by %q", x.Failure)
		}
		if err := p.a.Wake(p.t.Context(), function.Ref{Name: "other", Namespace: "n"}, 1); !errors.Is(err, fault.NotFound) {
			p.t.Errorf("an unknown function: %v", err)
		}
	})
}

func TestAFunctionPutToSleepRightAfterItWokeWakesAgainAtOnce(t *testing.T) {
	inTime(t, labels("max", "5"), Options{}, func(_ *testing.T, p *platform) {
		for range 3 {
			p.load(0)
			p.set(0)
			p.load(1)
			if err := p.a.Wake(p.t.Context(), echo, 1); err != nil {
				p.t.Error(err)
			}
			p.expect("each time", 1)
		}
	})
}

func TestAChangeThatFailsIsTriedAgain(t *testing.T) {
	inTime(t, labels("max", "5"), Options{}, func(_ *testing.T, p *platform) {
		p.mu.Lock()
		p.refuse = errors.New("the provider does not answer")
		p.mu.Unlock()
		p.load(3)
		time.Sleep(10 * time.Second)
		p.expect("while the provider is away")
		p.mu.Lock()
		p.refuse = nil
		p.mu.Unlock()
		time.Sleep(tick + 20*time.Millisecond)
		p.expect("when it is back", 4)
	})
}

func TestWhatPeopleScaleIsTakenOverAgain(t *testing.T) {
	inTime(t, labels("max", "5"), Options{}, func(_ *testing.T, p *platform) {
		time.Sleep(time.Minute)
		p.set(4)
		time.Sleep(14 * time.Second)
		p.expect("in the first seconds")
		time.Sleep(time.Minute)
		p.expect("later", 1)
		p.set(7)
		time.Sleep(14 * time.Second)
		p.expect("in the first seconds of more than there may be")
		time.Sleep(time.Minute)
		p.expect("later", 1)
	})
}

func TestWhereMinAndMaxAreEqualTheNumberIsLeftToOthers(t *testing.T) {
	inTime(t, labels("min", "2", "max", "2"), Options{}, func(_ *testing.T, p *platform) {
		for _, n := range []int{4, 3, 9, 1} { // as another autoscaler does it
			p.set(n)
			p.load(30)
			time.Sleep(10 * time.Minute)
			p.expect(fmt.Sprintf("under load, with %d", n))
			p.load(0)
			time.Sleep(time.Hour)
			p.expect(fmt.Sprintf("without, with %d", n))
		}
		p.set(0)
		p.load(30)
		if err := p.a.Wake(p.t.Context(), echo, 2); err != nil {
			p.t.Error(err)
		}
		p.expect("by a call, when it slept", 2)
	})
}

func TestAnAlertAsksForMoreUntilItIsResolved(t *testing.T) {
	inTime(t, labels("max", "10", "factor", "25"), Options{}, func(_ *testing.T, p *platform) {
		alert := func(firing bool) {
			p.t.Helper()
			if err := p.a.Alert(p.t.Context(), echo, firing); err != nil {
				p.t.Error(err)
			}
		}
		time.Sleep(time.Minute)
		alert(true)
		p.expect("for an alert", 4)
		time.Sleep(2 * time.Minute)
		p.expect("while it fires")
		alert(true)
		p.expect("for its repetition", 7)
		time.Sleep(2 * time.Minute)
		alert(true)
		p.expect("for another", 10)
		alert(false)
		p.expect("at once when it is resolved")
		time.Sleep(time.Minute)
		p.expect("then", 1)
		alert(true)
		p.expect("for an alert", 4)
		time.Sleep(alertAge + time.Minute)
		p.expect("when it is not repeated", 1)
	})
	inTime(t, labels("max", "10", "factor", "0"), Options{}, func(_ *testing.T, p *platform) {
		if err := p.a.Alert(p.t.Context(), echo, true); err != nil {
			p.t.Error(err)
		}
		time.Sleep(time.Minute)
		p.expect("where alerts are ignored")
	})
	inTime(t, labels("min", "2", "max", "10"), Options{Off: true}, func(_ *testing.T, p *platform) {
		for _, firing := range []bool{true, true, false} {
			if err := p.a.Alert(p.t.Context(), echo, firing); err != nil {
				p.t.Error(err)
			}
			time.Sleep(time.Hour)
		}
		p.expect("where nothing but alerts scales", 4, 6, 2)
	})
}

func TestSwitchedOffItOnlyWakes(t *testing.T) {
	inTime(t, labels("max", "5", "zero", "true", "zero-duration", "1m"), Options{Off: true}, func(_ *testing.T, p *platform) {
		p.load(9)
		time.Sleep(time.Minute)
		p.load(0)
		time.Sleep(time.Hour)
		p.expect("under load and without")
		p.set(0)
		p.load(4)
		if err := p.a.Wake(p.t.Context(), echo, 1); err != nil {
			p.t.Error(err)
		}
		p.expect("by a call", 1)
		if p.explain().Automatic {
			p.t.Error("it is said to be automatic")
		}
	})
}

// peers are other gateways that a test plays.
type peers struct {
	mu        sync.Mutex
	leading   bool
	others    Load
	missing   bool
	published int
	announced []Decision
}

func (g *peers) Leading() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.leading
}

func (g *peers) Publish(function.Ref, Load) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.published++
}

func (g *peers) Others(function.Ref) (Load, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.others, !g.missing
}

func (g *peers) Announce(_ function.Ref, d Decision) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.announced = append(g.announced, d)
}

func (g *peers) told() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.published
}

func (g *peers) decisions() []Decision {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Clone(g.announced)
}

func (g *peers) set(leading bool, others int, missing bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leading, g.others, g.missing = leading, Load{InFlight: others, Busy: float64(others)}, missing
}

func TestOnlyTheGatewayThatLeadsScales(t *testing.T) {
	g := &peers{}
	inTime(t, labels("max", "9"), Options{Peers: g}, func(_ *testing.T, p *platform) {
		time.Sleep(time.Minute)
		p.load(2)
		time.Sleep(10 * time.Second)
		p.expect("by one that follows")
		if n := g.told(); n < 10 {
			p.t.Errorf("it told its load %d times", n)
		}
		g.set(true, 3, false)
		time.Sleep(tick + 20*time.Millisecond)
		p.expect("once it leads, for the calls of all", 6)
		if all := g.decisions(); len(all) != 1 || all[0].Desired != 6 {
			p.t.Errorf("it announced %+v", all)
		}
		g.set(true, 7, false)
		p.a.Poke(echo)
		time.Sleep(20 * time.Millisecond)
		p.expect("at once when another has more to do", 9)
	})
}

func TestNothingIsTakenAwayWhileAGatewayIsMissing(t *testing.T) {
	g := &peers{leading: true}
	inTime(t, labels("max", "9"), Options{Peers: g}, func(_ *testing.T, p *platform) {
		g.set(true, 7, false)
		time.Sleep(time.Minute)
		p.mu.Lock()
		p.scaled = nil
		p.mu.Unlock()
		g.set(true, 0, true)
		time.Sleep(10 * time.Minute)
		p.expect("while it is missing")
		if d := p.explain().Latest; d.Bound != BoundMissing {
			p.t.Errorf("it is explained by %+v", d)
		}
		p.load(9)
		time.Sleep(tick)
		p.expect("though more is added", 9)
		p.load(0)
		g.set(true, 0, false)
		time.Sleep(29 * time.Second)
		p.expect("until the window is complete again")
		time.Sleep(5 * time.Second)
		p.expect("then", 1)
	})
}

func TestARemovedFunctionIsForgotten(t *testing.T) {
	inTime(t, labels(), Options{}, func(_ *testing.T, p *platform) {
		time.Sleep(time.Minute)
		p.a.Forget(echo)
		other := function.Ref{Name: "other", Namespace: "n"}
		p.a.Alarm(other)
		synctest.Wait()
		if _, ok := p.a.Explain(other); ok {
			p.t.Error("a function is known that was never there")
		}
		p.a.mu.Lock()
		defer p.a.mu.Unlock()
		if n := len(p.a.functions); n != 0 {
			p.t.Errorf("%d are remembered", n)
		}
	})
}
