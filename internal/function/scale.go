package function

import (
	"strconv"

	"github.com/graphene-faas/graphene/internal/fault"
)

// Scale bounds the number of a function's replicas.
type Scale struct {
	Min int // replicas after a deploy, and the fewest while the function is awake
	Max int // 0 when nothing is said
}

// ReadScale reads the bounds from a function's labels. Without a label Min is
// 1 and Max is 0. Errors are fault.Invalid.
func ReadScale(labels map[string]string) (Scale, error) {
	s := Scale{Min: 1}
	for _, bound := range []struct {
		label string
		value *int
	}{{LabelScaleMin, &s.Min}, {LabelScaleMax, &s.Max}} {
		raw, set := labels[bound.label]
		if !set || raw == "" {
			continue
		}
		n, err := strconv.Atoi(raw)
		if err != nil || n < 0 {
			return Scale{}, fault.Invalid.Errorf("label %s is %q: want a whole number, 0 or more", bound.label, raw)
		}
		*bound.value = n
	}
	if s.Max > 0 && s.Min > s.Max {
		return Scale{}, fault.Invalid.Errorf("label %s is %d, which is more than %s, %d", LabelScaleMin, s.Min, LabelScaleMax, s.Max)
	}
	return s, nil
}
