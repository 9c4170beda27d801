package watchdog

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	batchBody    = 8 << 20 // bytes of a body that may wait to become part of a batch; larger ones come alone
	batchHistory = 64      // batches from which the cost of the next is told
)

// sizeBuckets are upper bounds of the histogram of batch sizes.
var sizeBuckets = [...]int{1, 2, 4, 8, 16, 32, 64, 128}

// A batch is the calls that a worker was given together.
type batch struct {
	size  int
	open  int       // not answered yet; guarded by the pool's lock
	begun time.Time // when they were sent
	until time.Time // the latest of their deadlines; zero if one has none
}

// gather takes from the queue the call that has waited longest and, if the
// worker answers batches, as many others as the batch may have. A call whose
// body is still arriving goes alone, because the others would wait for it. The
// caller holds the pool's lock.
func (p *pool) gather(w *worker, now time.Time) []*call {
	limit := 1
	if w.batches && p.waiting.Front().Value.(*call).whole {
		limit = p.cost.limit()
		if p.w.MaxRequests > 0 {
			limit = max(1, min(limit, p.w.MaxRequests-w.served))
		}
	}
	calls := p.gathered[:0]
	for e := p.waiting.Front(); e != nil && len(calls) < limit; {
		next := e.Next()
		if c := e.Value.(*call); len(calls) == 0 || c.whole {
			p.waiting.Remove(e)
			c.place, c.waited = nil, true
			p.waits++
			p.waited += now.Sub(c.arrived)
			calls = append(calls, c)
		}
		e = next
	}
	p.gathered = calls
	return calls
}

// give lets the calls, of which there are several only for a batch, have the
// worker. The caller holds the pool's lock.
func (p *pool) give(w *worker, now time.Time, calls ...*call) {
	b := p.newBatch(w, calls, now)
	size := 0
	for _, c := range calls {
		w.lastID++
		c.id, c.w, c.batch, c.began, c.running = w.lastID, w, b, now, true
		w.calls[c.id] = c
		size += len(c.frame)
		p.serve(w)
	}
	w.load++
	if b != nil {
		w.running = append(w.running, b)
	}
	first := calls[0]
	if w.many == 1 && b.single() {
		if w.front == nil {
			w.front = first
		} else {
			w.behind, first.waited = first, true
			p.behind++
			p.followed++
		}
	}
	switch {
	case first.whole && (size <= shortCall && w.many <= fewCalls || size <= wholeBody && w.many == 1 && !b.single()):
		if !b.single() {
			w.pending = appendFrame(w.pending, frameBatch, 0, binary.BigEndian.AppendUint32(nil, uint32(len(calls))))
		}
		for _, c := range calls {
			w.append(c, now)
		}
		p.soil(w)
	case b.single():
		first.own = true
		first.makeYours()
	default:
		calls := slices.Clone(calls)
		p.readers.Go(func() {
			p.sendAll(w, appendFrame(nil, frameBatch, 0, binary.BigEndian.AppendUint32(nil, uint32(len(calls)))), calls...)
		})
	}
}

// single reports whether a call comes alone; a nil batch always does.
func (b *batch) single() bool { return b == nil || b.size == 1 }

func (p *pool) newBatch(w *worker, calls []*call, now time.Time) *batch {
	if !w.batches {
		return nil
	}
	size := len(calls)
	for i, bound := range sizeBuckets {
		if size <= bound {
			p.sizes[i]++
			break
		}
	}
	p.batches++
	p.batched += size
	b := &batch{size: size, open: size, begun: now}
	for _, c := range calls {
		if c.deadline.IsZero() {
			b.until = time.Time{}
			break
		}
		if c.deadline.After(b.until) {
			b.until = c.deadline
		}
	}
	return b
}

// batchOver learns from a batch whose last call has been answered. The caller
// holds the pool's lock.
func (p *pool) batchOver(w *worker, b *batch, now time.Time) {
	if b.open--; b.open > 0 {
		return
	}
	w.load--
	w.running = slices.DeleteFunc(w.running, func(other *batch) bool { return other == b })
	if !w.dead {
		p.cost.observe(b.size, now.Sub(b.begun))
	}
}

// expectedWait is how long one more call would take until it is answered, and
// whether that is more than it may. The caller holds the pool's lock.
func (p *pool) expectedWait(now time.Time) (d time.Duration, tooLong bool) {
	if p.cost.target == 0 || p.cost.count == 0 {
		return 0, false
	}
	ready, next := 0, time.Duration(-1)
	for _, w := range p.workers {
		if !w.ready || w.retiring || w.dead {
			continue
		}
		ready += w.many
		if w.load < w.many {
			next = 0
			continue
		}
		for _, b := range w.running {
			if left := max(0, p.cost.of(b.size)-now.Sub(b.begun)); next < 0 || left < next {
				next = left
			}
		}
	}
	if ready == 0 {
		return 0, false // who knows
	}
	size := p.cost.limit()
	rounds := (p.waiting.Len() + size*ready) / (size * ready) // rounded up, this call included
	d = next + time.Duration(rounds)*p.cost.of(min(size, p.waiting.Len()+1))
	return d, d > p.cost.target
}

func (p *pool) writeBatchMetrics(out io.Writer) {
	if !p.batching.Load() {
		return
	}
	writeHelp(out, "pool_batch_size", "histogram", "Calls that were given to a worker together.")
	sum := 0
	for i, bound := range sizeBuckets {
		sum += p.sizes[i]
		fmt.Fprintf(out, "pool_batch_size_bucket{le=\"%d\"} %d\n", bound, sum)
	}
	fmt.Fprintf(out, "pool_batch_size_bucket{le=\"+Inf\"} %d\n", p.batches)
	fmt.Fprintf(out, "pool_batch_size_sum %d\n", p.batched)
	fmt.Fprintf(out, "pool_batch_size_count %d\n", p.batches)
	writeHelp(out, "pool_batch_limit", "gauge", "Calls that the next batch may have.")
	fmt.Fprintf(out, "pool_batch_limit %d\n", p.cost.limit())
	writeHelp(out, "pool_batch_refused_total", "counter", "Calls refused because they would have taken longer than batch_latency.")
	fmt.Fprintf(out, "pool_batch_refused_total %d\n", p.refused)
}

// batchCost tells from the last batches what the next will cost, as a fixed
// part and a part for each call: the line of least squares through them.
type batchCost struct {
	most   int           // calls in a batch, whatever they cost
	target time.Duration // for a call, waiting included; zero for none

	last  [batchHistory]struct{ size, seconds float64 }
	count int // batches seen

	fixed, each float64 // seconds
	largest     int     // of the last
}

func (c *batchCost) observe(size int, d time.Duration) {
	c.last[c.count%batchHistory] = struct{ size, seconds float64 }{float64(size), d.Seconds()}
	c.count++

	n := min(c.count, batchHistory)
	var x, y, xx, xy float64
	c.largest = 0
	for _, b := range c.last[:n] {
		x, y, xx, xy = x+b.size, y+b.seconds, xx+b.size*b.size, xy+b.size*b.seconds
		c.largest = max(c.largest, int(b.size))
	}
	k := float64(n)
	switch spread := k*xx - x*x; {
	case spread < k/2: // all of a size: for all we know, twice as many take twice as long
		c.fixed, c.each = 0, y/x
	default:
		c.each = (k*xy - x*y) / spread
		c.fixed = (y - c.each*x) / k
	}
	if c.each < 0 {
		c.fixed, c.each = y/k, 0
	}
	if c.fixed < 0 {
		c.fixed, c.each = 0, xy/xx
	}
}

// of is what a batch of a size should take.
func (c *batchCost) of(size int) time.Duration {
	return time.Duration((c.fixed + c.each*float64(size)) * float64(time.Second))
}

// limit is how many calls the next batch may have. With a target, it may take
// half of it, because a call may first have to wait for the batch before its
// own; and it is at most twice what has been tried, because a line through few
// points is a bad prophet.
func (c *batchCost) limit() int {
	if c.target == 0 {
		return c.most
	}
	if c.count == 0 {
		return 1
	}
	limit := min(c.most, 2*c.largest)
	if c.each > 0 {
		limit = min(limit, int((c.target.Seconds()/2-c.fixed)/c.each))
	}
	return max(1, limit)
}
