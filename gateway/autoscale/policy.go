package autoscale

import (
	"cmp"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// Defaults are an installation's answers to what a function's labels leave
// open. Zero values mean the default that the field's comment names.
type Defaults struct {
	Type   function.ScaleType // capacity
	Target float64            // load of one replica, in the unit of the type; 50. In capacity mode the slots of a replica come first
	Max    int                // 20
	Factor int                // step of an alert, in percent of the maximum; 20

	Proportion float64       // share of the target that replicas are loaded to; 0.9
	ZeroAfter  time.Duration // idle time before a function that may sleep is put to sleep; 15 minutes
	DownWindow time.Duration // 15 s; negative is none

	Stable      time.Duration // window whose mean load decides; 30 s
	Burst       time.Duration // window whose mean load can only ask for more; 3 s
	BurstFactor float64       // load beyond capacity, by this factor, is a burst; 2

	StepUp, StepDown int // most replicas that are added, or taken away, within one burst window; 0 is any number
}

func (d Defaults) filled() Defaults {
	d.Type = cmp.Or(d.Type, function.ScaleCapacity)
	d.Target = cmp.Or(d.Target, 50)
	d.Max = cmp.Or(d.Max, 20)
	d.Factor = cmp.Or(d.Factor, 20)
	d.Proportion = cmp.Or(d.Proportion, 0.9)
	d.ZeroAfter = cmp.Or(d.ZeroAfter, 15*time.Minute)
	d.DownWindow = cmp.Or(d.DownWindow, 15*time.Second)
	d.Stable = cmp.Or(d.Stable, 30*time.Second)
	d.Burst = cmp.Or(d.Burst, 3*time.Second)
	d.BurstFactor = cmp.Or(d.BurstFactor, 2)
	return d
}

// A Policy says how one function is scaled.
type Policy struct {
	Type function.ScaleType
	// Target is the load of one replica, in the unit of Type. 0, which there is
	// in capacity mode only, is the number of its slots, or else OpenTarget.
	Target     float64
	OpenTarget float64
	Proportion float64 // of the target that replicas are loaded to

	Min, Max  int // while the function is awake; Min is at least 1
	Zero      bool
	ZeroAfter time.Duration

	DownWindow    time.Duration // fewer replicas only if fewer would have sufficed for so long
	Stable, Burst time.Duration
	BurstFactor   float64
	StepUp        int // 0 is any number
	StepDown      int // 0 is any number
	AlertFactor   int // percent; 0 ignores alerts
}

// NewPolicy makes a policy of what a function's labels say and, where they say
// nothing, the installation's defaults.
func NewPolicy(s function.Scale, d Defaults) Policy {
	d = d.filled()
	p := Policy{
		Type:        cmp.Or(s.Type, d.Type),
		Target:      s.Target,
		OpenTarget:  d.Target,
		Proportion:  cmp.Or(s.Proportion, d.Proportion),
		Min:         max(1, s.Min),
		Max:         s.Max,
		Zero:        s.Zero,
		ZeroAfter:   cmp.Or(s.ZeroAfter.Std(), d.ZeroAfter),
		DownWindow:  max(0, d.DownWindow),
		Stable:      d.Stable,
		Burst:       min(d.Burst, d.Stable),
		BurstFactor: d.BurstFactor,
		StepUp:      d.StepUp,
		StepDown:    d.StepDown,
		AlertFactor: d.Factor,
	}
	if p.Max == 0 {
		p.Max = max(d.Max, p.Min)
	}
	if p.Type != function.ScaleCapacity && p.Target == 0 {
		p.Target = d.Target
	}
	if s.DownWindow != nil {
		p.DownWindow = s.DownWindow.Std()
	}
	if s.Factor != nil {
		p.AlertFactor = *s.Factor
	}
	return p
}

// TargetFor returns the load of one replica that handles so many calls at once;
// 0 is any number.
func (p Policy) TargetFor(slots int) float64 {
	switch {
	case p.Type != function.ScaleCapacity:
		return p.Target
	case slots > 0 && (p.Target == 0 || p.Target > float64(slots)):
		return float64(slots)
	}
	return cmp.Or(p.Target, p.OpenTarget)
}

// Fixed reports whether load does not change the number of replicas, other
// than to zero and back.
func (p Policy) Fixed() bool { return p.Min >= p.Max }

// alerted returns the number of replicas that a firing alert makes of current.
func (p Policy) alerted(current int) int {
	if p.AlertFactor == 0 || p.Fixed() {
		return current
	}
	step := (p.Max*p.AlertFactor + 99) / 100
	return min(max(current, p.Min)+step, p.Max)
}
