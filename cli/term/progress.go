package term

import (
	"fmt"
	"strings"
	"time"
)

// Progress shows how many of many things are done, how fast that goes and how
// long it will take. On a terminal it is one line that changes; elsewhere, a
// line from time to time. It is for one goroutine.
type Progress struct {
	s       *Streams
	what    string
	started time.Time
	first   int // done before the start
	shown   time.Time
	open    bool // the terminal's line has no end yet
}

// quietEvery is how often a line is written where lines stay.
const quietEvery = 10 * time.Second

// NewProgress returns a progress of things called what, of which done are done
// already.
func NewProgress(s *Streams, what string, done int, now time.Time) *Progress {
	return &Progress{s: s, what: what, started: now, first: done, shown: now}
}

// Update tells that done of total things are done at time now; total is 0 if
// nobody knows.
func (p *Progress) Update(done, total int, now time.Time) {
	every := quietEvery
	if p.s.ErrTTY {
		every = redrawEvery
	}
	if now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	line := p.line(done, total, now)
	if !p.s.ErrTTY {
		p.s.Notef("%s\n", line)
		return
	}
	p.open = true
	p.s.Notef("\r%s\x1b[K", line)
}

// Done ends the line of a terminal.
func (p *Progress) Done() {
	if p.open {
		p.s.Notef("\r\x1b[K")
	}
	p.open = false
}

func (p *Progress) line(done, total int, now time.Time) string {
	const slots = 24
	rate := 0.0
	if took := now.Sub(p.started).Seconds(); took > 0 {
		rate = float64(done-p.first) / took
	}
	text := fmt.Sprintf("%s: %d", p.what, done)
	if total > 0 {
		full := min(max(done, 0), total) * slots / total
		text = fmt.Sprintf("%s: [%s%s] %d/%d", p.what, strings.Repeat("=", full), strings.Repeat(" ", slots-full), done, total)
	}
	text += fmt.Sprintf(", %.0f/s", rate)
	if total > done && rate > 0 {
		left := time.Duration(float64(total-done) / rate * float64(time.Second))
		text += ", " + left.Round(time.Second).String() + " left"
	}
	return text
}
