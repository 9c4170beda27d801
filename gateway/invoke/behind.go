package invoke

import (
	"sync/atomic"
	"time"
)

// brief is a time below which calls are so short that a worker, between an
// answer and the next call, waits longer than it works.
const brief = time.Millisecond

// smoothing is roughly how many calls a recent time is the mean of.
const smoothing = 8

// A pace is how fast a replica has answered lately. Those that answer within
// [brief] get calls beyond their slots, one for each: its workers find the next
// call waiting when they are done with one. That is only done with what counts
// workers, and not with a limit that somebody has set; only when no other
// replica has a free slot; and only while answers keep coming, because a call
// that is behind a long one can go nowhere else.
type pace struct {
	recent atomic.Int64  // how long calls held their slots; zero if not known
	last   atomic.Uint64 // when the last one ended, on the table's clock
}

// note takes in how long a call has held its slot. Of several at once one may
// be lost, which does no harm.
func (p *pace) note(took time.Duration) {
	if took <= 0 {
		return
	}
	recent := p.recent.Load()
	if recent == 0 {
		recent = int64(took)
	}
	p.recent.Store(max(1, recent+(int64(took)-recent)/smoothing))
}

// brisk reports whether a call sent now, on the table's clock, would begin
// soon even if all workers are busy.
func (p *pace) brisk(now uint64) bool {
	recent := time.Duration(p.recent.Load())
	since := time.Duration(now-min(now, p.last.Load())) * time.Microsecond
	return 0 < recent && recent < brief && since < brief
}

// pick takes a slot, or a place behind a call that will have ended soon. It
// returns nil if there is neither.
func (r *route) pick(v *view) *replica {
	if rep := v.pick(); rep != nil || v.Settings.MaxInflight > 0 {
		return rep
	}
	now := r.table.clock()
	for _, rep := range v.usable {
		if rep.pace.brisk(now) && rep.take(2) {
			return rep
		}
	}
	return nil
}
