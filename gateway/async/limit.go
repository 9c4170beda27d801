package async

import "time"

// Pauses after a function was full, before one more call is tried at once than
// it took. They grow while it goes on to be full.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// A limit finds out how many calls of one function can run at once. At first it
// grows by one with each answer, while all of it is used. From the first time
// that the function is full on it is what ran then, and is grown by one now and
// then to find out whether there is room again: seldom while there is none, and
// fast once there is.
type limit struct {
	value, most int
	slow        bool          // the function was full before
	grown       bool          // since it was full
	pause       time.Duration // after the last time it was full
}

func newLimit(most int) limit { return limit{value: min(8, most), most: most, pause: firstPause} }

// succeeded tells of an answer, when running calls ran, this one included.
func (l *limit) succeeded(running int) {
	if !l.slow && running >= l.value { // else more room would not be used
		l.value = min(l.value+1, l.most)
	}
}

// full tells that the function had no room for one more call than running. It
// returns how long to wait before the limit is grown.
func (l *limit) full(running int) time.Duration {
	if l.grown {
		l.pause = min(2*l.pause, lastPause)
	}
	l.slow, l.grown = true, false
	l.value = min(l.value, running)
	return l.pause
}

// grow lets one call more run than the function had room for. If nothing is
// said against it within firstPause, it is to be grown again.
func (l *limit) grow() {
	if l.grown {
		l.pause = firstPause // there was room
	}
	l.grown = true
	l.value = min(l.value+1, l.most)
}
