package client

import (
	"context"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// Scaling says why a function has as many replicas as it has.
type Scaling struct {
	Automatic bool          `json:"automatic"` // false: the platform leaves the number to others
	Policy    ScalingPolicy `json:"policy"`
	Latest    Decision      `json:"latest"`            // the last, whether it changed something or not
	Changes   []Decision    `json:"changes"`           // the last ones that did, newest first
	Failure   string        `json:"failure,omitempty"` // why the last change could not be made
}

// A ScalingPolicy is how a function is scaled, by its labels and the defaults
// of the platform.
type ScalingPolicy struct {
	Type       string            `json:"type"`
	Target     float64           `json:"target,omitempty"` // load of one replica; 0: its slots
	Proportion float64           `json:"proportion"`       // of the target
	Min        int               `json:"min"`
	Max        int               `json:"max"`
	Zero       bool              `json:"zero"`
	ZeroAfter  function.Duration `json:"zeroAfter"`
	DownWindow function.Duration `json:"downWindow"`
	Stable     function.Duration `json:"stableWindow"`
	Burst      function.Duration `json:"burstWindow"`
}

// A Decision is how many replicas a function should have, and why.
type Decision struct {
	At          time.Time `json:"at"`
	Desired     int       `json:"desired"`
	Previous    int       `json:"previous"`
	Recommended int       `json:"recommended"` // by the formula alone
	Formula     string    `json:"formula,omitempty"`
	Bound       string    `json:"bound,omitempty"` // what decided besides the formula
	Reason      string    `json:"reason"`
	Bursting    bool      `json:"bursting,omitempty"`
	Inputs      struct {
		Type       string   `json:"type"`
		Target     float64  `json:"target"`
		Proportion float64  `json:"proportion"`
		Stable     float64  `json:"stable"`
		Burst      float64  `json:"burst"`
		InFlight   int      `json:"inFlight"`
		Waiting    int      `json:"waiting"`
		Wanted     int      `json:"wanted,omitempty"` // asynchronous calls that would be in flight, if there were room
		Behind     int      `json:"behind,omitempty"` // asynchronous calls besides these
		CPU        *float64 `json:"cpu,omitempty"`
		Backlog    *int     `json:"backlog,omitempty"`
		Ready      int      `json:"ready"`
		Starting   int      `json:"starting"`
		Slots      int      `json:"slots,omitempty"`
	} `json:"inputs"`
}

// Scaling explains the number of a function's replicas.
func (c *Client) Scaling(ctx context.Context, ref function.Ref) (Scaling, error) {
	var s Scaling
	err := c.do(ctx, request{method: "GET", path: []string{"system", "function", ref.Name, "scaling"}, query: inNamespace(ref.Namespace)}, &s)
	return s, err
}
