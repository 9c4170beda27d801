package local

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// A Traffic knows the requests that are under way to replicas.
type Traffic interface {
	// OnReplica is how many requests a replica is answering.
	OnReplica(ref function.Ref, replica string) int
	// Parted reports whether it is certain that a replica, which was reported
	// to be not hot any more for the nth time, answers no request and gets none
	// before it is reported to be hot again. Who has heard of an earlier time
	// only is about to hear that it was hot meanwhile.
	Parted(ref function.Ref, replica string, nth int) bool
}

// A Keep says for how long a function that was put to sleep stays in each of
// the tiers between hot and asleep.
type Keep struct {
	Frozen time.Duration
	Zygote time.Duration // after that, if the function has what it takes
}

// keep returns what is kept of the function while it sleeps, or why nothing is.
// f.mu is held.
func (f *supervisor) keep() (k Keep, why string) {
	target := f.rec.Target
	scale, err := function.ReadScale(target.labels())
	switch {
	case err != nil || !scale.Zero:
		return k, "scaled to zero by hand: only functions with the label " + function.LabelScaleZero + " are kept in memory"
	case f.rt.Traffic == nil || !canFreeze:
		return k, "this platform cannot freeze processes"
	case target.Foreign:
		return k, "containers are not kept in memory"
	}
	k = Keep{f.settings.KeepFrozen.Or(f.rt.Keep.Frozen), f.settings.KeepZygote.Or(f.rt.Keep.Zygote)}
	if k == (Keep{}) {
		return k, "keep_frozen and keep_zygote are 0"
	}
	return k, ""
}

// keepOne takes, from the replicas that are to leave because none is wanted,
// the one that is kept instead, and returns the others. f.mu is held.
func (f *supervisor) keepOne(ctx context.Context, leaving []*replica) []*replica {
	if f.rec.Desired > 0 || f.removed || f.stopping {
		return leaving
	}
	k, why := f.keep()
	running := f.rec.versions()[0].Revision
	best := -1
	leaving = slices.DeleteFunc(leaving, (*replica).gone) // they say themselves why
	for i, r := range leaving {
		useful := r.ready || r.keeping != nil || r.waking
		if why == "" && useful && r.version.Revision == running && (best < 0 || r.keeping != nil) {
			best = i
		}
	}
	if best < 0 {
		if len(leaving) > 0 {
			f.rests(function.Asleep, cmp.Or(why, "none of its replicas had become ready"))
		}
		return leaving
	}
	if kept := leaving[best]; kept.keeping == nil {
		kept.keep(ctx, k)
	}
	return slices.Delete(leaving, best, best+1)
}

// rests notes how the function is kept while no replica is wanted. f.mu is held.
func (f *supervisor) rests(tier function.Tier, why string) {
	if f.rest.Tier == tier && tier == function.Asleep {
		return // the first reason counts
	}
	f.rest = function.Rest{Tier: tier, Why: why, Since: time.Now().UTC().Truncate(time.Millisecond)}
}

// A keeping is the time in which a replica is out of service and yet not told
// to end, until it is hot again.
type keeping struct {
	end    context.CancelFunc
	colder chan chill // holds one
}

// A chill is a reason to hold less before the time is over.
type chill struct {
	why string
	all bool // to hold nothing, not only less
}

// keep takes the replica out of service without ending it. f.mu is held.
func (r *replica) keep(ctx context.Context, k Keep) {
	ctx, cancel := context.WithCancel(ctx)
	r.keeping = &keeping{end: cancel, colder: make(chan chill, 1)}
	r.ready, r.waking, r.hot = false, false, make(chan struct{})
	r.keeps++
	r.f.rests(function.Hot, "its last calls are being finished")
	colder, nth := r.keeping.colder, r.keeps
	r.f.work.Go(func() {
		defer cancel()
		r.cool(ctx, k, nth, colder)
	})
}

// warm has a kept replica be hot again, in a moment. f.mu is held.
func (r *replica) warm() {
	if r.keeping != nil {
		r.keeping.end()
	}
}

// shown is the replica's tier as others are told: one that is about to be
// frozen gets no more requests, nor does one that is not thawed yet. f.mu is
// held.
func (r *replica) shown() function.Tier {
	if r.keeping != nil && r.tier == function.Hot {
		return function.Frozen
	}
	return r.tier
}

// cool takes the replica down tier by tier until ctx ends, which means that it
// is needed or that it ends, or until it has been kept for long enough. After
// that its processes go on.
func (r *replica) cool(ctx context.Context, k Keep, nth int, colder chan chill) {
	cold := r.descend(ctx, k, nth, colder)
	r.f.rt.ledger.release(r)
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	if r.tier == function.Zygote {
		r.tell(startWorkers)
	}
	cold.thaw()
	r.keeping, r.tier, r.waking = nil, function.Hot, true
	close(r.hot)
	select {
	case r.thawed <- struct{}{}:
	default: // it has been said
	}
	r.f.report()
	r.f.nudge()
}

// descend is what cool does until ctx ends. It returns the processes that are
// stopped then.
func (r *replica) descend(ctx context.Context, k Keep, nth int, colder chan chill) (cold *frost) {
	if !r.parted(ctx, nth) {
		return nil
	}
	now := chill{why: "it was idle"}
	for _, next := range []struct {
		tier function.Tier
		stay time.Duration
	}{{function.Frozen, k.Frozen}, {function.Zygote, k.Zygote}} {
		if next.stay <= 0 || now.all || next.tier == function.Zygote && !r.forks {
			continue
		}
		if next.tier == function.Zygote {
			cold.thaw()
			cold = nil
			if !r.shed(ctx) {
				now.why = "its pool cannot do without its workers"
				continue
			}
		}
		frozen, err := freeze(r.process().PID())
		if err != nil {
			now.why = err.Error()
			break
		}
		cold = frozen
		r.f.settled(r, next.tier, fmt.Sprintf("%s; it stays like this for %s", now.why, next.stay))
		r.f.rt.ledger.keep(r, colder)
		if now = r.stay(ctx, next.stay, colder); now.why == "" {
			return cold
		}
	}
	r.f.expired(ctx, r, now.why)
	return cold
}

const (
	firstPartedPause, lastPartedPause = 100 * time.Microsecond, 50 * time.Millisecond
	// shedTimeout is how long a pool may take to end its workers.
	shedTimeout = 30 * time.Second
)

// parted waits until no request is or will be under way to the replica. It
// reports false if ctx or the replica ends before.
func (r *replica) parted(ctx context.Context, nth int) bool {
	for pause := firstPartedPause; ; pause = min(2*pause, lastPartedPause) {
		if r.f.rt.Traffic.Parted(r.f.ref, r.id, nth) {
			return ctx.Err() == nil
		}
		if !r.pause(ctx, pause) {
			return false
		}
	}
}

// pause waits, and reports false if ctx or the replica ends before.
func (r *replica) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-r.process().Done():
	}
	return false
}

// stay leaves the replica as it is until its time is over, and returns why it
// is, or nothing if ctx or the replica ends before.
func (r *replica) stay(ctx context.Context, d time.Duration, colder <-chan chill) (over chill) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return chill{why: fmt.Sprintf("nothing called it for another %s", d)}
	case over = <-colder:
		return over
	case <-ctx.Done():
	case <-r.process().Done():
	}
	return chill{}
}

// shed has the replica's pool end its workers and keep its zygote, and reports
// whether it has.
func (r *replica) shed(ctx context.Context) bool {
	r.tell(endWorkers)
	deadline := time.Now().Add(shedTimeout)
	for pause := firstProbe; time.Now().Before(deadline); pause = min(2*pause, slowestStart) {
		answer, err := ask(ctx, r.socket, "/_/ready", shedTimeout)
		if err == nil && answer.Get(headerResting) != "" {
			return true
		}
		if !r.pause(ctx, pause) {
			return false
		}
	}
	return false
}

// settled is told by a replica that it has reached a tier.
func (f *supervisor) settled(r *replica, tier function.Tier, why string) {
	f.mu.Lock()
	r.tier = tier
	if f.rec.Desired == 0 {
		f.rests(tier, why)
	}
	f.report()
	f.mu.Unlock()
	if table, err := processes(); err == nil { // else it is what it was
		r.weigh(table)
	}
	f.rt.Log.Debug("replica is kept", "function", f.ref, "instance", r.id, "tier", tier, "why", why)
}

// expired is told by a replica that it need not be kept any longer.
func (f *supervisor) expired(ctx context.Context, r *replica, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil {
		return // it is needed after all
	}
	f.rests(function.Asleep, why)
	r.drain()
}

// resting says how the function is kept, or nil if replicas are wanted. f.mu is
// held.
func (f *supervisor) resting() *function.Rest {
	if f.rec.Desired > 0 {
		return nil
	}
	rest := f.rest
	rest.Tier = cmp.Or(rest.Tier, function.Hot)
	return &rest
}
