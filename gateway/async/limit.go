package async

import "time"

// Pauses after a function was full.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// regrow is how many rounds of success it takes to try one more call at once,
// where that was too many before.
const regrow = 10

// A limit finds out how many calls of one function can run at once. It grows
// while calls succeed and all of it is used, by one for each success at first,
// and by one for every few rounds once the function was full, and shrinks when
// the function is full.
type limit struct {
	value float64
	most  int
	slow  bool          // the function was full before
	pause time.Duration // after the next time it is full
}

func newLimit(most int) limit { return limit{value: float64(min(8, most)), most: most} }

// max returns how many calls may run.
func (l *limit) max() int { return int(l.value) }

// succeeded tells of an answer, when running calls ran, this one included.
func (l *limit) succeeded(running int) {
	l.pause = 0
	if running < l.max() {
		return // more room would not be used
	}
	if l.slow {
		l.value += 1 / (regrow * l.value)
	} else {
		l.value++
	}
	l.value = min(l.value, float64(l.most))
}

// full tells that the function had no room for one more call than running. It
// returns how long to wait before the next.
func (l *limit) full(running int) time.Duration {
	l.slow = true
	l.value = max(1, min(l.value, float64(running)))
	l.pause = min(max(2*l.pause, firstPause), lastPause)
	return l.pause
}
