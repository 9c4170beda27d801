package autoscale

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// A Bound is what kept a decision from doing what the load alone asks for, or
// decided in its place.
type Bound string

// The bounds, in the words of the API.
const (
	BoundNone       Bound = ""
	BoundMin        Bound = "min"          // com.openfaas.scale.min
	BoundMax        Bound = "max"          // com.openfaas.scale.max
	BoundRoom       Bound = "room"         // no room for more where the function runs
	BoundStepUp     Bound = "step-up"      // enough were added lately
	BoundStepDown   Bound = "step-down"    // enough were taken away lately
	BoundBurst      Bound = "burst"        // none is taken away during a burst
	BoundDownWindow Bound = "down-window"  // more were needed a moment ago
	BoundMissing    Bound = "missing-data" // not everything is known about the last while
	BoundAlert      Bound = "alert"        // an alert asks for so many
	BoundFixed      Bound = "fixed"        // min and max are equal
	BoundAsleep     Bound = "asleep"       // nobody calls
	BoundIdle       Bound = "idle"         // nobody called for long
)

// A Decision is how many replicas a function should have, and why.
type Decision struct {
	At       time.Time `json:"at"`
	Desired  int       `json:"desired"`
	Previous int       `json:"previous"`
	// Recommended is what the formula alone asks for.
	Recommended int    `json:"recommended"`
	Formula     string `json:"formula,omitempty"` // with its numbers
	Bound       Bound  `json:"bound,omitempty"`   // what decided besides the formula
	Reason      string `json:"reason"`            // a sentence
	Bursting    bool   `json:"bursting,omitempty"`
	Inputs      Inputs `json:"inputs"`
}

// Inputs are the numbers that a decision was made of.
type Inputs struct {
	Type       function.ScaleType `json:"type"`
	Target     float64            `json:"target"`     // load of one replica
	Proportion float64            `json:"proportion"` // of the target
	Stable     float64            `json:"stable"`     // mean load over the stable window
	Burst      float64            `json:"burst"`      // load now, or mean over the burst window, whichever is more
	InFlight   int                `json:"inFlight"`
	Waiting    int                `json:"waiting"`
	Wanted     int                `json:"wanted,omitempty"`  // asynchronous calls that would be in flight, if there were room
	Behind     int                `json:"behind,omitempty"`  // asynchronous calls besides these
	CPU        *float64           `json:"cpu,omitempty"`     // thousandths of a core
	Backlog    *int               `json:"backlog,omitempty"` // asynchronous calls
	Ready      int                `json:"ready"`
	Starting   int                `json:"starting"`
	Slots      int                `json:"slots,omitempty"` // of one replica
}

// Times within which calls that wait may be served without more replicas.
const (
	patience     = 100 * time.Millisecond // a moment's
	pilePatience = 500 * time.Millisecond // where otherwise no more come than the replicas can serve
)

// Decide says how many replicas a function should have at now, the time of the
// last sample in h, or before it. It changes nothing: whoever follows the
// decision tells h by Keep.
func Decide(now time.Time, p Policy, h *History) Decision {
	s, ok := h.last()
	d := Decision{At: now, Desired: s.Desired, Previous: s.Desired, Recommended: s.Desired}
	if !ok {
		d.Bound, d.Reason = BoundMissing, "nothing is known yet"
		return d
	}
	l := measure(now, p, h, s)
	d.Inputs = l.inputs(p, s)
	switch {
	case s.Desired == 0 && s.Waiting == 0:
		d.Recommended, d.Bound, d.Reason = 0, BoundAsleep, "asleep, and nobody calls"
		return d
	case p.sleeps(now, s, h):
		d.Recommended, d.Desired, d.Bound = 0, 0, BoundIdle
		d.Reason = fmt.Sprintf("no call for %s", p.ZeroAfter)
		return d
	case p.Fixed():
		d.Recommended, d.Bound, d.Reason = p.Min, BoundFixed, fmt.Sprintf("min and max are both %d: load does not change the number", p.Min)
		if s.Desired == 0 {
			d.Desired = s.fit(p.Min)
			d.Reason = fmt.Sprintf("woken by a call; min and max are both %d", p.Min)
		}
		return d
	case !l.known:
		d.Bound, d.Reason = BoundMissing, fmt.Sprintf("nothing is known about %s", l.noun)
		d.Desired = s.fit(min(max(d.Desired, p.Min), p.Max))
		return d
	}
	d.Bursting = max(l.burst, l.atOnce) >= p.BurstFactor*l.capacity(max(1, s.Ready))
	d.Recommended = l.replicas()
	d.Formula = l.formula(p)
	d.bound(p, h, s)
	d.Reason = d.explain(p, h, s, l)
	return d
}

// sleeps reports whether the function is to be put to sleep. What is not known
// counts as a call.
func (p Policy) sleeps(now time.Time, s Sample, h *History) bool {
	return p.Zero && s.Desired > 0 && s.idle() && !s.Partial && !s.Blind && now.Sub(h.active) >= p.ZeroAfter
}

// bound turns what is recommended into what is to be done.
func (d *Decision) bound(p Policy, h *History, s Sample) {
	n := d.Recommended
	apply := func(bounded int, b Bound) {
		if bounded != n {
			n, d.Bound = bounded, b
		}
	}
	// Whoever set a larger number by hand is not contradicted at once: it comes
	// down when nobody needs it.
	apply(min(n, p.Max), BoundMax)
	apply(max(n, min(s.Floor, p.Max)), BoundAlert)
	if n < s.Desired {
		switch held := max(n, h.most(d.At, p.DownWindow)); {
		case !h.complete(d.At, max(p.DownWindow, p.Stable)):
			apply(s.Desired, BoundMissing)
		case d.Bursting || !h.burst.IsZero() && d.At.Sub(h.burst) < p.Stable:
			apply(s.Desired, BoundBurst)
		default:
			apply(min(held, s.Desired), BoundDownWindow)
		}
	}
	least, most := h.span(d.At, p.Burst, s.Desired)
	if p.StepUp > 0 {
		apply(min(n, max(least+p.StepUp, s.Desired)), BoundStepUp)
	}
	if p.StepDown > 0 {
		apply(max(n, min(most-p.StepDown, s.Desired)), BoundStepDown)
	}
	apply(max(n, p.Min), BoundMin)
	apply(s.fit(n), BoundRoom)
	d.Desired = n
}

// A load is how much there is to do, in the unit of a policy's type.
type load struct {
	known  bool
	noun   string
	stable float64 // mean over the stable window
	burst  float64 // mean over the burst window, or a shorter one if that is more
	atOnce float64 // of this moment; 0 where that does not count
	target float64 // of one replica
	share  float64 // of the target that means are to fill
	capped bool    // target is the number of slots, which is less than what the labels say
	soon   bool    // there is more to do, but replicas there are or that are starting will soon have done it
}

func measure(now time.Time, p Policy, h *History, s Sample) load {
	l := load{share: p.Proportion}
	var value func(Sample) (float64, bool)
	switch p.Type {
	case function.ScaleRPS:
		l.noun = "calls per second"
		value = func(s Sample) (float64, bool) { return s.Rate, true }
	case function.ScaleCPU:
		l.noun = "thousandths of a core"
		value = func(s Sample) (float64, bool) {
			if s.CPU == nil {
				return 0, false
			}
			return *s.CPU, true
		}
	case function.ScaleQueue:
		l.noun = "asynchronous calls"
		value = func(s Sample) (float64, bool) {
			if s.Backlog == nil {
				return 0, false
			}
			return float64(*s.Backlog), true
		}
	case function.ScaleCapacity:
		l.noun = "calls in flight and waiting"
		value = func(s Sample) (float64, bool) { return max(s.Busy+s.Queued, s.Wished), true }
	}
	l.target = p.TargetFor(s.Slots)
	l.capped = l.target < p.Target
	var recent bool
	l.stable, l.known = h.mean(now, p.Stable, value)
	l.burst, recent = h.mean(now, p.Burst, value)
	l.known = l.known && recent
	if p.Type == function.ScaleCapacity {
		l.known = true
		l.hurry(now, p, h, s, value)
	}
	return l
}

// hurry takes in what there is to do at this moment, without waiting for it to
// show in a mean. Calls that replicas will have served in no time do not count,
// nor do those that pile up where the replicas there are, and those that are
// starting, suffice for the calls that come.
func (l *load) hurry(now time.Time, p Policy, h *History, s Sample, value func(Sample) (float64, bool)) {
	calls := float64(s.Calls())
	if recent, ok := h.mean(now, patience, value); ok {
		l.burst = max(l.burst, recent)
	}
	service, known := h.service(now, p.Stable)
	served := func(limit time.Duration, replicas int) bool {
		slots := float64(replicas) * l.target
		excess := calls + float64(s.Behind) - slots
		return excess <= 0 || known && slots > 0 && excess*service/slots <= limit.Seconds()
	}
	if !served(patience, s.Ready) {
		l.atOnce = calls
	}
	rate, _ := h.mean(now, pilePatience, func(s Sample) (float64, bool) { return s.Rate, true })
	all := s.Ready + s.Starting
	if known && rate*service <= l.capacity(all) && l.replicas() > all && served(pilePatience, all) {
		most := l.capacity(all)
		l.stable, l.burst, l.atOnce, l.soon = min(l.stable, most), min(l.burst, most), min(l.atOnce, most), true
	}
}

// capacity is the mean load that so many replicas are for.
func (l load) capacity(replicas int) float64 { return float64(replicas) * l.target * l.share }

// service returns how long a replica takes for a call, in seconds. It reports
// false while no call has ended.
func (h *History) service(now time.Time, window time.Duration) (float64, bool) {
	busy, _ := h.mean(now, window, func(s Sample) (float64, bool) { return s.Busy, true })
	done, _ := h.mean(now, window, func(s Sample) (float64, bool) { return s.Done, true })
	return busy / done, done > 0
}

// need is one way to say how many replicas there should be.
type need struct {
	load     float64
	when     string
	each     float64
	replicas int
}

// needs returns what the means ask for, and what this moment asks for. A mean
// is to leave some reserve; at one moment every slot may be taken.
func (l load) needs(p Policy) []need {
	return []need{
		newNeed(l.stable, "over "+p.Stable.String(), l.target*l.share),
		newNeed(l.burst, "over "+p.Burst.String(), l.target*l.share),
		newNeed(l.atOnce, "now", l.target),
	}
}

func newNeed(load float64, when string, each float64) need {
	const tolerance = 1e-9 // of a division that should come out even
	return need{load, when, each, int(math.Ceil(min(load/each, math.MaxInt32) - tolerance))}
}

// most is the need for the most replicas, the earlier of several.
func (l load) most(p Policy) need {
	return slices.MaxFunc(l.needs(p), func(a, b need) int { return cmp.Compare(a.replicas, b.replicas) })
}

// replicas is how many replicas the load needs.
func (l load) replicas() int { return l.most(Policy{}).replicas }

func (l load) formula(p Policy) string {
	n := l.most(p)
	each := number(l.target)
	if n.each != l.target {
		each = fmt.Sprintf("(%s × %s)", each, number(l.share))
	}
	return fmt.Sprintf("ceil(%s %s / %s) = %d", l.amount(n.load), n.when, each, n.replicas)
}

// amount writes so much load with its unit.
func (l load) amount(load float64) string {
	if text := number(load); text != "1" {
		return text + " " + l.noun
	}
	return "1 " + strings.Replace(l.noun, "calls", "call", 1)
}

func (l load) inputs(p Policy, s Sample) Inputs {
	return Inputs{
		Type: p.Type, Target: l.target, Proportion: p.Proportion,
		Stable: round(l.stable), Burst: round(max(l.burst, l.atOnce)),
		InFlight: s.InFlight, Waiting: s.Waiting, Wanted: s.Wanted, Behind: s.Behind, CPU: s.CPU, Backlog: s.Backlog,
		Ready: s.Ready, Starting: s.Starting, Slots: s.Slots,
	}
}

// explain says in a sentence what was decided and why.
func (d *Decision) explain(p Policy, h *History, s Sample, l load) string {
	var b strings.Builder
	n := l.most(p)
	fmt.Fprintf(&b, "%s %s: %s for %s each", l.amount(n.load), n.when, plural(n.replicas, "replica", "replicas"), number(n.each))
	switch {
	case s.Desired == 0:
		fmt.Fprintf(&b, "; %s for the function, which was asleep", plural(s.Waiting, "call waits", "calls wait"))
	case l.soon:
		fmt.Fprintf(&b, "; %s, and the %d that are ready and %d that are starting will soon have served what piled up",
			plural(s.Waiting, "call waits", "calls wait"), s.Ready, s.Starting)
	}
	if l.capped {
		fmt.Fprintf(&b, "; a replica handles %d at once, less than the target", s.Slots)
	}
	switch d.Bound {
	case BoundMin:
		fmt.Fprintf(&b, "; at least %d", p.Min)
	case BoundMax:
		fmt.Fprintf(&b, "; at most %d", p.Max)
	case BoundRoom:
		fmt.Fprintf(&b, "; there is room for %d: %s", s.Room.Replicas, s.Room.Reason)
	case BoundStepUp:
		fmt.Fprintf(&b, "; at most %d more within %s", p.StepUp, p.Burst)
	case BoundStepDown:
		fmt.Fprintf(&b, "; at most %d fewer within %s", p.StepDown, p.Burst)
	case BoundBurst:
		left := p.Stable
		if !d.Bursting {
			left -= d.At.Sub(h.burst)
		}
		fmt.Fprintf(&b, "; no fewer for another %s after a burst", left.Round(time.Second))
	case BoundDownWindow:
		fmt.Fprintf(&b, "; no fewer than were needed in the last %s", p.DownWindow)
	case BoundMissing:
		fmt.Fprintf(&b, "; no fewer until everything is known about the last %s", max(p.DownWindow, p.Stable))
	case BoundAlert:
		fmt.Fprintf(&b, "; an alert asks for %d", s.Floor)
	}
	return b.String()
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// number writes f with what matters of its digits.
func number(f float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", f), "0"), ".")
}

func round(f float64) float64 { return math.Round(f*1000) / 1000 }
