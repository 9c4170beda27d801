package function

import "math"

// statistics of a sequence of numbers, of which none is kept. The sums are
// Welford's, which do not lose the digits that sums of squares lose.
type statistics struct {
	count           int
	mean, squares   float64
	lowest, highest float64
}

// add takes one more number into account.
func (s *statistics) add(x float64) {
	s.count++
	if s.count == 1 {
		s.lowest, s.highest = x, x
	}
	s.lowest, s.highest = min(s.lowest, x), max(s.highest, x)
	// Divided apart, because the difference of two large numbers may be too large.
	step := x/float64(s.count) - s.mean/float64(s.count)
	before := s.mean
	s.mean += step
	s.squares += (x - before) * (x - s.mean)
}

// A summary is what is sent of statistics. Deviation is null where it cannot be
// expressed.
type summary struct {
	Count     int      `json:"count"`
	Mean      float64  `json:"mean"`
	Deviation *float64 `json:"deviation"` // of the population
	Lowest    float64  `json:"lowest"`
	Highest   float64  `json:"highest"`
}

func (s *statistics) summary() summary {
	out := summary{Count: s.count, Mean: s.mean, Lowest: s.lowest, Highest: s.highest}
	if deviation := math.Sqrt(s.squares / float64(s.count)); !math.IsInf(deviation, 0) && !math.IsNaN(deviation) {
		out.Deviation = &deviation
	}
	return out
}
