package watchdog

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"
)

// exitNews is how long to wait, after a worker's socket has ended, for the
// zygote to say how the process did.
const exitNews = 500 * time.Millisecond

var errWorkerGone = errors.New("the function's process is gone")

// A worker is one process that answers calls, and our end of its socket.
type worker struct {
	id      uint32
	zygote  *zygote // its parent
	started time.Time

	writing sync.Mutex
	conn    net.Conn
	out     []byte // reused for what is written

	mu     sync.Mutex // guards the next three
	calls  map[uint32]*exchange
	lastID uint32
	gone   bool

	told   sync.Once
	exited chan struct{} // closed when the zygote has said how the process ended
	status string        // in words; valid once exited is closed

	// Guarded by the pool's lock.
	pid      int
	greeted  bool // it has said that it is ready
	forked   bool // its parent has said so
	ready    bool // both: it takes calls
	async    bool
	batch    bool   // it answers batches
	running  *batch // what it was given last; nil once answered
	reason   string // why we have killed it
	dead     bool   // its socket has ended
	retiring bool   // gets no more calls and ends when the running ones have
	settled  int64  // bytes resident after the first calls; zero until then
	outdated bool   // to be replaced as soon as a successor is ready
	inflight int
	served   int
	lastUsed time.Time
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

// read delivers frames until the socket ends.
func (w *worker) read(onReady func(ready)) error {
	r := bufio.NewReaderSize(w.conn, dataPiece)
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
			onReady(ready)
		case frameFailed:
			return parseFailure(f.payload)
		default:
			w.mu.Lock()
			x := w.calls[f.id]
			w.mu.Unlock()
			if x != nil {
				x.deliver(f)
			}
		}
	}
}

// ready is what READY says.
type ready struct {
	Async bool `json:"async"`
	Batch bool `json:"batch"`
	PID   int  `json:"pid"`
}

// close ends every exchange; status says how the process ended.
func (w *worker) close(status string) {
	w.conn.Close()
	w.mu.Lock()
	w.gone = true
	calls := w.calls
	w.calls = nil
	w.mu.Unlock()
	for _, x := range calls {
		x.lose(status)
	}
}

// begin sends a call. An error means that the function has not seen it.
func (w *worker) begin(r *http.Request, body []byte, last bool) (*exchange, error) {
	x, err := w.register(last)
	if err != nil {
		return nil, err
	}
	w.writing.Lock()
	defer w.writing.Unlock()
	w.out = appendRequest(w.out[:0], x.id, r, timeLeft(r), body, last)
	if err := w.flush(); err != nil {
		x.end()
		return nil, err
	}
	return x, nil
}

// register makes an exchange for a call that is about to be sent.
func (w *worker) register(last bool) (*exchange, error) {
	x := &exchange{w: w, sent: last, wake: make(chan struct{}, 1), credit: creditWindow, creditNews: make(chan struct{}, 1)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gone {
		return nil, errWorkerGone
	}
	w.lastID++
	x.id = w.lastID
	w.calls[x.id] = x
	return x, nil
}

// flush sends what is in w.out. The caller holds w.writing.
func (w *worker) flush() error {
	_, err := w.conn.Write(w.out)
	if cap(w.out) > 2*wholeBody {
		w.out = nil
	}
	if err != nil {
		return errWorkerGone
	}
	return nil
}

// timeLeft is what a call may still take; zero means as long as it likes.
func timeLeft(r *http.Request) time.Duration {
	deadline, ok := r.Context().Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(deadline), time.Millisecond)
}

// send writes one frame. A failure is not reported: the reader sees the end too.
func (w *worker) send(kind frameType, id uint32, payload []byte) {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.out = appendFrame(w.out[:0], kind, id, payload)
	_, _ = w.conn.Write(w.out)
}

// An exchange is one call in one worker.
type exchange struct {
	w     *worker
	id    uint32
	batch *batch        // that it is part of; nil if the function does not answer batches
	wake  chan struct{} // there is something in queue, or lost is set

	settled bool // the worker has been given back; used by the call alone

	mu         sync.Mutex // guards the rest
	queue      []frame
	lost       bool
	status     string // how the process ended, if lost
	sent       bool   // the whole request has been, as far as it came
	credit     int    // bytes of the request's body that may be sent
	creditNews chan struct{}
}

func (x *exchange) deliver(f frame) {
	x.mu.Lock()
	news := x.wake
	if f.kind == frameCredit {
		x.credit += parseCredit(f.payload)
		news = x.creditNews
	} else {
		x.queue = append(x.queue, f)
	}
	x.mu.Unlock()
	ring(news)
}

func (x *exchange) lose(status string) {
	x.mu.Lock()
	x.lost, x.status = true, status
	x.mu.Unlock()
	ring(x.wake)
	ring(x.creditNews)
}

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default:
	}
}

// next waits for the worker's next frame, or until done is closed. more says
// that another is here already.
func (x *exchange) next(done <-chan struct{}) (f frame, more bool, err error) {
	for {
		x.mu.Lock()
		if len(x.queue) > 0 {
			f, x.queue = x.queue[0], x.queue[1:]
			more = len(x.queue) > 0
			x.mu.Unlock()
			return f, more, nil
		}
		lost := x.lost
		x.mu.Unlock()
		if lost {
			return frame{}, false, errWorkerGone
		}
		select {
		case <-x.wake:
		case <-done:
			return frame{}, false, context.Canceled
		}
	}
}

// end forgets the exchange; later frames of it are dropped.
func (x *exchange) end() {
	x.w.mu.Lock()
	delete(x.w.calls, x.id)
	x.w.mu.Unlock()
}

// requestSent reports whether nothing of the request is still to come.
func (x *exchange) requestSent() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sent
}

// acknowledge lets the worker send n more bytes.
func (x *exchange) acknowledge(n int) {
	if n > 0 {
		x.w.send(frameCredit, x.id, binary.BigEndian.AppendUint32(nil, uint32(n)))
	}
}

// sendBody sends the rest of a request's body until it ends or done is closed.
func (x *exchange) sendBody(body io.Reader, done <-chan struct{}) {
	buf := make([]byte, dataPiece)
	for {
		x.mu.Lock()
		credit, lost := x.credit, x.lost
		x.mu.Unlock()
		if lost {
			return
		}
		if credit == 0 {
			select {
			case <-x.creditNews:
				continue
			case <-done:
				return
			}
		}
		n, err := body.Read(buf[:min(credit, len(buf))])
		if n > 0 {
			x.mu.Lock()
			x.credit -= n
			x.mu.Unlock()
			x.w.send(frameData, x.id, buf[:n])
		}
		if err != nil {
			// Noted first, because the answer may come at once.
			x.mu.Lock()
			x.sent = true
			x.mu.Unlock()
			var reason []byte
			if err != io.EOF {
				reason = []byte(err.Error())
			}
			x.w.send(frameEnd, x.id, reason)
			return
		}
		select {
		case <-done:
			return
		default:
		}
	}
}
