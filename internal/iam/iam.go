// Package iam is the language in which is said who may do what: trusted
// issuers, policies and roles, with the shapes and the meaning they have in
// OpenFaaS. It is pure: it reads texts and answers questions, and knows neither
// requests nor keys.
//
// A caller is known by [Claims]; [Rules.Rights] says what follows from them,
// and [Rights.Allows] whether that includes an [Action] on a [Resource], and by
// which rule. What no rule allows is refused. Start with [ParseRules].
package iam

import "cmp"

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

	KeyList   Action = "Key:List"
	KeyCreate Action = "Key:Create"
	KeyDelete Action = "Key:Delete"
	KeyRotate Action = "Key:Rotate" // of the keys that sign the platform's own tokens

	SystemInfo  Action = "System:Info"
	SystemUsage Action = "System:Usage"
)

// Actions lists every action.
func Actions() []Action {
	return []Action{
		FunctionList, FunctionGet, FunctionCreate, FunctionUpdate, FunctionDelete, FunctionScale, FunctionLogs, FunctionInvoke,
		SecretList, SecretCreate, SecretUpdate, SecretDelete,
		NamespaceList, NamespaceGet, NamespaceCreate, NamespaceUpdate, NamespaceDelete,
		CallList, CallRetry, CallPurge, QueueList, QueueGet,
		KeyList, KeyCreate, KeyDelete, KeyRotate, SystemInfo, SystemUsage,
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
