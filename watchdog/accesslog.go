package watchdog

import (
	"io"
	"sync"
	"time"
)

const (
	logPause = time.Millisecond // between two writes of the access log
	logHeld  = 64 << 10         // bytes that are not held back any longer
)

// An accessLog writes lines that come one at a time at once, and those of a
// burst together, a moment later: under load a line costs a copy and no system
// call. It is safe for concurrent use.
type accessLog struct {
	w io.Writer

	mu      sync.Mutex
	held    []byte
	written time.Time // when w was last written to
	timer   *time.Timer
	armed   bool
	second  int64  // that date is of, in Unix time
	date    []byte // as a line begins with it
}

// line writes the date and text as a line.
func (l *accessLog) line(now time.Time, text []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := now.Unix(); s != l.second || l.date == nil {
		l.second, l.date = s, append(now.AppendFormat(l.date[:0], logTime), ' ')
	}
	l.held = append(append(append(l.held, l.date...), text...), '\n')
	switch {
	case len(l.held) >= logHeld || !l.armed && now.Sub(l.written) >= logPause:
		l.write(now)
	case l.armed:
	case l.timer == nil:
		l.armed, l.timer = true, time.AfterFunc(logPause, l.flush)
	default:
		l.armed = true
		l.timer.Reset(logPause)
	}
}

// flush writes what is held back.
func (l *accessLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	if len(l.held) > 0 {
		l.write(time.Now())
	}
}

func (l *accessLog) write(now time.Time) {
	_, _ = l.w.Write(l.held) // our own output being gone is no reason to stop serving
	l.written = now
	if cap(l.held) > 2*logHeld {
		l.held = nil
	}
	l.held = l.held[:0]
}
