package autoscale

import (
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// A Reading is what a gateway has counted of one function since it knows it.
// All but the numbers of calls only grow, so that the difference of two readings
// says everything about the time between them.
type Reading struct {
	InFlight int // calls that replicas are answering
	Waiting  int // calls without a replica
	Wanted   int // asynchronous calls that would be in flight now, if there were room
	Behind   int // asynchronous calls besides these

	Busy    time.Duration // time spent in flight, all calls together
	Queued  time.Duration // time spent waiting, all calls together
	Wished  time.Duration // the same for what was wanted in flight
	Arrived int64         // calls that came
}

// ended is how many calls are over.
func (r Reading) ended() int64 { return r.Arrived - int64(r.InFlight) - int64(r.Waiting) }

// A Load is what gateways saw of one function over a short time. Loads of
// several gateways add up.
type Load struct {
	InFlight int `json:"inFlight"`         // now
	Waiting  int `json:"waiting"`          // now
	Wanted   int `json:"wanted,omitempty"` // now: asynchronous calls, those in flight included
	Behind   int `json:"behind,omitempty"` // now: asynchronous calls besides these

	Busy   float64 `json:"busy"`             // mean of InFlight
	Queued float64 `json:"queued"`           // mean of Waiting
	Wished float64 `json:"wished,omitempty"` // mean of Wanted
	Rate   float64 `json:"rate"`             // calls that came, per second
	Done   float64 `json:"done"`             // calls that ended, per second

	// Floor is the number of replicas that an alert asks for; 0 is none.
	Floor int `json:"floor,omitempty"`
}

// Calls is how many calls there are to do at this moment.
func (l Load) Calls() int { return max(l.InFlight+l.Waiting, l.Wanted) }

// Plus returns what l and m are together. Of the asynchronous calls that wait
// each gateway hears from the same workers.
func (l Load) Plus(m Load) Load {
	return Load{
		InFlight: l.InFlight + m.InFlight,
		Waiting:  l.Waiting + m.Waiting,
		Wanted:   max(l.Wanted, m.Wanted),
		Behind:   max(l.Behind, m.Behind),
		Busy:     l.Busy + m.Busy,
		Queued:   l.Queued + m.Queued,
		Wished:   max(l.Wished, m.Wished),
		Rate:     l.Rate + m.Rate,
		Done:     l.Done + m.Done,
		Floor:    max(l.Floor, m.Floor),
	}
}

// between returns the load from reading a to reading b, which is span later.
func between(a, b Reading, span time.Duration) Load {
	l := Load{InFlight: b.InFlight, Waiting: b.Waiting, Wanted: b.Wanted, Behind: b.Behind}
	if span > 0 {
		l.Busy = float64(b.Busy-a.Busy) / float64(span)
		l.Queued = float64(b.Queued-a.Queued) / float64(span)
		l.Wished = float64(b.Wished-a.Wished) / float64(span)
		l.Rate = float64(b.Arrived-a.Arrived) / span.Seconds()
		l.Done = float64(b.ended()-a.ended()) / span.Seconds()
	}
	return l
}

// A Sample is one moment of one function, and the time just before it.
type Sample struct {
	At time.Time
	// Span is the time that the means of Load are about; it ends at At. Time
	// that no sample covers is time about which nothing is known.
	Span time.Duration
	Load
	// Partial says that a gateway is missing in Load.
	Partial bool

	CPU     *float64 // of all replicas together, in thousandths of a core; nil: not known
	Backlog *int     // asynchronous calls that wait or run; nil: not known
	Blind   bool     // Backlog is not known, though there may be one

	Desired  int // replicas that should run, by the last decision that anybody made
	Ready    int
	Starting int            // of those desired, not ready yet
	Slots    int            // calls that one replica handles at once; 0: any number
	Room     *function.Room // nil: no bound
}

// idle reports whether the function had nothing to do in the time of s, as far
// as s says.
func (s Sample) idle() bool {
	return s.Calls() == 0 && s.Busy == 0 && s.Queued == 0 && s.Wished == 0 && s.Rate == 0 && s.Floor == 0 && (s.Backlog == nil || *s.Backlog == 0)
}

// fit returns n, or as many replicas as there is room for: there is always room
// for those there are, and for one.
func (s Sample) fit(n int) int {
	if s.Room == nil {
		return n
	}
	return min(n, max(s.Room.Replicas, s.Desired, 1))
}
