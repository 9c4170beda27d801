package invoke

import (
	"sync/atomic"
	"time"
)

// A worker of a pool whose calls are short waits between an answer and the next
// call for longer than it works, if the next has to come from here. So where
// calls take less than brief, more are sent than there are slots: as many as
// will have been answered within patience, and at most deepest for each slot.
const (
	brief    = time.Millisecond
	patience = 4 * time.Millisecond
	deepest  = 16
)

// smoothing is roughly how many calls a recent time is the mean of.
const smoothing = 8

// A pace is how fast a replica has answered lately. That decides how many calls
// it gets beyond its slots: only where slots stand for workers, and are not a
// limit that somebody has set; only when no other replica has a free one; and
// only while answers keep coming, because a call that is behind a long one can
// go nowhere else.
type pace struct {
	recent atomic.Int64  // how long a slot was taken for a call; zero if not known
	last   atomic.Uint64 // when the last call ended, on the table's clock
}

// note takes in how long one of inflight calls took, some of which may have
// waited for others. Of several notes at once one may be lost, which does no harm.
func (p *pace) note(took time.Duration, inflight, slots int64) {
	if took <= 0 {
		return
	}
	if inflight > slots && slots > 0 {
		took = took * time.Duration(slots) / time.Duration(inflight)
	}
	recent := p.recent.Load()
	if recent == 0 {
		recent = int64(took)
	}
	p.recent.Store(max(1, recent+(int64(took)-recent)/smoothing))
}

// depth is how many calls a slot is good for, now on the table's clock.
func (p *pace) depth(now uint64) int64 {
	recent := time.Duration(p.recent.Load())
	since := time.Duration(now-min(now, p.last.Load())) * time.Microsecond
	if recent == 0 || recent >= brief || since >= brief {
		return 1
	}
	return min(deepest, int64(patience/recent))
}

// pick takes a slot, or a place behind a call that will have ended soon. It
// returns nil if there is neither.
func (r *route) pick(v *view) *replica {
	if rep := v.pick(); rep != nil || v.Settings.MaxInflight > 0 {
		return rep
	}
	now := r.table.clock()
	for _, rep := range v.usable {
		if deep := rep.pace.depth(now); deep > 1 && rep.take(deep) {
			return rep
		}
	}
	return nil
}
