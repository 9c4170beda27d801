package local

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

const (
	// Replicas that fail are started again after a pause, which doubles with
	// every failure in a row.
	firstPause, longestPause = 100 * time.Millisecond, 30 * time.Second
	// A replica that was ready for this long ran well: its end starts no row.
	ranWell = 10 * time.Second
)

// A supervisor keeps one function's replicas as they should be. Its run
// compares what there is with what there should be, and starts or drains
// replicas, each time something has changed; nothing else does.
type supervisor struct {
	rt  *Runtime
	ref function.Ref
	uid int
	log *logBook

	saving sync.Mutex    // held from a change of rec until it is on disk; before mu
	wake   chan struct{} // something has changed; holds one
	work   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	rec      record
	replicas []*replica // all whose process may exist, oldest first
	removed  bool
	stopping bool                // the platform ends
	settings function.Settings   // of Target
	failure  string              // why Target cannot start, while that is so
	trouble  map[int64]trouble   // by revision
	rest     function.Rest       // how it is kept while no replica is wanted
	cost     int64               // what a replica takes of memory, in bytes; 0 while that is not known
	cramped  string              // why no replica is started for want of memory, while that is so
	room     *function.Room      // how many there can be
	lastSeen *function.Endpoints // what was reported last
}

func (r *Runtime) newSupervisor(rec record) *supervisor {
	f := &supervisor{
		rt:       r,
		ref:      rec.Ref,
		uid:      rec.UID,
		log:      r.logs.book(rec.Ref),
		wake:     make(chan struct{}, 1),
		rec:      rec,
		settings: r.settingsOf(rec.Target),
		trouble:  map[int64]trouble{},
	}
	if rec.Desired == 0 {
		f.rests(function.Asleep, "nothing has called it since it was deployed or the platform was started")
	}
	return f
}

// run supervises until the function was removed, or ctx ends, and all replicas
// have ended.
func (f *supervisor) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			f.stop()
			f.work.Wait()
			return
		case <-f.wake:
		case <-timer.C:
		}
		again, done := f.reconcile(ctx, time.Now())
		if done {
			f.work.Wait()
			f.rt.gone(f)
			return
		}
		if again > 0 {
			timer.Reset(again)
		}
	}
}

func (f *supervisor) nudge() {
	select {
	case f.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// deploy makes v the version that should run.
func (f *supervisor) deploy(v version, scale function.Scale) error {
	f.saving.Lock()
	defer f.saving.Unlock()

	f.mu.Lock()
	rec := f.rec
	f.mu.Unlock()
	v.Revision = rec.Target.Revision + 1
	if rec.Proven {
		rec.Stable = new(rec.Target)
	}
	rec.Target, rec.Proven = v, false
	rec.Desired = v.atMost(max(rec.Desired, scale.Min))
	if err := f.rt.store.save(rec); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopping {
		return errNotRunning
	}
	// Scale may have changed the number meanwhile; that is the later wish.
	f.rec.Target, f.rec.Proven, f.rec.Stable = rec.Target, false, rec.Stable
	f.rec.Desired = v.atMost(max(f.rec.Desired, scale.Min))
	if f.rec.Desired > 0 {
		f.rest = function.Rest{}
	}
	f.settings = f.rt.settingsOf(v)
	f.forgive()
	f.report()
	f.nudge()
	return nil
}

// scale sets the number of replicas. It takes effect before it is on disk:
// waking must not wait for one, nor fail because it is full.
func (f *supervisor) scale(replicas int) error {
	f.mu.Lock()
	if note := f.rec.Target.note(); replicas > f.rec.Target.atMost(replicas) {
		f.mu.Unlock()
		return fault.Invalid.Errorf("function %s cannot have %d replicas: %s", f.ref, replicas, note)
	}
	changed := f.rec.Desired != replicas && !f.removed
	if changed {
		if f.rec.Desired == 0 {
			f.forgive() // who wakes it wants it tried at once
		}
		if replicas > 0 {
			f.rest = function.Rest{}
		}
		f.rec.Desired, f.cramped = replicas, ""
		f.report()
		f.nudge()
	}
	f.mu.Unlock()
	if changed {
		f.save()
	}
	return nil
}

// insistsOn reports whether the function occupies a port of this machine.
func (f *supervisor) insistsOn(port string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.rec.versions(), func(v version) bool { return v.Port == port }) ||
		slices.ContainsFunc(f.replicas, func(r *replica) bool { return r.version.Port == port })
}

// atMost returns replicas, or as many as there can be of the version.
func (v version) atMost(replicas int) int {
	if v.Port != "" {
		return min(replicas, 1)
	}
	return replicas
}

// note says what is particular about how the version runs here.
func (v version) note() string {
	if v.Foreign {
		return containerNote
	}
	if v.Port == "" {
		return ""
	}
	return "its server always listens on port " + v.Port + ", which this machine has only once, so there is one replica, and an update interrupts it; " +
		"a server that listens on the port in the variable PORT, without upstream_url, can have any number"
}

// save writes the record as it is. A failure is logged: it costs, at worst,
// the number of replicas after a restart.
func (f *supervisor) save() {
	f.saving.Lock()
	defer f.saving.Unlock()
	f.mu.Lock()
	rec, removed := f.rec, f.removed
	f.mu.Unlock()
	if removed {
		return
	}
	if err := f.rt.store.save(rec); err != nil {
		f.rt.Log.Warn("function's state is not saved", "function", f.ref, "err", err)
	}
}

// leaving reports whether the function was removed, and only has calls to end.
func (f *supervisor) leaving() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.removed
}

// remove ends the function.
func (f *supervisor) remove() {
	f.saving.Lock() // whoever is saving would bring the file back
	defer f.saving.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.removed = true
	f.rec.Desired = 0
	f.rt.report(function.Event{Removed: &f.ref})
	f.nudge()
}

// stop tells all replicas to end because the platform does.
func (f *supervisor) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stopping = true
	for _, r := range f.replicas {
		r.end(f.rt.StopGrace)
	}
}

// reconcile starts and drains replicas so that they become what they should
// be. It returns when to look again though nothing happens, or zero, and
// whether the function has come to its end.
func (f *supervisor) reconcile(ctx context.Context, now time.Time) (again time.Duration, done bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.removed && len(f.replicas) == 0 {
		return 0, true
	}
	f.measureLoad()
	todo := plan(f.rec, f.removed, f.failure != "", f.replicas)
	for _, r := range f.keepOne(ctx, todo.drain) {
		r.drain()
	}
	if f.rec.Desired > 0 {
		for _, r := range f.replicas {
			r.warm()
		}
	}
	wanted := 0
	for _, v := range f.rec.versions() {
		n := todo.start[v.Revision]
		wanted += n
		if wait := f.trouble[v.Revision].retry.Sub(now); n > 0 && wait > 0 {
			if again == 0 || wait < again {
				again = wait
			}
			continue
		}
		fit, wait := f.admit(n)
		if wait > 0 && (again == 0 || wait < again) {
			again = wait
		}
		for range fit {
			f.start(ctx, v)
		}
	}
	if wanted == 0 {
		f.cramped = ""
	}
	f.report()
	return again, false
}

// measureLoad notes what each replica is doing, for plan. f.mu is held.
func (f *supervisor) measureLoad() {
	if f.rt.Traffic == nil || f.rec.Desired >= len(f.replicas) {
		return // none is going to leave for having too many beside it
	}
	for _, r := range f.replicas {
		r.load = f.rt.Traffic.OnReplica(f.ref, r.id)
	}
}

// start starts one replica. f.mu is held.
func (f *supervisor) start(ctx context.Context, v version) {
	r := newReplica(f, v)
	f.replicas = append(f.replicas, r)
	f.rt.ledger.expect(r, f.cost)
	ctx = context.WithoutCancel(ctx) // when ctx ends the replica still has to finish what it is doing
	f.work.Go(func() { r.run(ctx) })
}

// steps are what plan wants done.
type steps struct {
	start map[int64]int // replicas, by revision
	drain []*replica
}

// plan decides the next steps of a function from what should be and what is.
//
// The version that is known to run, Stable or else Target, is kept at full
// strength. When it takes over from older ones, it is brought up one above the
// number, and they leave one by one, so that the number of ready replicas never
// falls below what it should be. Beside Stable, one replica of Target is tried.
//
// Versions that insist on a port cannot run beside others; see takeTurns.
// failed says that Target could not start.
func plan(rec record, removed, failed bool, replicas []*replica) steps {
	if slices.ContainsFunc(rec.versions(), func(v version) bool { return v.Port != "" }) {
		if removed {
			rec.Desired = 0
		}
		return takeTurns(rec, failed, replicas)
	}
	main := rec.Target
	if rec.Stable != nil {
		main = *rec.Stable
	}
	var current, trial, old []*replica
	ready := 0
	for _, r := range replicas {
		switch {
		case r.leaving:
			continue
		case r.version.Revision == main.Revision:
			current = append(current, r)
		case r.version.Revision == rec.Target.Revision:
			trial = append(trial, r)
		default:
			old = append(old, r)
		}
		ready += rank(r)
	}
	if removed || rec.Desired == 0 {
		return steps{drain: slices.Concat(current, trial, old)}
	}

	s := steps{start: map[int64]int{}, drain: surplus(current, rec.Desired)}
	missing := rec.Desired - len(current)
	if len(old) > 0 {
		missing = min(missing, rec.Desired+1-len(current)-len(old))
	}
	if missing > 0 {
		s.start[main.Revision] = missing
	}
	if rec.Stable != nil {
		s.drain = append(s.drain, surplus(trial, 1)...)
		if len(trial) == 0 {
			s.start[rec.Target.Revision] = 1
		}
	}
	spare := ready - rec.Desired
	for _, r := range old {
		if !r.ready { // it serves nobody
			s.drain = append(s.drain, r)
		} else if spare > 0 {
			spare--
			s.drain = append(s.drain, r)
		}
	}
	return s
}

// takeTurns is plan for a function of which one version or another insists on
// a port: nothing is started until what was there before has ended, and a
// Target that has failed leaves the port to Stable.
func takeTurns(rec record, failed bool, replicas []*replica) steps {
	v := rec.Target
	if rec.Stable != nil && failed {
		v = *rec.Stable
	}
	var current, others []*replica
	for _, r := range replicas {
		if !r.leaving && r.version.Revision == v.Revision {
			current = append(current, r)
		} else if !r.leaving {
			others = append(others, r)
		}
	}
	desired := v.atMost(rec.Desired)
	s := steps{start: map[int64]int{}, drain: append(surplus(current, desired), others...)}
	if len(replicas) == len(current) {
		s.start[v.Revision] = max(0, desired-len(current))
	}
	return s
}

// surplus returns the replicas beyond n: first those that are not ready, then
// those with the least to do, then the youngest.
func surplus(replicas []*replica, n int) []*replica {
	if len(replicas) <= n {
		return nil
	}
	order := slices.Clone(replicas)
	slices.Reverse(order)
	slices.SortStableFunc(order, func(a, b *replica) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.load, b.load))
	})
	return order[:len(replicas)-n]
}

func rank(r *replica) int {
	if r.ready {
		return 1
	}
	return 0
}

// became is told by a replica that it is ready, or is not any more. capacity is
// how many calls at once it says it can use; 0 if it does not say.
func (f *supervisor) became(r *replica, ready bool, capacity int) {
	f.mu.Lock()
	differs := capacity > 0 && !r.bounded && capacity != r.slots
	if r.leaving || r.keeping != nil || r.ready == ready && !differs {
		f.mu.Unlock()
		return
	}
	r.waking = false
	if differs {
		r.slots = capacity
	}
	r.ready = ready
	proved := false
	if ready {
		if r.readyAt.IsZero() {
			r.readyAt = time.Now()
		}
		if r.version.Revision == f.rec.Target.Revision {
			f.failure = ""
			proved = !f.rec.Proven
			f.rec.Proven, f.rec.Stable = true, nil
		}
	}
	f.report()
	f.nudge()
	f.mu.Unlock()
	if proved {
		f.save()
		f.rt.Log.Info("function deployed", "function", f.ref, "revision", r.version.Revision)
	}
}

// listens is told by a replica that its process exists and will listen.
func (f *supervisor) listens(r *replica) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r.listening, r.startup.Start = true, function.Duration(time.Since(r.made))
	f.report()
}

// ended is told by a replica that it is no more, and why if that was not
// asked for.
func (f *supervisor) ended(r *replica, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replicas = slices.DeleteFunc(f.replicas, func(other *replica) bool { return other == r })
	f.rt.ledger.forget(r)
	if reason != "" && !r.leaving && f.rec.Desired == 0 {
		f.rests(function.Asleep, "it ended while it was kept: "+reason)
	}
	if reason != "" && !r.leaving && !f.stopping {
		f.failed(r, reason)
	}
	f.report()
	f.nudge()
}

// trouble is what went wrong with replicas of one version.
type trouble struct {
	failures int       // in a row
	retry    time.Time // when to start the next one
}

// failed notes the failure of a replica. f.mu is held.
func (f *supervisor) failed(r *replica, reason string) {
	f.rt.Log.Warn("replica ended", "function", f.ref, "instance", r.id, "reason", reason)
	f.log.write(r.id, "graphene: replica ended: "+reason)

	revision := r.version.Revision
	t := f.trouble[revision]
	if !r.readyAt.IsZero() && time.Since(r.readyAt) >= ranWell {
		t.failures = 0
	}
	t.failures++
	t.retry = time.Now().Add(min(firstPause<<min(t.failures-1, 16), longestPause))
	f.trouble[revision] = t
	// One death of a replica that was serving is an accident; the next one
	// will do. It is a failure when it could not start, or dies again and again.
	if revision == f.rec.Target.Revision && (r.readyAt.IsZero() || t.failures > 1) {
		f.failure = reason
	}
}

// forgive forgets what went wrong, so that replicas are started at once. f.mu
// is held.
func (f *supervisor) forgive() {
	f.failure = ""
	clear(f.trouble)
}

// report tells watchers where the function lives, if that has changed. f.mu is
// held, which keeps reports in order.
func (f *supervisor) report() {
	if f.removed {
		return
	}
	e := f.endpoints()
	if f.lastSeen != nil && reflect.DeepEqual(*f.lastSeen, e) {
		return
	}
	f.lastSeen = &e
	f.rt.report(function.Event{Endpoints: &e})
}

// announce tells watchers of a function that is new.
func (f *supervisor) announce() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report()
}

// introduce tells one new watcher where the function lives.
func (f *supervisor) introduce(report func(function.Event)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.removed {
		return
	}
	e := f.endpoints()
	f.lastSeen = &e
	report(function.Event{Endpoints: &e})
}

// endpoints describes where the function lives. f.mu is held.
func (f *supervisor) endpoints() function.Endpoints {
	e := function.Endpoints{
		Ref:         f.ref,
		Revision:    f.rec.Target.Revision,
		Desired:     f.rec.Desired,
		Min:         1,
		Settings:    f.settings,
		Annotations: function.CallAnnotations(f.rec.Target.annotations()),
		Rest:        f.resting(),
		Room:        f.room,
		Failure:     f.failure,
		Note:        f.rec.Target.note(),
	}
	if f.staying() == 0 {
		e.Failure = cmp.Or(e.Failure, f.cramped)
	} else {
		e.Waiting = f.cramped
	}
	// A label that cannot be read was refused when the function was deployed.
	if scale, err := function.ReadScale(f.rec.Target.labels()); err == nil {
		e.Min = f.rec.Target.atMost(max(1, scale.Min))
		e.Scale = scale
	}
	if f.rec.Target.Port != "" { // which bounds it more than memory
		e.Room = &function.Room{Replicas: f.rec.Target.atMost(math.MaxInt), Reason: f.rec.Target.note()}
	}
	for _, r := range f.replicas {
		if r.leaving || !r.listening {
			continue
		}
		e.Replicas = append(e.Replicas, function.Replica{
			ID:       r.id,
			Address:  "unix:" + r.socket,
			Revision: r.version.Revision,
			Ready:    r.ready,
			Tier:     r.shown(),
			Keeps:    r.keeps,
			Slots:    r.slots,
			Startup:  r.startup,
		})
	}
	return e
}

// status describes the function as it was deployed last.
func (f *supervisor) status() types.FunctionStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	spec := f.rec.Target.Spec
	available := 0
	for _, r := range f.replicas {
		if r.ready && !r.leaving { // a kept one is not
			available++
		}
	}
	return types.FunctionStatus{
		Name:                   f.ref.Name,
		Namespace:              f.ref.Namespace,
		Image:                  spec.Image,
		EnvProcess:             spec.EnvProcess,
		EnvVars:                spec.EnvVars,
		Constraints:            spec.Constraints,
		Secrets:                spec.Secrets,
		Labels:                 spec.Labels,
		Annotations:            spec.Annotations,
		Limits:                 spec.Limits,
		Requests:               spec.Requests,
		ReadOnlyRootFilesystem: spec.ReadOnlyRootFilesystem,
		Replicas:               uint64(f.rec.Desired),
		AvailableReplicas:      uint64(available),
		CreatedAt:              f.rec.CreatedAt,
	}
}

// usage sums what the replicas use.
func (f *supervisor) usage() (types.FunctionUsage, error) {
	f.mu.Lock()
	replicas := slices.Clone(f.replicas)
	f.mu.Unlock()
	table, err := processes()
	if err != nil {
		return types.FunctionUsage{}, fmt.Errorf("list processes: %w", err)
	}
	var sum types.FunctionUsage
	for _, r := range replicas {
		cpu, memory := r.usage(table, time.Now())
		sum.CPU += cpu
		sum.TotalMemoryBytes += float64(memory)
	}
	return sum, nil
}

// live returns the replicas whose process may exist.
func (f *supervisor) live() []*replica {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.replicas)
}

// digests names the images that the function needs.
func (f *supervisor) digests() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := []string{}
	if !f.removed {
		all = append(all, f.rec.Target.Digest)
		if f.rec.Stable != nil {
			all = append(all, f.rec.Stable.Digest)
		}
	}
	for _, r := range f.replicas {
		all = append(all, r.version.Digest)
	}
	return all
}
