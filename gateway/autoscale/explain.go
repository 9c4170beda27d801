package autoscale

import (
	"slices"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// An Explanation says why a function has as many replicas as it has.
type Explanation struct {
	Function  string `json:"function"`
	Namespace string `json:"namespace"`
	// Automatic is false where the installation leaves the number of replicas
	// to others.
	Automatic bool `json:"automatic"`
	// Leading says whether the gateway that answers is the one that decides.
	Leading bool       `json:"leading"`
	Policy  PolicyView `json:"policy"`
	// Latest is the last decision, whether it changed something or not.
	Latest Decision `json:"latest"`
	// Changes are the last decisions that changed something, newest first.
	Changes []Decision `json:"changes"`
	// Failure says why the last change could not be made.
	Failure string `json:"failure,omitempty"`
}

// A PolicyView is a [Policy] for people.
type PolicyView struct {
	Type       function.ScaleType `json:"type"`
	Target     float64            `json:"target,omitempty"` // 0: a replica's slots
	Proportion float64            `json:"proportion"`
	Min        int                `json:"min"`
	Max        int                `json:"max"`
	Zero       bool               `json:"zero"`
	ZeroAfter  function.Duration  `json:"zeroAfter"`
	DownWindow function.Duration  `json:"downWindow"`
	Stable     function.Duration  `json:"stableWindow"`
	Burst      function.Duration  `json:"burstWindow"`
}

// Explain returns why ref has as many replicas as it has. It reports false if
// there is no such function.
func (a *Autoscaler) Explain(ref function.Ref) (Explanation, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e, ok := a.o.Functions.Endpoints(ref)
	if !ok {
		return Explanation{}, false
	}
	if s := a.functions[ref]; s == nil || s.due.IsZero() || time.Until(s.due) > tick {
		// It is looked at so seldom that the last time says little.
		if _, act := a.look(time.Now(), ref, false); act {
			a.Poke(ref)
		}
	}
	s := a.functions[ref]
	if s == nil {
		return Explanation{}, false
	}
	p := NewPolicy(e.Scale, a.o.Defaults)
	x := Explanation{
		Function: ref.Name, Namespace: ref.Namespace,
		Automatic: !a.o.Off, Leading: a.leads(),
		Policy: PolicyView{
			Type: p.Type, Target: p.Target, Proportion: p.Proportion, Min: p.Min, Max: p.Max,
			Zero: p.Zero, ZeroAfter: function.Duration(p.ZeroAfter), DownWindow: function.Duration(p.DownWindow),
			Stable: function.Duration(p.Stable), Burst: function.Duration(p.Burst),
		},
		Latest:  s.latest,
		Changes: slices.Clone(s.changes),
		Failure: s.failure,
	}
	slices.Reverse(x.Changes)
	if x.Changes == nil {
		x.Changes = []Decision{}
	}
	return x, true
}
