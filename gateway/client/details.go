package client

import (
	"context"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/function"
)

// Details is a function's status with what OpenFaaS has no field for. A
// gateway that does not know details leaves everything but the status empty;
// Revision, which counts from 1, is 0 then.
type Details struct {
	types.FunctionStatus
	// Revision counts the function's deploys. The latest one is in effect when
	// an instance of that revision is ready.
	Revision  int64              `json:"revision,omitzero"`
	Failure   string             `json:"failure,omitempty"` // why the latest version cannot start, when that is known
	Waiting   string             `json:"waiting,omitempty"` // what keeps replicas from starting that may pass by itself
	Note      string             `json:"note,omitempty"`    // what is particular about how it runs
	Tier      string             `json:"tier,omitempty"`    // how warm it is: hot, frozen, zygote or asleep
	Rest      *function.Rest     `json:"rest,omitempty"`    // why it is in that tier, while it sleeps
	Room      *function.Room     `json:"room,omitempty"`    // how many replicas there can be now
	Instances []function.Replica `json:"instances,omitempty"`
	Settings  function.Settings  `json:"settings,omitzero"`
}

// Details describes one function with its instances. With usage set, what
// they use is measured too.
func (c *Client) Details(ctx context.Context, ref function.Ref, usage bool) (Details, error) {
	query := inNamespace(ref.Namespace)
	query.Set("details", "1")
	if usage {
		query.Set("usage", "1")
	}
	var d Details
	err := c.do(ctx, request{method: "GET", path: []string{"system", "function", ref.Name}, query: query}, &d)
	return d, err
}

// Listed is a function in a list, with how warm it is, where the gateway knows:
// hot, frozen, zygote or asleep.
type Listed struct {
	types.FunctionStatus
	Tier string `json:"tier,omitempty"`
}

// List lists the functions of a namespace; "" is the default one.
func (c *Client) List(ctx context.Context, namespace string) ([]Listed, error) {
	query := inNamespace(namespace)
	query.Set("details", "1")
	var all []Listed
	err := c.do(ctx, request{method: "GET", path: []string{"system", "functions"}, query: query}, &all)
	return all, err
}
