package invoke

import (
	"strconv"
	"strings"
	"time"
)

// A startup says what the wait for a replica was spent on, in the order in
// which it happened.
type startup struct {
	schedule time.Duration // asking for it, and finding a place for it
	thaw     time.Duration // bringing back one that was kept, which takes nothing of what follows
	pull     time.Duration // fetching its image
	start    time.Duration // from then until it listened
	load     time.Duration // from then until it was ready
}

// startup says what it has taken until now for the replica to become usable.
// What comes before a place was found for it shows only to those who wait: see
// within. The caller holds the route's mutex.
func (rep *replica) startup(now time.Time) startup {
	if rep.kept {
		return startup{thaw: now.Sub(rep.learned)}
	}
	listened := rep.listened
	if listened.IsZero() {
		listened = now // somebody else has seen that it is ready
	}
	s := startup{load: now.Sub(listened), start: listened.Sub(rep.learned)}
	if !rep.served {
		s.pull = rep.Startup.Pull.Std()
		s.start += rep.Startup.Start.Std()
	}
	rep.served = true
	return s
}

// within returns what of s fell into the last that much time. All that s says
// nothing about was spent on getting a place.
func (s startup) within(wait time.Duration) startup {
	var cut startup
	for _, part := range []struct {
		of time.Duration
		to *time.Duration
	}{{s.load, &cut.load}, {s.start, &cut.start}, {s.pull, &cut.pull}, {s.thaw, &cut.thaw}} {
		*part.to = min(wait, part.of)
		wait -= *part.to
	}
	cut.schedule = wait
	return cut
}

// timing is what the wait was for, as metrics of Server-Timing.
func (g grant) timing() string {
	if g.waited == 0 {
		return "queue;dur=0"
	}
	if g.wake == 0 {
		return "queue;dur=" + milliseconds(g.waited)
	}
	var b strings.Builder
	b.WriteString("queue;dur=" + milliseconds(g.waited-g.wake) + ", wake;dur=" + milliseconds(g.wake))
	if g.startup == (startup{}) {
		return b.String() // it never started
	}
	for name, part := range g.startup.parts {
		b.WriteString(", wake-" + name + ";dur=" + milliseconds(part))
	}
	return b.String()
}

// parts yields the parts of s that took any time.
func (s startup) parts(yield func(name string, part time.Duration) bool) {
	_ = (s.schedule == 0 || yield("schedule", s.schedule)) &&
		(s.thaw == 0 || yield("thaw", s.thaw)) &&
		(s.pull == 0 || yield("pull", s.pull)) &&
		(s.start == 0 || yield("start", s.start)) &&
		(s.load == 0 || yield("load", s.load))
}

func milliseconds(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 3, 64)
}
