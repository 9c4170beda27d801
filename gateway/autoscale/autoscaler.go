package autoscale

import (
	"context"

	"github.com/graphene-faas/graphene/internal/function"
)

// Functions is what the gateway knows of functions.
type Functions interface {
	// Endpoints returns where ref is; it reports false if there is no such
	// function.
	Endpoints(ref function.Ref) (function.Endpoints, bool)
	// Reading returns what was counted of ref.
	Reading(ref function.Ref) (Reading, bool)
	// Alarm asks for one call of [Autoscaler.Poke] when ref has more than that
	// many calls in flight and waiting.
	Alarm(ref function.Ref, above int)
}

// A Scaler has a function run with so many replicas.
type Scaler interface {
	Scale(ctx context.Context, ref function.Ref, replicas int) error
}

// Peers are the other gateways in front of the same functions. All see the
// samples of all, and one of them leads: it is the one that scales. Its methods
// are called often and must not block.
type Peers interface {
	// Leading reports whether this gateway decides.
	Leading() bool
	// Publish tells the others what this gateway saw. It is called once a
	// second for a function with something to do, and at once when there is
	// more than its replicas are for.
	Publish(ref function.Ref, l Load)
	// Others returns what the others saw lately, together. It reports false
	// while one of them that was there a moment ago is not heard of.
	Others(ref function.Ref) (l Load, complete bool)
	// Announce tells the others what was decided; they give it to
	// [Autoscaler.Learn].
	Announce(ref function.Ref, d Decision)
}

// Sources are the inputs of other parts. A nil function is an input that nobody has.
type Sources struct {
	// CPU returns what the replicas of a function use together, in thousandths
	// of a core. It reports false when that is not known.
	CPU func(ref function.Ref) (float64, bool)
	// Backlog returns how many asynchronous calls of a function wait or run. It
	// reports false when that is not known.
	Backlog func(ref function.Ref) (int, bool)
}
