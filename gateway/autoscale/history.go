package autoscale

import (
	"slices"
	"time"
)

// A History is what is known of one function's recent past. The zero value
// knows nothing. It is not safe for concurrent use.
type History struct {
	samples []Sample // oldest first
	marks   []mark   // oldest first
	active  time.Time
	burst   time.Time
}

// A mark is how many replicas were thought to be needed at one moment, as far
// as there could be so many, and how many there were to be.
type mark struct {
	at                   time.Time
	recommended, desired int
}

// grain is the shortest time that is remembered by itself: decisions that
// follow each other fast do not make the history long.
const grain = 100 * time.Millisecond

// Add puts s at the end of the history. Samples are added in the order of
// their time.
func (h *History) Add(s Sample) {
	gap := true
	if n := len(h.samples); n > 0 {
		last := &h.samples[n-1]
		gap = s.At.Add(-s.Span).After(last.At)
		if s.Desired > last.Desired && (len(h.marks) == 0 || h.marks[len(h.marks)-1].desired != s.Desired) {
			h.marks = append(h.marks, mark{s.At, s.Desired, s.Desired}) // somebody else wants more, and knows why
		}
	} else {
		h.marks = append(h.marks, mark{s.At, s.Desired, s.Desired})
	}
	if gap || s.Partial || !s.idle() {
		h.active = s.At
	}
	if n := len(h.samples); n > 0 && !gap && h.samples[n-1].Span+s.Span <= grain {
		h.samples[n-1] = merge(h.samples[n-1], s)
	} else {
		h.samples = append(h.samples, s)
	}
}

// merge returns one sample about the time of both.
func merge(a, b Sample) Sample {
	span := a.Span + b.Span
	if span > 0 {
		of := func(x, y float64) float64 {
			return (x*float64(a.Span) + y*float64(b.Span)) / float64(span)
		}
		b.Busy, b.Queued, b.Wished = of(a.Busy, b.Busy), of(a.Queued, b.Queued), of(a.Wished, b.Wished)
		b.Rate, b.Done = of(a.Rate, b.Rate), of(a.Done, b.Done)
	}
	b.Span, b.Partial = span, a.Partial || b.Partial
	return b
}

// Keep remembers what was decided on the last sample.
func (h *History) Keep(d Decision) {
	if d.Bursting {
		h.burst = d.At
	}
	m := mark{d.At, min(d.Recommended, d.Desired), d.Desired}
	if n := len(h.marks); n > 1 && h.marks[n-1].same(m) && h.marks[n-2].same(m) {
		h.marks[n-1].at = m.at
		return
	}
	h.marks = append(h.marks, m)
}

func (m mark) same(o mark) bool { return m.recommended == o.recommended && m.desired == o.desired }

// Forget drops what is older than before. It must be kept for as long as the
// longest window of the policy.
func (h *History) Forget(before time.Time) {
	if n := slices.IndexFunc(h.samples, func(s Sample) bool { return !s.At.Before(before) }); n > 0 {
		h.samples = slices.Delete(h.samples, 0, n)
	}
	if n := slices.IndexFunc(h.marks, func(m mark) bool { return !m.at.Before(before) }); n > 0 {
		h.marks = slices.Delete(h.marks, 0, n)
	}
}

func (h *History) last() (Sample, bool) {
	if len(h.samples) == 0 {
		return Sample{}, false
	}
	return h.samples[len(h.samples)-1], true
}

// mean returns the mean of what value says about each sample over the window
// that ends at now, as far as it is known. It reports false if nothing is.
func (h *History) mean(now time.Time, window time.Duration, value func(Sample) (float64, bool)) (float64, bool) {
	var sum, known float64
	for s, part := range h.within(now, window) {
		if v, ok := value(s); ok {
			sum += v * part.Seconds()
			known += part.Seconds()
		}
	}
	if known == 0 {
		return 0, false
	}
	return sum / known, true
}

// within yields the samples of the window that ends at now, newest first, each
// with how much of its time is in the window.
func (h *History) within(now time.Time, window time.Duration) func(yield func(Sample, time.Duration) bool) {
	return func(yield func(Sample, time.Duration) bool) {
		begin := now.Add(-window)
		for _, s := range slices.Backward(h.samples) {
			if !s.At.After(begin) {
				return
			}
			part := min(s.Span, s.At.Sub(begin))
			if !yield(s, part) {
				return
			}
		}
	}
}

// complete reports whether everything is known about the window that ends at
// now.
func (h *History) complete(now time.Time, window time.Duration) bool {
	if window == 0 {
		return true
	}
	var known time.Duration
	whole := true
	for s, part := range h.within(now, window) {
		known += part
		whole = whole && !s.Partial
	}
	return whole && known >= window-time.Millisecond
}

// most returns the largest number of replicas that was recommended in the
// window that ends at now.
func (h *History) most(now time.Time, window time.Duration) int {
	n := 0
	for _, m := range slices.Backward(h.marks) {
		if now.Sub(m.at) > window {
			break
		}
		n = max(n, m.recommended)
	}
	return n
}

// span returns the least and the most of the numbers of replicas that were
// desired in the window that ends at now, and of current, which is desired now.
func (h *History) span(now time.Time, window time.Duration, current int) (least, most int) {
	least, most = current, current
	for _, m := range slices.Backward(h.marks) {
		if now.Sub(m.at) > window {
			break
		}
		least, most = min(least, m.desired), max(most, m.desired)
	}
	return least, most
}
