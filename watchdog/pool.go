package watchdog

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	firstCalls   = 10                     // of a worker, after which its size is what it grows from
	poolTick     = time.Second            // between looks at idle, large and stuck workers
	maxCrashes   = 3                      // workers that end in a call in a row, from which on the next starts later
	maxRest      = 10 * time.Second       // until it does, at most
	watchEvery   = 50 * time.Millisecond  // between looks at how large busy workers are
	maxFailures  = 3                      // workers that end before they are given a call, in a row, from which on the function is not ready, and has failed if it never was
	maxStillborn = 12                     // such workers, until a function that was ready has failed
	maxLead      = 50                     // calls before its last at which a worker gets its successor, at most
	settled      = 5 * time.Second        // after which a worker has not ended at its start
	minBackoff   = 100 * time.Millisecond // before a zygote that has ended is replaced; doubled each time
	maxBackoff   = time.Minute

	// What a worker may have too much of.
	killMemory    = "memory"
	killProcesses = "processes"
	killTime      = "time"

	// Why a worker may be replaced.
	recycleAge      = "age"
	recycleGrowth   = "growth"
	recycleMemory   = "memory"
	recycleRequests = "requests"

	pipelined     = time.Millisecond      // service times below which a worker is sent a second call behind its first
	serviceMemory = 8                     // calls that the recent service time is roughly the mean of
	recallTime    = 10 * time.Millisecond // after which a worker does not begin a call that has been recalled; twice what the protocol says
)

var (
	errPoolEnded = errors.New("the function is ending")
)

// pool is mode [Pool]: workers forked from a zygote that has loaded the
// function, or, where that cannot be, workers that each load for themselves.
//
// One goroutine, run, owns the zygote and its news, and each worker has one,
// read, that follows its socket. Calls come by submit. Whoever makes room in a
// worker, which mostly is its reader, finds the next call for it and sends it
// there, so that between two calls a worker waits for nobody to wake up.
type pool struct {
	o       *Options
	w       WorkerOptions
	log     *slog.Logger
	readers sync.WaitGroup
	failed  chan error // why the pool cannot go on; holds one
	heads   heads      // of answers

	mu         sync.Mutex // guards the rest, and what workers and calls say it does
	dirty      []*worker  // have something to be written when the lock is given up
	zygote     *zygote    // can fork; nil while there is none
	shared     bool       // workers are forked from a loaded zygote
	problem    string     // why not
	unthreaded bool       // the image is too old for worker_threads
	workers    []*worker
	lastID     uint32
	waiting    list.List     // of *call, in the order of arrival
	gathered   []*call       // reused by gather
	behind     int           // calls that are behind others in their worker
	service    time.Duration // that calls took lately, once begun; zero if not known
	failures   int           // of workers to start, in a row
	ready      func()        // called at the first ready worker, then nil
	ended      bool
	asleep     bool      // no workers are kept: see doze
	each       int       // calls that the last ready worker took at a time
	crashes    int       // workers that ended in a call, in a row
	crash      string    // how the last of them did
	stillborn  int       // workers that ended before they were given a call, in a row
	birth      error     // how the last of them did
	rest       time.Time // when a worker may be started again after crashes
	watching   bool      // a goroutine looks at how large workers are, see watchWorkers
	newest     string    // see there
	stray      []process // that cannot be told whose they are
	zygotes    []int     // process ids

	batching atomic.Bool // the function answers batches
	cost     batchCost

	starts   int           // for the metrics
	loaded   time.Duration // that the last load took
	waits    int           // calls that were not given to a worker at once
	waited   time.Duration // they, together
	deaths   int
	followed int            // calls sent behind others
	returned int            // calls taken back
	awaited  int            // calls that came when there was no worker
	recycled map[string]int // by reason
	killed   map[string]int // likewise
	memory   *memoryWatch
	sizes    [len(sizeBuckets)]int
	batches  int
	batched  int // calls in them
	refused  int
}

func newPool(o *Options) *pool {
	p := &pool{
		o: o, w: o.Workers, log: o.Log,
		failed: make(chan error, 1),
		shared: o.Workers.Threads == 1,
		cost:   batchCost{most: o.Workers.BatchMax, target: o.Workers.BatchLatency},

		recycled: map[string]int{},
		killed:   map[string]int{},
		memory:   newMemoryWatch("/"),
	}
	if limit := processLimit("/"); limit > 0 && p.w.MaxProcesses > 0 {
		// Beyond it this process could start no thread either, and would die of that.
		p.w.MaxProcesses = max(1, min(p.w.MaxProcesses, int(limit/2)))
	}
	if !p.shared {
		p.problem = fmt.Sprintf("threads is %d", o.Workers.Threads)
	}
	return p
}

func (p *pool) note() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var notes []string
	if p.problem != "" {
		notes = append(notes, "each worker loads the function for itself: "+p.problem)
	}
	if p.unthreaded {
		notes = append(notes, "worker_threads has no effect: the image's graphene_function is too old for it; build the image again")
	}
	if p.crashes >= maxCrashes {
		notes = append(notes, fmt.Sprintf("%d workers in a row ended in a call, the last with %s", p.crashes, p.crash))
	}
	return strings.Join(notes, "; ")
}

// capacity is how many calls at once make the function do all it can.
func (p *pool) capacity() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.workers {
		switch {
		case w.batches:
			p.each = w.many * p.w.BatchMax
		case w.ready:
			p.each = w.many
		}
	}
	return p.w.Max * max(1, p.each)
}

// run keeps a zygote alive until ctx ends. Losing one is no reason to stop
// serving: its workers go on, and those of the next take their place.
func (p *pool) run(ctx context.Context, ready func()) error {
	p.ready = ready
	tick := time.NewTicker(poolTick)
	defer tick.Stop()
	defer p.endStrays()
	defer p.readers.Wait()
	defer p.end()
	backoff := minBackoff
	for {
		begun := time.Now()
		z, err := p.load(ctx)
		if err == nil {
			err = p.watch(ctx, z, tick.C)
			p.lose()
			if _, restart := errors.AsType[*zygoteError](err); !restart {
				p.end() // before the zygote, which kills those that are left
				z.stop()
				return err
			}
			z.stop()
		} else if !p.serving() {
			return err
		}
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(begun) > maxBackoff {
			backoff = minBackoff
		}
		p.log.Error("the pool cannot start workers; those there are go on", "err", err, "retry_in", backoff)
		wait(ctx, backoff)
		backoff = min(2*backoff, maxBackoff)
	}
}

// load starts a zygote and has it load the function. A function that turns out
// not to survive a fork gets a zygote that loads nothing.
func (p *pool) load(ctx context.Context) (*zygote, error) {
	for {
		shared := p.isShared()
		z, err := startZygote(p.o, &p.readers)
		if err != nil {
			return nil, err
		}
		p.mu.Lock()
		p.zygotes = slices.DeleteFunc(p.zygotes, func(pid int) bool { _, alive := readProcess(pid); return !alive })
		p.zygotes = append(p.zygotes, z.child.PID())
		p.mu.Unlock()
		l, err := z.load(ctx, p.o, shared, p.explain)
		if err != nil {
			z.stop()
			return nil, err
		}
		if shared && !l.Shared {
			p.log.Warn("workers cannot share the loaded function; each will load it for itself", "problem", l.Problem)
			z.stop()
			p.mu.Lock()
			p.shared, p.problem = false, l.Problem
			p.mu.Unlock()
			continue
		}
		if shared {
			p.log.Info("function loaded", "seconds", l.Seconds)
			p.mu.Lock()
			p.loaded = time.Duration(l.Seconds * float64(time.Second))
			p.mu.Unlock()
		}
		return z, nil
	}
}

func (p *pool) isShared() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.shared
}

// serving reports whether there are workers to answer calls.
func (p *pool) serving() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.anyReady()
}

// A zygoteError is the end of a zygote that had loaded the function.
type zygoteError struct{ status string }

func (e *zygoteError) Error() string { return "the pool's process ended: " + e.status }

// watch uses the zygote until ctx ends, the zygote does, which is a
// [*zygoteError], or the pool gives up.
func (p *pool) watch(ctx context.Context, z *zygote, tick <-chan time.Time) error {
	p.mu.Lock()
	p.zygote, p.failures = z, 0
	for _, w := range p.workers {
		w.outdated = true
	}
	for range min(max(p.w.Min, len(p.workers)), p.w.Max) {
		p.fork()
	}
	p.mu.Unlock()
	for {
		select {
		case f, ok := <-z.frames:
			if !ok {
				return &zygoteError{p.explain(exitText(z.child.Wait()))}
			}
			p.hear(f)
		case <-tick:
			p.tidy()
		case err := <-p.failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// hear takes the zygote's news of its workers.
func (p *pool) hear(f frame) {
	p.mu.Lock()
	i := slices.IndexFunc(p.workers, func(w *worker) bool { return w.id == f.id })
	if i < 0 {
		p.mu.Unlock()
		return // retired, and gone as it should be
	}
	w := p.workers[i]
	p.mu.Unlock()
	switch f.kind {
	case frameForked:
		p.mu.Lock()
		defer p.unlock()
		if v, err := parseJSON[struct{ PID int }](f.payload); err == nil {
			w.pid = v.PID
		}
		w.forked = true
		p.admit(w)
	case frameExited:
		v, err := parseJSON[struct{ Status string }](f.payload)
		if err != nil {
			v.Status = "unknown status"
		}
		w.exit(v.Status)
	}
}

// lose forgets a zygote that has ended.
func (p *pool) lose() {
	p.mu.Lock()
	defer p.unlock()
	p.zygote = nil
	for _, w := range p.workers {
		w.forked = true // whatever it had left to say
		p.admit(w)
	}
}

// fork starts one more worker, if there is a zygote, and nil if not. The caller
// holds the lock.
func (p *pool) fork() *worker {
	if p.zygote == nil || p.ended {
		return nil
	}
	conn, theirs, err := socketPair()
	if err != nil {
		p.log.Error("no worker started", "err", err)
		return nil
	}
	p.lastID++
	w := &worker{
		id: p.lastID, zygote: p.zygote, started: time.Now(), conn: conn,
		calls: map[uint32]*call{}, exited: make(chan struct{}), lastUsed: time.Now(), many: 1,
	}
	p.workers = append(p.workers, w)
	p.starts++
	if err := p.zygote.fork(w.id, theirs); err != nil {
		// The zygote is ending, which run is about to see; so will the reader.
		p.log.Debug("no worker started", "err", err)
		conn.Close()
	}
	p.readers.Go(func() { p.read(w) })
	return w
}

// read follows one worker to its end.
func (p *pool) read(w *worker) {
	err := p.follow(w)
	p.mu.Lock()
	w.dead = true
	expected := p.ended || w.retiring && len(w.calls) == 0 && (w.ready || w.reason == "")
	reason := w.reason
	p.mu.Unlock()
	status := "retired"
	if !expected {
		status = p.explain(w.ending())
	}
	if reason != "" {
		status = "it was killed, because " + reason
	}
	p.close(w, status)
	p.onGone(w, status, err, expected)
	p.endKin(w)
}

func (p *pool) onReady(w *worker, r ready) {
	p.mu.Lock()
	defer p.unlock()
	w.greeted, w.async, w.many, w.recalls = true, r.Async, max(1, r.Many), r.Recall
	if w.pid == 0 {
		w.pid = r.PID // or its parent says so in a moment
	}
	switch {
	case r.Batch && p.w.BatchMax > 1:
		w.batches = true
		p.batching.Store(true)
	case r.Async:
		w.many = p.w.AsyncCalls
	}
	p.unthreaded = r.Many == 0 && p.w.Concurrent > 1 && !r.Async
	p.admit(w)
}

// explain adds to how a process has ended why that may have been.
func (p *pool) explain(status string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory.explain(status)
}

// admit makes a worker ready once it has said so itself and its parent has let
// go of its socket: from then on its death ends the socket at once, and a call
// that could be written was received by nobody but the worker. The caller holds
// the lock.
func (p *pool) admit(w *worker) {
	if w.ready || !w.greeted || !w.forked {
		return
	}
	w.ready, w.lastUsed = true, time.Now()
	if !p.shared {
		p.loaded = w.lastUsed.Sub(w.started)
	}
	w.self, _ = readProcess(w.pid) // unknown processes are not looked at
	p.failures = 0
	if p.ready != nil {
		p.ready()
		p.ready = nil
	}
	for _, old := range p.workers {
		if old.outdated {
			p.retire(old)
			break // one for one
		}
	}
	p.dispatch(time.Now())
}

// onGone settles what a worker's end leaves behind.
func (p *pool) onGone(w *worker, status string, err error, expected bool) {
	p.mu.Lock()
	defer p.unlock()
	p.workers = slices.DeleteFunc(p.workers, func(other *worker) bool { return other == w })
	if expected {
		p.dispatch(time.Now())
		return
	}
	p.deaths++
	p.log.Warn("worker ended", "pid", w.pid, "status", status, "served", w.served)
	if err == nil {
		err = errors.New("a worker ended before it was ready: " + status)
	}
	if !w.ready {
		p.failures++
	}
	switch {
	case w.served == 0:
		p.stillborn++
		p.birth = err
		if w.ready {
			p.birth = errors.New("a worker ended before it was given a call: " + status)
		}
		// A function that says at its first load why it cannot be loaded will
		// say the same again.
		_, refused := errors.AsType[loadError](err)
		most := maxFailures
		if p.ready == nil {
			most = maxStillborn // it could start once
		}
		if (p.stillborn >= most || refused && p.ready != nil) && !p.anyReady() {
			select {
			case p.failed <- err:
			default:
			}
			return
		}
		if p.stillborn >= maxFailures {
			p.pause("before they have answered a call", p.stillborn-maxFailures, status)
		}
	case w.fell && w.reason == "":
		p.crashes++
		p.crash = status
		if p.crashes >= maxCrashes {
			p.pause("in a call", p.crashes-maxCrashes, status)
		}
	}
	if w.ready {
		p.dispatch(time.Now())
	}
	// Else the next try is left to tidy, so that a function that cannot start is
	// not started as fast as the machine can.
}

// pause has no worker started for a while, which is longer the more often there
// was a pause before.
func (p *pool) pause(when string, times int, status string) {
	d := min(maxRest, minBackoff<<min(times, 16))
	p.rest = time.Now().Add(d)
	p.log.Error("workers end one after the other", "when", when, "last", status, "next_start_in", d)
	time.AfterFunc(d, p.redispatch) // starts what was not started meanwhile
}

// trouble is why no call would be answered now, though the function has been
// loaded: one worker after the other has ended without having been given any.
// It is over when one has answered, or has lived for a while.
func (p *pool) trouble() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stillborn < maxFailures {
		return ""
	}
	for _, w := range p.workers {
		if w.ready && !w.dead && (w.served > 0 || time.Since(w.started) > settled) {
			return ""
		}
	}
	return fmt.Sprintf("no worker stays alive, %d have ended one after the other: %s", p.stillborn, oneLine(p.birth))
}

func (p *pool) anyReady() bool {
	for _, w := range p.workers {
		if w.ready && !w.retiring && !w.dead {
			return true
		}
	}
	return false
}

// soil notes that a worker has something pending. The caller holds the lock.
func (p *pool) soil(w *worker) {
	if !slices.Contains(p.dirty, w) {
		p.dirty = append(p.dirty, w)
	}
}

// unlock gives up the lock and writes what has become pending under it.
func (p *pool) unlock() {
	var few [4]*worker
	dirty := append(few[:0], p.dirty...)
	clear(p.dirty)
	p.dirty = p.dirty[:0]
	p.mu.Unlock()
	for _, w := range dirty {
		p.flush(w)
	}
}

// submit finds a worker with room for a call, or lets the call wait for one. An
// error means that it will not be answered.
func (p *pool) submit(c *call) error {
	now := time.Now()
	p.mu.Lock()
	defer p.unlock()
	if p.ended {
		return errPoolEnded
	}
	c.arrived = now
	if p.waiting.Len() == 0 {
		if w := p.pick(c, now); w != nil {
			p.give(w, now, c)
			p.grow()
			return nil
		}
	}
	if p.waiting.Len() >= p.w.MaxQueue {
		return &busyError{fmt.Sprintf("%d calls are waiting already", p.w.MaxQueue), time.Second}
	}
	if d, tooLong := p.expectedWait(now); tooLong {
		p.refused++
		return &busyError{fmt.Sprintf("an answer would take %v, which is more than batch_latency, %v", d.Round(time.Millisecond), p.w.BatchLatency), d}
	}
	if !p.anyReady() {
		p.awaited++
	}
	c.place = p.waiting.PushBack(c)
	p.grow()
	return nil
}

// dispatch gives room in workers to waiting calls. The caller holds the lock,
// as for the methods below.
func (p *pool) dispatch(now time.Time) {
	for p.waiting.Len() > 0 {
		w := p.pick(p.waiting.Front().Value.(*call), now)
		if w == nil {
			break
		}
		p.give(w, now, p.gather(w, now)...)
	}
	p.grow()
}

// pick returns the best worker with room for the call, if there is one: the
// least loaded and, among those, the one used last, whose memory is warm.
func (p *pool) pick(c *call, now time.Time) *worker {
	var idle, best *worker
	busy := 0
	for _, w := range p.workers {
		if w.load > 0 && w.reason == "" && w.doubted == 0 {
			busy++
		}
		switch {
		case !w.ready || w.retiring || w.dead || w.doubted > 0:
		case w.load == 0:
			if idle == nil || w.warmer(idle) {
				idle = w
			}
		case w.load < w.many || p.mayFollow(w, c, now):
			if best == nil || w.load < best.load {
				best = w
			}
		}
	}
	if idle != nil && busy < p.w.Max { // else it is a successor of one that is still at work
		return idle
	}
	return best
}

// mayFollow reports whether a worker that takes one call at a time may be sent
// another behind it: if that will hardly wait longer than it takes to send it
// there later.
func (p *pool) mayFollow(w *worker, c *call, now time.Time) bool {
	return w.front != nil && w.behind == nil && !w.batches && w.many == 1 && w.front.short() && c.short() &&
		0 < p.service && p.service < pipelined && now.Sub(w.front.began) < pipelined
}

// recall tells a worker not to begin the call that is behind one which has
// turned out to be long, and reports whether it did. The worker may be in the
// middle of anything and need not answer: at the next look, which is no sooner
// than [recallTime] after this has been written, its reader takes the call back.
func (p *pool) recall(w *worker, now time.Time) bool {
	c := w.behind
	switch {
	case c == nil || !w.recalls || !c.handed || w.dead || now.Sub(w.front.began) < pipelined:
		return false
	case c.recall == recallNone:
		c.recall = recallSent
		w.pending = appendFrame(w.pending, frameRecall, c.id, nil)
		p.soil(w)
		return true
	default:
		c.recall = recallDue
		_ = w.conn.SetReadDeadline(time.Unix(1, 0)) // wakes the reader; if it has ended, so has all this
		return false
	}
}

// observeService notes how long a call took.
func (p *pool) observeService(d time.Duration) {
	if p.service == 0 {
		p.service = max(d, 1)
		return
	}
	p.service = max(1, p.service+(d-p.service)/serviceMemory)
}

// serve counts a call that a worker is given.
func (p *pool) serve(w *worker) {
	w.served++
	p.watchWorkers()
	if p.w.MaxRequests > 0 && !w.outdated && !w.retiring {
		p.countDown(w)
	}
}

// countDown replaces a worker that has had as many calls as it may. Its
// successor is started some calls before that, and if it is not ready when they
// are over, the worker goes on until it is. Only where each call is to have a
// worker of its own the count is exact.
func (p *pool) countDown(w *worker) {
	left := p.w.MaxRequests - w.served
	if w.successor == nil && left <= min(max(1, p.w.MaxRequests/10), maxLead) {
		w.successor = p.fork()
	}
	next := w.successor
	switch {
	case left > 0:
		return
	case p.w.MaxRequests == 1:
		w.retiring = true
	case next != nil && next.ready && !next.dead && !next.retiring:
		p.retire(w)
	default:
		w.outdated = true // until another worker is ready
		if next == nil || next.dead || next.retiring {
			w.successor = p.fork()
		}
	}
	p.recycled[recycleRequests]++
}

// grow starts workers for calls that wait, as far as the maximum allows.
func (p *pool) grow() {
	wanted := p.waiting.Len() + p.behind
	if wanted > 0 {
		p.asleep = false
	}
	if wanted == 0 || !p.rest.IsZero() && time.Now().Before(p.rest) {
		return
	}
	live, starting := p.count()
	for starting < wanted && live < p.w.Max && p.failures == 0 {
		before := len(p.workers)
		p.fork()
		if len(p.workers) == before {
			return
		}
		starting, live = starting+1, live+1
	}
}

// count returns how many workers there are that will take calls, and how many
// of them have not started yet.
func (p *pool) count() (live, starting int) {
	for _, w := range p.workers {
		if w.retiring || w.dead || w.doubted > 0 {
			continue
		}
		live++
		if !w.ready {
			starting++
		}
	}
	return live, starting
}

// retire lets a worker finish its calls and end.
func (p *pool) retire(w *worker) {
	w.retiring, w.outdated = true, false
	if len(w.calls) == 0 {
		w.conn.Close()
	}
}

// tidy keeps the minimum alive, ends what has been idle for long, and replaces
// what has grown too large or never started.
func (p *pool) tidy() {
	p.mu.Lock()
	defer p.unlock()
	live, _ := p.count()
	now := time.Now()
	if now.Before(p.rest) {
		live = p.w.Max // none is started now
	}
	if live < p.w.Min && !p.asleep || p.failures > 0 && p.waiting.Len() > 0 && live < p.w.Max {
		p.fork() // one per tick, however fast they fail
	}
	for _, w := range p.workers {
		switch {
		case w.retiring || w.dead || w.outdated:
		case !w.ready:
			if now.Sub(w.started) > p.w.LoadTimeout {
				p.killLocked(w, killTime, "it did not start in time")
			}
		case len(w.calls) == 0 && live > p.w.Min && now.Sub(w.lastUsed) > p.w.IdleTimeout:
			p.retire(w)
			live--
		default:
			p.recycle(w, now)
		}
	}
}

// recycle replaces a worker that is too old or too large: it goes on until its
// successor is ready.
func (p *pool) recycle(w *worker, now time.Time) {
	reason := ""
	var size int64
	if w.served > 0 && (p.w.MaxMemory > 0 || p.w.MaxGrowth > 0) {
		size = residentBytes(w.pid)
		if w.settled == 0 && w.served >= firstCalls {
			w.settled = size
		}
	}
	switch {
	case p.w.MaxMemory > 0 && size > p.w.MaxMemory:
		reason = recycleMemory
	case p.w.MaxGrowth > 0 && w.settled > 0 && size > w.settled+p.w.MaxGrowth:
		reason = recycleGrowth
	case p.w.MaxAge > 0 && now.Sub(w.started) > p.w.MaxAge:
		reason = recycleAge
	default:
		return
	}
	p.log.Info("replacing a worker", "pid", w.pid, "reason", reason, "bytes", size, "served", w.served, "age", now.Sub(w.started).Round(time.Second))
	p.recycled[reason]++
	w.outdated = true
	p.fork()
}

// kill ends a worker now, in the middle of whatever it does. kind is the reason
// for the metrics, why the same in words.
func (p *pool) kill(w *worker, kind, why string) {
	p.mu.Lock()
	defer p.unlock()
	p.killLocked(w, kind, why)
}

// condemn notes that a worker is being killed. The caller holds the lock, as
// for killLocked.
func (p *pool) condemn(w *worker, kind, why string) {
	if w.reason == "" {
		p.killed[kind]++
	}
	w.retiring, w.reason = true, why
	if w.behind != nil {
		p.cancel(w.behind) // should it come to it meanwhile
	}
	p.log.Warn("killing a worker", "pid", w.pid, "reason", why)
}

func (p *pool) killLocked(w *worker, kind, why string) {
	if w.dead {
		return
	}
	p.condemn(w, kind, why)
	// Its parent knows best whether it still is who it was.
	if w.zygote.ended() || w.zygote.kill(w.id) != nil {
		w.killGroup()
	}
}

// end refuses waiting calls and lets workers go: those that are idle end, and
// those of a zygote that has died before are killed. It may be called again.
func (p *pool) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	for e := p.waiting.Front(); e != nil; e = p.waiting.Front() {
		c := p.waiting.Remove(e).(*call)
		c.place = nil
		c.refuse(errPoolEnded)
	}
	for _, w := range p.workers {
		if len(w.calls) > 0 && w.zygote.ended() {
			w.killGroup()
		}
		w.retiring = true
		w.conn.Close()
	}
}

func (p *pool) writeMetrics(out io.Writer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	states := map[string]int{}
	for _, w := range p.workers {
		switch {
		case !w.ready:
			states["starting"]++
		case len(w.calls) > 0:
			states["busy"]++
		default:
			states["idle"]++
		}
	}
	writeHelp(out, "pool_workers", "gauge", "Processes of the pool, by what they do.")
	for _, state := range []string{"busy", "idle", "starting"} {
		fmt.Fprintf(out, "pool_workers{state=%q} %d\n", state, states[state])
	}
	writeHelp(out, "pool_waiting", "gauge", "Calls waiting for a worker.")
	fmt.Fprintf(out, "pool_waiting %d\n", p.waiting.Len())
	writeHelp(out, "pool_wait_seconds", "summary", "Time that calls waited for a worker, of those that were not given to one at once.")
	fmt.Fprintf(out, "pool_wait_seconds_sum %g\npool_wait_seconds_count %d\n", p.waited.Seconds(), p.waits)
	writeHelp(out, "pool_load_seconds", "gauge", "Time that the function took to load, the last time.")
	fmt.Fprintf(out, "pool_load_seconds %g\n", p.loaded.Seconds())
	writeHelp(out, "pool_followed_total", "counter", "Calls sent to a worker behind a short one.")
	fmt.Fprintf(out, "pool_followed_total %d\n", p.followed)
	writeHelp(out, "pool_redispatched_total", "counter", "Calls that went to another worker because theirs ended, or was at another for long, before it began them.")
	fmt.Fprintf(out, "pool_redispatched_total %d\n", p.returned)
	writeHelp(out, "pool_calls_without_worker_total", "counter", "Calls that came when no worker was ready, and waited for one to start.")
	fmt.Fprintf(out, "pool_calls_without_worker_total %d\n", p.awaited)
	writeHelp(out, "pool_worker_starts_total", "counter", "Workers started.")
	fmt.Fprintf(out, "pool_worker_starts_total %d\n", p.starts)
	writeHelp(out, "pool_worker_deaths_total", "counter", "Workers that ended without being asked to.")
	fmt.Fprintf(out, "pool_worker_deaths_total %d\n", p.deaths)
	writeHelp(out, "pool_crashes_in_a_row", "gauge", "Workers that ended in a call since one last answered.")
	fmt.Fprintf(out, "pool_crashes_in_a_row %d\n", p.crashes)
	resting := 0
	if time.Now().Before(p.rest) {
		resting = 1
	}
	writeHelp(out, "pool_resting", "gauge", "1 while no worker is started, because too many ended in a call.")
	fmt.Fprintf(out, "pool_resting %d\n", resting)
	unshared := 0
	if !p.shared {
		unshared = 1
	}
	writeHelp(out, "pool_loads_unshared", "gauge", "1 if each worker loads the function for itself; /_/ready says why.")
	fmt.Fprintf(out, "pool_loads_unshared %d\n", unshared)
	writeHelp(out, "pool_worker_replacements_total", "counter", "Workers replaced by a successor, by reason.")
	for _, reason := range []string{recycleAge, recycleGrowth, recycleMemory, recycleRequests} {
		fmt.Fprintf(out, "pool_worker_replacements_total{reason=%q} %d\n", reason, p.recycled[reason])
	}
	started := len(p.stray)
	for _, w := range p.workers {
		started += len(w.kin)
	}
	writeHelp(out, "pool_processes", "gauge", "Processes that workers have started, as far as they have been seen.")
	fmt.Fprintf(out, "pool_processes %d\n", started)
	writeHelp(out, "pool_worker_kills_total", "counter", "Workers killed, by what they had too much of.")
	for _, kind := range []string{killMemory, killProcesses, killTime} {
		fmt.Fprintf(out, "pool_worker_kills_total{reason=%q} %d\n", kind, p.killed[kind])
	}
	p.writeBatchMetrics(out)
}
