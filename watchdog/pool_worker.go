package watchdog

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// exitNews is how long to wait, after a worker's socket has ended, for the
// zygote to say how the process did.
const exitNews = 500 * time.Millisecond

// burst is how many frames of a worker are dealt with together.
const burst = 64

// A worker is one process that answers calls, and our end of its socket.
type worker struct {
	id      uint32
	zygote  *zygote // its parent
	started time.Time

	writing sync.Mutex // held while something is written, and taken before the pool's lock
	conn    *net.UnixConn
	out     []byte // reused for what is written

	told   sync.Once
	exited chan struct{} // closed when the zygote has said how the process ended
	status string        // in words; valid once exited is closed

	// Guarded by the pool's lock.
	pid       int
	self      process
	greeted   bool // it has said that it is ready
	forked    bool // its parent has said so
	ready     bool // both: it takes calls
	async     bool // its handler can be interrupted
	many      int  // calls, or batches, that it takes at a time
	batches   bool // it answers batches
	recalls   bool // it keeps to the rule about calls that are recalled
	calls     map[uint32]*call
	lastID    uint32
	front     *call     // of one that takes one at a time: the call that it is at
	behind    *call     // and the one that it has been sent meanwhile
	load      int       // how much of many is taken
	running   []*batch  // what it has been given, if it answers batches
	reason    string    // why we have killed it
	dead      bool      // its socket has ended
	doubted   int       // calls that it does not end
	fell      bool      // in the middle of a call
	retiring  bool      // gets no more calls and ends when the running ones have
	settled   int64     // bytes resident after the first calls; zero until then
	outdated  bool      // to be replaced as soon as a successor is ready
	successor *worker   // started when its calls are nearly over
	kin       []process // that it has started, as far as they have been seen
	served    int
	lastUsed  time.Time

	pending []byte  // to be written next
	unsent  []*call // whose requests are in pending
	spare   []*call // where the next unsent begin; guarded by writing
}

// warmer reports whether a call is better given to w than to another, if both
// are idle: the one used last has its memory at hand, and one that has not been
// used at all may be the successor of one that has some calls left.
func (w *worker) warmer(than *worker) bool {
	if than.served == 0 || w.served == 0 {
		return than.served == 0 && w.served > 0
	}
	return w.lastUsed.After(than.lastUsed)
}

// exit notes how the process ended and makes the reader see the end of it,
// even if something the function started still holds the socket.
func (w *worker) exit(status string) {
	w.told.Do(func() {
		w.status = status
		close(w.exited)
		w.conn.Close()
	})
}

// killGroup kills a worker whose parent has died, and what it has started. The
// caller holds the pool's lock and has seen that the socket is open, so the id
// has not been given to another process.
func (w *worker) killGroup() {
	if w.pid > 0 {
		_ = syscall.Kill(-w.pid, syscall.SIGKILL) // it may be ending by itself
	}
	w.exit("killed")
}

// ending waits a moment for the news of how the process ended.
func (w *worker) ending() string {
	timer := time.NewTimer(exitNews)
	defer timer.Stop()
	select {
	case <-w.exited:
		return w.status
	case <-timer.C:
		return "unknown status"
	}
}

// ready is what READY says.
type ready struct {
	Async  bool `json:"async"`
	Batch  bool `json:"batch"`
	Many   int  `json:"many"` // calls or batches at a time; zero is one
	PID    int  `json:"pid"`
	Recall bool `json:"recall"`
}

// write sends what is in w.out. The caller holds w.writing.
func (w *worker) write(b []byte) (int, error) {
	n, err := w.conn.Write(b)
	if cap(b) > 2*wholeBody {
		b = nil
	}
	w.out = b
	return n, err
}

// send writes one frame. A failure is not reported: the reader sees the end too.
func (w *worker) send(kind frameType, id uint32, payload []byte) {
	w.writing.Lock()
	defer w.writing.Unlock()
	_, _ = w.write(appendFrame(w.out[:0], kind, id, payload))
}

// append adds a call's request to what is written next.
func (w *worker) append(c *call, now time.Time) {
	begin := len(w.pending)
	w.pending = append(w.pending, c.frame...)
	sealRequest(w.pending[begin:], c.id, c.timeLeft(now), c.whole)
	w.unsent = append(w.unsent, c)
}

// flush writes what is pending.
func (p *pool) flush(w *worker) {
	if !p.flushed(w) {
		p.redispatch()
	}
}

// flushed is false if calls have been taken back.
func (p *pool) flushed(w *worker) bool {
	w.writing.Lock()
	defer w.writing.Unlock()
	p.mu.Lock()
	b, calls := w.pending, w.unsent
	if len(b) == 0 {
		p.mu.Unlock()
		return true
	}
	w.pending, w.unsent = w.out[:0], w.spare[:0]
	for _, c := range calls {
		c.handed = true
	}
	p.mu.Unlock()
	n, err := w.write(b)
	w.spare = calls
	return p.written(w, calls, n, err)
}

// redispatch finds workers for calls that have been taken back.
func (p *pool) redispatch() {
	p.mu.Lock()
	p.dispatch(time.Now())
	p.unlock()
}

// sendLong writes a call's request from its own goroutine, and reports whether
// it could; if not, the call waits for another worker.
func (p *pool) sendLong(c *call) bool {
	p.mu.Lock()
	w := c.w
	p.mu.Unlock()
	return p.sendAll(w, nil, c)
}

// sendAll writes the requests of calls after what there is before them.
func (p *pool) sendAll(w *worker, before []byte, calls ...*call) bool {
	sent := p.sentAll(w, before, calls)
	if !sent {
		p.redispatch()
	}
	return sent
}

func (p *pool) sentAll(w *worker, before []byte, calls []*call) bool {
	w.writing.Lock()
	defer w.writing.Unlock()
	p.mu.Lock()
	for _, c := range calls {
		c.handed = true
	}
	p.mu.Unlock()
	now := time.Now()
	buffers := net.Buffers{before}
	for _, c := range calls {
		sealRequest(c.frame, c.id, c.timeLeft(now), c.whole)
		buffers = append(buffers, c.frame)
	}
	n, err := buffers.WriteTo(w.conn)
	return p.written(w, calls, int(n), err)
}

// written takes calls back if nothing of them could be written, so that the
// function has not seen them, and is false then. The caller holds w.writing.
func (p *pool) written(w *worker, calls []*call, n int, err error) bool {
	if err == nil || n > 0 {
		return true // if it was a part, the reader is about to see the worker's end
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	w.dead = true
	for _, c := range slices.Backward(calls) {
		if c.running && c.w == w {
			p.takeBack(c)
		}
	}
	return false
}

// takeBack takes a call away from a worker that has not begun it, and lets it
// wait before all others. The caller holds the lock.
func (p *pool) takeBack(c *call) {
	w := c.w
	w.served--
	p.forget(c)
	if c.batch != nil {
		p.batchOver(w, c.batch, time.Now())
		c.batch = nil
	}
	c.own, c.handed, c.recall = false, false, recallNone
	switch {
	case c.left:
		c.lose("") // for the one who waits for its end
	case p.ended:
		c.refuse(errPoolEnded)
	default:
		p.returned++
		c.waited = true
		c.place = p.waiting.PushFront(c)
	}
}

// over notes that a worker has answered a call, or has died over it. The caller
// holds the lock.
func (p *pool) over(c *call, now time.Time) {
	if !c.running {
		return
	}
	w := c.w
	if c == w.front && c.batch == nil && !w.dead {
		p.observeService(now.Sub(c.began))
	}
	p.forget(c)
	w.lastUsed = now
	if !w.dead {
		p.crashes = 0
	}
	if c.batch != nil {
		p.batchOver(w, c.batch, now)
	}
	if next := w.front; next != nil {
		next.began = now
		if next.left && !next.deadline.IsZero() {
			// It may be at work on it all the same, for as long as any call.
			next.bound = time.AfterFunc(max(next.deadline.Sub(now), cancelGrace), func() { p.killOver(next) })
		}
	}
	if w.retiring && len(w.calls) == 0 {
		w.conn.Close() // it ends when it sees this
	}
}

// forget takes a call out of its worker. The caller holds the lock.
func (p *pool) forget(c *call) {
	w := c.w
	c.running = false
	if c.bound != nil {
		c.bound.Stop()
	}
	delete(w.calls, c.id)
	if c.doubted {
		c.doubted = false
		w.doubted--
	}
	if c.batch == nil {
		w.load--
	}
	switch c {
	case w.front:
		w.front = w.behind
		fallthrough
	case w.behind:
		if w.behind != nil {
			p.behind--
		}
		w.behind = nil
	}
}

// settle gives the worker back, if that has not been done.
func (p *pool) settle(c *call) {
	p.mu.Lock()
	p.over(c, time.Now())
	p.dispatch(time.Now())
	p.unlock()
}

// cancel tells a worker that nobody waits for a call. The caller holds the lock.
func (p *pool) cancel(c *call) {
	c.w.pending = appendFrame(c.w.pending, frameCancel, c.id, nil)
	p.soil(c.w)
}

// killOver kills the worker that is still at work on a call that has been left.
func (p *pool) killOver(c *call) {
	p.mu.Lock()
	defer p.unlock()
	if c.running && c == c.w.front {
		p.killLocked(c.w, killTime, "a call took too long")
	}
}

// follow delivers what a worker sends, until its socket ends.
func (p *pool) follow(w *worker) error {
	r := bufio.NewReaderSize(workerReader{p, w}, dataPiece)
	var frames []frame
	var calls []*call
	for {
		f, err := readFrame(r)
		if err != nil {
			return nil // the end, however it came
		}
		switch f.kind {
		case frameReady:
			var ready ready
			if err := json.Unmarshal(f.payload, &ready); err != nil {
				return err
			}
			p.onReady(w, ready)
			continue
		case frameFailed:
			return parseFailure(f.payload)
		}
		// Whatever has come is taken at once: the worker gets its next calls
		// before those who waited for the last wake up.
		frames = append(frames[:0], f)
		for len(frames) < burst && frameBuffered(r) {
			if f, err = readFrame(r); err != nil {
				return nil
			}
			frames = append(frames, f)
		}
		calls = p.take(w, frames, calls[:0])
		for i, c := range calls {
			if c != nil {
				c.deliver(frames[i])
			}
			calls[i], frames[i] = nil, frame{}
		}
	}
}

// A workerReader reads from a worker's socket. A deadline there is no error: it
// asks the reader, who alone knows what the worker has said, to take back a call.
type workerReader struct {
	p *pool
	w *worker
}

func (r workerReader) Read(b []byte) (int, error) {
	for {
		n, err := r.w.conn.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		r.p.reclaim(r.w)
	}
}

// reclaim takes back the call that a worker has been told not to begin, if that
// was before the one in front of it was answered. All that the worker has said so
// far has been dealt with, except for what is still in the socket: if nothing is
// there, it has not answered yet.
func (p *pool) reclaim(w *worker) {
	_ = w.conn.SetReadDeadline(time.Time{}) // if it has ended, so has all this
	if hasNews(w.conn) {
		return
	}
	p.mu.Lock()
	defer p.unlock()
	if c := w.behind; c != nil && c.recall == recallDue {
		p.takeBack(c)
		p.dispatch(time.Now())
	}
}

// hasNews reports whether there is something to be read, or no way to know.
func hasNews(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	var found error
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, found = syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	})
	return err != nil || found != syscall.EAGAIN
}

// take notes which calls are over by a worker's frames, and appends the call
// of each frame to calls: nil for one that is not to be told.
func (p *pool) take(w *worker, frames []frame, calls []*call) []*call {
	now := time.Now()
	p.mu.Lock()
	ended := false
	for _, f := range frames {
		c := w.calls[f.id]
		calls = append(calls, c)
		if c == nil || !f.ends() {
			continue
		}
		if f.kind == frameDropped {
			calls[len(calls)-1] = nil
			p.takeBack(c)
			ended = true
		} else if c.isUploaded() {
			p.over(c, now)
			ended = true
		}
	}
	if ended {
		p.dispatch(now)
	}
	p.unlock()
	return calls
}

// close takes the calls from a worker whose socket has ended; status says how
// the process did. The caller has set w.dead.
func (p *pool) close(w *worker, status string) {
	w.conn.Close()
	w.writing.Lock() // who was writing knows now what came of it
	defer w.writing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	w.fell = len(w.calls) > 0
	for _, c := range slices.SortedFunc(maps.Values(w.calls), func(a, b *call) int { return cmp.Compare(b.id, a.id) }) {
		switch {
		case !c.handed:
			// Who was about to write it will find that it cannot.
		case c == w.behind:
			p.takeBack(c)
		default:
			p.over(c, now)
			c.lose(status)
		}
	}
}
