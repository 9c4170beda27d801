package auth

import (
	"slices"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
)

// A Decision is whether somebody may do something, and why.
type Decision struct {
	Caller   Caller
	Action   iam.Action
	Resource iam.Resource
	// Rule says what allows it, for people; "" if nothing does.
	Rule string
}

// Err returns nil if the decision is to allow, and else an error of kind
// fault.Denied that says which right is missing, or fault.Unauthenticated
// where nobody asks.
func (d Decision) Err() error {
	switch {
	case d.Caller == Caller{}:
		return ErrNone
	case d.Rule == "" && !slices.Contains(iam.Actions(), d.Action):
		return fault.Denied.Errorf("%q is no action", d.Action)
	case d.Rule == "":
		return fault.Denied.Errorf("%s may not do %s on %s", d.Caller.Subject, d.Action, d.Resource)
	}
	return nil
}

// Decide decides whether c may do action to resource. An action that is not
// one of [iam.Actions] is refused to everybody.
func Decide(c Caller, action iam.Action, resource iam.Resource) Decision {
	d := Decision{Caller: c, Action: action, Resource: resource}
	switch {
	case c == Caller{}, !slices.Contains(iam.Actions(), action):
	case c.Admin:
		d.Rule = "administrator"
	case c.known != nil:
		d.Rule, _ = c.known.rights.Allows(action, resource)
	}
	return d
}

// May returns nil if c may do action to resource, and else the error of the
// decision.
func May(c Caller, action iam.Action, resource iam.Resource) error {
	return Decide(c, action, resource).Err()
}
