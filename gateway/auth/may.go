package auth

import (
	"cmp"
	"slices"

	"github.com/graphene-faas/graphene/internal/fault"
)

// An Action is something a caller can ask for, in the words of OpenFaaS
// policies.
type Action string

// The actions.
const (
	FunctionList   Action = "Function:List"
	FunctionGet    Action = "Function:Get"
	FunctionCreate Action = "Function:Create"
	FunctionUpdate Action = "Function:Update"
	FunctionDelete Action = "Function:Delete"
	FunctionScale  Action = "Function:Scale"
	FunctionLogs   Action = "Function:Logs"
	FunctionInvoke Action = "Function:Invoke"

	SecretList   Action = "Secret:List"
	SecretCreate Action = "Secret:Create"
	SecretUpdate Action = "Secret:Update"
	SecretDelete Action = "Secret:Delete"

	NamespaceList   Action = "Namespace:List"
	NamespaceGet    Action = "Namespace:Get"
	NamespaceCreate Action = "Namespace:Create"
	NamespaceUpdate Action = "Namespace:Update"
	NamespaceDelete Action = "Namespace:Delete"

	CallList  Action = "Call:List"
	CallRetry Action = "Call:Retry"
	CallPurge Action = "Call:Purge"
	QueueList Action = "Queue:List"
	QueueGet  Action = "Queue:Get"

	SystemInfo Action = "System:Info"
)

// Actions lists every action.
func Actions() []Action {
	return []Action{
		FunctionList, FunctionGet, FunctionCreate, FunctionUpdate, FunctionDelete, FunctionScale, FunctionLogs, FunctionInvoke,
		SecretList, SecretCreate, SecretUpdate, SecretDelete,
		NamespaceList, NamespaceGet, NamespaceCreate, NamespaceUpdate, NamespaceDelete,
		CallList, CallRetry, CallPurge, QueueList, QueueGet,
		SystemInfo,
	}
}

// A Resource is what an action is about: a namespace, or one function in it.
// The zero Resource is the platform as a whole.
type Resource struct {
	Namespace string
	Name      string
}

// String returns "*", "NAMESPACE:*" or "NAMESPACE:NAME".
func (r Resource) String() string {
	if r.Namespace == "" {
		return "*"
	}
	return r.Namespace + ":" + cmp.Or(r.Name, "*")
}

// A Decision is whether somebody may do something, and why.
type Decision struct {
	Caller   Caller
	Action   Action
	Resource Resource
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
	case d.Rule == "" && !slices.Contains(Actions(), d.Action):
		return fault.Denied.Errorf("%q is no action", d.Action)
	case d.Rule == "":
		return fault.Denied.Errorf("%s may not do %s on %s", d.Caller.Subject, d.Action, d.Resource)
	}
	return nil
}

// Decide decides whether c may do action to resource. An action that is not
// one of [Actions] is refused to everybody.
func Decide(c Caller, action Action, resource Resource) Decision {
	d := Decision{Caller: c, Action: action, Resource: resource}
	switch {
	case c == Caller{}, !slices.Contains(Actions(), action):
	case c.Admin:
		d.Rule = "administrator"
	case c.rights != nil:
		d.Rule, _ = c.rights.allows(action, resource)
	}
	return d
}

// May returns nil if c may do action to resource, and else the error of the
// decision.
func May(c Caller, action Action, resource Resource) error {
	return Decide(c, action, resource).Err()
}
