package invoke

import (
	"context"
	"time"
)

const (
	// watchPause is the time between two looks at the replicas that are busy.
	watchPause = 250 * time.Millisecond
	// stillFor is for how long a busy replica has answered nothing that is asked
	// whether it is still there.
	stillFor = 500 * time.Millisecond
	// askPause is the time between two such questions to one replica.
	askPause = time.Second
)

// suspect asks replicas that have requests and answer none whether they are still
// there. One that does not even answer a probe, while others go on answering
// requests, is out of use until it does: it was stopped, or is cut off, and
// whatever it is sent would wait for it. A replica that is only slow answers its
// probe, and one that is the last in use stays so.
func (r *route) suspect() {
	usable := r.view.Load().usable
	if len(usable) < 2 || r.inflight.count() == 0 {
		return
	}
	now := r.table.clock()
	still := func(rep *replica) bool { return now-rep.pace.last.Load() >= uint64(stillFor/time.Microsecond) }
	answering := 0
	for _, rep := range usable {
		if !still(rep) {
			answering++
		}
	}
	if answering == 0 {
		return // nothing to compare with: it may be all that is slow
	}
	for _, rep := range usable {
		if rep.inflight.Load() == 0 || !still(rep) || now-rep.asked.Load() < uint64(askPause/time.Microsecond) {
			continue
		}
		rep.asked.Store(now)
		r.table.background(func(ctx context.Context) {
			if said := rep.answers(ctx); !said.listens && ctx.Err() == nil {
				r.refuse(rep)
			}
		})
	}
}
