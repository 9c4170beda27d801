package function

import "time"

// A Tier says how warm a function is, or one of its replicas: how much of it is
// there for the next call. Colder tiers hold less and take longer to wake.
type Tier string

// The tiers, the warmest first.
const (
	// Hot replicas run. It is the zero value: every runtime has such replicas.
	Hot Tier = ""
	// Frozen replicas have everything in memory and get no processor time.
	Frozen Tier = "frozen"
	// Zygote is a frozen Python function without its workers: what it has
	// loaded is kept, and a worker is forked from it for the next call.
	Zygote Tier = "zygote"
	// Asleep is a function without replicas.
	Asleep Tier = "asleep"
)

// String returns the name of the tier for people.
func (t Tier) String() string {
	if t == Hot {
		return "hot"
	}
	return string(t)
}

// A Rest says how a function is kept for which no replicas are wanted.
type Rest struct {
	Tier Tier `json:"tier"`
	// Why it is in this tier and, if that will change by itself, when: a
	// sentence for people.
	Why   string    `json:"why,omitempty"`
	Since time.Time `json:"since,omitzero"`
}

// Tier is how warm the function is: hot if replicas are wanted, else as warm as
// the warmest that is kept.
func (e Endpoints) Tier() Tier {
	if e.Desired > 0 {
		return Hot
	}
	tier := Asleep
	for _, r := range e.Replicas {
		switch {
		case r.Tier == Hot:
			return Hot
		case r.Tier == Frozen || tier == Asleep:
			tier = r.Tier
		}
	}
	return tier
}
