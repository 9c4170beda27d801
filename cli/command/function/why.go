package function

import (
	"fmt"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
)

// why adds to a description why the function has as many replicas as it has.
func why(t *term.Table, s *client.Scaling, now time.Time) {
	if s == nil {
		return
	}
	p, latest := s.Policy, s.Latest
	t.Row("Scaling:", policy(s))
	if p.Zero {
		t.Row("  to zero", fmt.Sprintf("after %s without a call", p.ZeroAfter))
	}
	i := latest.Inputs
	queue := ""
	if n := i.Wanted + i.Behind; n > 0 {
		queue = fmt.Sprintf(", %d in the queue", n)
	}
	t.Row("  load", fmt.Sprintf("%s in flight, %d waiting%s, %d ready, %d starting", term.Count(i.InFlight, "call"), i.Waiting, queue, i.Ready, i.Starting))
	if latest.Formula != "" {
		t.Row("  formula", latest.Formula)
	}
	t.Row("  decision", decision(latest))
	if s.Failure != "" {
		t.Row("  failed", s.Failure)
	}
	for n, d := range s.Changes {
		if n == shownChanges {
			break
		}
		ago := now.Sub(d.At).Round(time.Second)
		t.Row(first(n, "Changes:"), fmt.Sprintf("%s ago: %d → %d, %s", max(0, ago), d.Previous, d.Desired, because(d)))
	}
}

// shownChanges is how many changes people are shown; programs get all.
const shownChanges = 10

// policy says by what a function is scaled.
func policy(s *client.Scaling) string {
	p := s.Policy
	switch {
	case !s.Automatic:
		return "left to others; calls wake it"
	case p.Min >= p.Max:
		return fmt.Sprintf("always %s", term.Count(p.Min, "replica"))
	}
	target := "a replica's slots"
	if p.Target > 0 {
		target = fmt.Sprintf("%g for each replica", p.Target)
	}
	return fmt.Sprintf("by %s, %s, loaded to %g%%; %d to %s; fewer after %s", p.Type, target, 100*p.Proportion, p.Min, term.Count(p.Max, "replica"), p.DownWindow)
}

func decision(d client.Decision) string {
	return term.Count(d.Desired, "replica") + ": " + because(d)
}

// because is the reason of a decision, with the bound that applied.
func because(d client.Decision) string {
	if d.Bound == "" {
		return d.Reason
	}
	return d.Reason + " (" + strings.ReplaceAll(d.Bound, "-", " ") + ")"
}
