package function

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
)

// A ScaleType is what a function's number of replicas follows.
type ScaleType string

// The kinds of load that a number of replicas can follow.
const (
	ScaleCapacity ScaleType = "capacity" // calls in flight and waiting
	ScaleRPS      ScaleType = "rps"      // calls arriving per second
	ScaleCPU      ScaleType = "cpu"      // processor time, in thousandths of a core
	ScaleQueue    ScaleType = "queue"    // asynchronous calls that wait or run
)

// UnmarshalText reads the name of a type; "" is none. Others than those above
// are refused: a function that names one would silently be scaled by something
// else.
func (s *ScaleType) UnmarshalText(text []byte) error {
	switch t := ScaleType(text); t {
	case "", ScaleCapacity, ScaleRPS, ScaleCPU, ScaleQueue:
		*s = t
		return nil
	}
	return fmt.Errorf("want capacity, rps, cpu or queue; rules of Prometheus are not read")
}

// MaxDownWindow is the longest window for scaling down.
const MaxDownWindow = 5 * time.Minute

// Scale is what a function's labels say about its number of replicas. Zero
// values, and nil, leave the choice to the installation.
type Scale struct {
	Min int `json:"min"`           // replicas after a deploy, and the fewest while the function is awake
	Max int `json:"max,omitempty"` // equal to Min: the number is not changed by load

	Type       ScaleType `json:"type,omitempty"`
	Target     float64   `json:"target,omitempty"`     // load of one replica, in the unit of Type
	Proportion float64   `json:"proportion,omitempty"` // share of the target that replicas are loaded to, more than 0 and at most 1

	Zero       bool      `json:"zero,omitempty"`        // put to sleep when idle
	ZeroAfter  Duration  `json:"zero_after,omitzero"`   // idle for so long
	DownWindow *Duration `json:"down_window,omitempty"` // fewer replicas only if fewer sufficed all this time; at most MaxDownWindow
	Factor     *int      `json:"factor,omitempty"`      // step of an alert, in percent of Max; 0 ignores alerts
}

// ReadScale reads a function's labels. Without a label Min is 1. Errors are
// fault.Invalid and name every label that cannot be read.
func ReadScale(labels map[string]string) (Scale, error) {
	s := Scale{Min: 1}
	var problems []string
	for _, l := range scaleLabels {
		raw := labels[l.Name]
		if raw == "" {
			continue
		}
		if err := l.read(&s, raw); err != nil {
			problems = append(problems, fmt.Sprintf("label %s is %q: %v", l.Name, raw, err))
		}
	}
	if len(problems) == 0 && s.Max > 0 && s.Min > s.Max {
		problems = append(problems, fmt.Sprintf("label %s is %d, which is more than %s, %d", LabelScaleMin, s.Min, LabelScaleMax, s.Max))
	}
	if len(problems) > 0 {
		return Scale{}, fault.Invalid.Errorf("%s", strings.Join(problems, "; "))
	}
	return s, nil
}

// A ScaleLabel describes one label about scaling for people.
type ScaleLabel struct {
	Name string
	Doc  string
	read func(*Scale, string) error
}

// ListScaleLabels describes every label about scaling.
func ListScaleLabels() []ScaleLabel { return slices.Clone(scaleLabels) }

var scaleLabels = []ScaleLabel{
	{LabelScaleMin, "replicas after a deploy, and the fewest while the function is awake", func(s *Scale, raw string) error { return readCount(&s.Min, raw) }},
	{LabelScaleMax, "the most replicas; equal to the fewest: load does not change the number", func(s *Scale, raw string) error { return readCount(&s.Max, raw) }},
	{LabelScaleType, "what the number follows: capacity (calls in flight and waiting), rps (calls per second), cpu (thousandths of a core) or queue (asynchronous calls)", func(s *Scale, raw string) error { return s.Type.UnmarshalText([]byte(raw)) }},
	{LabelScaleTarget, "how much of that one replica is for", func(s *Scale, raw string) error {
		return readNumber(&s.Target, raw, math.MaxInt32, "want a number above 0")
	}},
	{LabelScaleProportion, "share of the target that replicas are loaded to; the rest is reserve", func(s *Scale, raw string) error {
		return readNumber(&s.Proportion, raw, 1, "want a number above 0, at most 1")
	}},
	{LabelScaleZero, "true: to zero replicas when idle", func(s *Scale, raw string) (err error) {
		if s.Zero, err = strconv.ParseBool(raw); err != nil {
			return fmt.Errorf("want true or false")
		}
		return nil
	}},
	{LabelScaleZeroAfter, "how long idle before that", func(s *Scale, raw string) error {
		if err := s.ZeroAfter.UnmarshalText([]byte(raw)); err != nil || s.ZeroAfter == 0 {
			return fmt.Errorf("want a time span such as 30s or 15m")
		}
		return nil
	}},
	{LabelScaleDownWindow, "fewer replicas only if fewer would have sufficed for so long, at most 5m; 0: at once", func(s *Scale, raw string) error {
		var d Duration
		if err := d.UnmarshalText([]byte(raw)); err != nil || d.Std() > MaxDownWindow {
			return fmt.Errorf("want a time span such as 30s, at most %v", MaxDownWindow)
		}
		s.DownWindow = &d
		return nil
	}},
	{LabelScaleFactor, "step of an alert of Alertmanager, in percent of the most replicas; 0: alerts are ignored", func(s *Scale, raw string) error {
		var n int
		if err := readCount(&n, raw); err != nil || n > 100 {
			return fmt.Errorf("want a whole number from 0 to 100")
		}
		s.Factor = &n
		return nil
	}},
}

func readCount(to *int, raw string) error {
	n, err := strconv.Atoi(raw)
	if err != nil || n < 0 || n > math.MaxInt32 {
		return fmt.Errorf("want a whole number, 0 or more")
	}
	*to = n
	return nil
}

func readNumber(to *float64, raw string, most float64, want string) error {
	n, err := strconv.ParseFloat(raw, 64)
	if err != nil || !(n > 0 && n <= most) {
		return fmt.Errorf("%s", want)
	}
	*to = n
	return nil
}

// Room is how many replicas of a function there can be where it runs, such as
// in the memory of this machine, counting those there are.
type Room struct {
	Replicas int    `json:"replicas"`
	Reason   string `json:"reason"` // why no more
}
