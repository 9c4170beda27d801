package watchdog

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	internalHeader   = "X-Openfaas-Internal" // as net/http spells X-OpenFaaS-Internal in maps
	statusClientLeft = 499                   // in logs and metrics: nobody waited for the answer
)

// An answer is the ResponseWriter that a function sees. It adds the headers
// that say how long things took, keeps functions from speaking in the
// platform's name, and can be given by the watchdog when the function takes
// too long, while the function is still at it: so the function writes its
// headers into a map of its own, and everything else is under a lock.
//
// It holds all that the watchdog needs for a call, since what is allocated for
// each call is most of what a call costs.
type answer struct {
	w       http.ResponseWriter
	r       *http.Request
	context callContext
	start   time.Time    // of the request
	began   time.Time    // of the function's part
	own     http.Header  // nil until the function asks for it
	body    *requestBody // of an HTTP/1 request; nil if it has none

	// In the queue of deadlines, and guarded by its lock.
	before, after *answer
	queued        bool
	lapsed        sync.WaitGroup // a running expire

	mu       sync.Mutex
	timings  []string
	values   [2]string // what the headers of send hold
	status   int       // sent; zero until then
	written  int64     // bytes of the body
	expired  bool      // out of time: what the function still writes is dropped
	cut      bool      // out of time within the answer
	finished bool      // the function has returned

	// connMu may be taken with mu held, and alone by who cannot wait for mu,
	// which a write may hold for long. hijacked changes with both held.
	connMu   sync.Mutex
	hijacked bool
}

func newAnswer(w http.ResponseWriter, r *http.Request, start time.Time) *answer {
	return &answer{w: w, r: r, context: callContext{request: r.Context()}, start: start, began: start}
}

// Unwrap lets [http.ResponseController] set deadlines.
func (a *answer) Unwrap() http.ResponseWriter { return a.w }

// Header is for the function alone, and not for two goroutines at once.
func (a *answer) Header() http.Header {
	if a.own == nil {
		a.own = make(http.Header)
	}
	return a.own
}

func (a *answer) WriteHeader(status int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.writeHeader(status)
}

func (a *answer) writeHeader(status int) {
	if a.status != 0 || a.expired || a.hijacked {
		return
	}
	if a.own != nil {
		h := a.w.Header()
		maps.Copy(h, a.own)
		delete(h, internalHeader)
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		a.w.WriteHeader(status)
		return
	}
	a.send(status)
}

// send writes the final status line and headers.
func (a *answer) send(status int) {
	a.status = status
	h := a.w.Header()
	if status != http.StatusSwitchingProtocols && a.body.left(a.r) {
		h.Set("Connection", "close")
	}
	var buf [64]byte
	took := time.Since(a.start)
	text := appendDecimal(buf[:0], took.Microseconds(), 6)
	n := len(text)
	both := string(appendTiming(text, "handler", took-a.began.Sub(a.start)))
	a.values = [2]string{both[:n], both[n:]}
	h["X-Duration-Seconds"] = a.values[:1:1]
	if had := h["Server-Timing"]; had != nil || a.timings != nil {
		h["Server-Timing"] = slices.Concat(had, a.timings, a.values[1:])
	} else {
		h["Server-Timing"] = a.values[1:]
	}
	a.w.WriteHeader(status)
}

func (a *answer) Write(p []byte) (n int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err = a.writable(); err == nil {
		n, err = a.w.Write(p)
		a.written += int64(n)
	}
	return n, err
}

// WriteString is Write for [io.WriteString], without a copy of the text.
func (a *answer) WriteString(s string) (n int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err = a.writable(); err == nil {
		n, err = io.WriteString(a.w, s)
		a.written += int64(n)
	}
	return n, err
}

// writable sends what comes before the body, if the function may write that.
func (a *answer) writable() error {
	switch {
	case a.expired:
		return http.ErrHandlerTimeout
	case a.hijacked:
		return http.ErrHijacked
	}
	a.writeHeader(http.StatusOK)
	return nil
}

// Flush sends what has been written so far.
func (a *answer) Flush() { _ = a.FlushError() }

// FlushError is Flush for [http.ResponseController].
func (a *answer) FlushError() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.expired {
		return http.ErrHandlerTimeout
	}
	a.writeHeader(http.StatusOK)
	return http.NewResponseController(a.w).Flush()
}

// Hijack hands the connection to the function, for instance for a WebSocket.
// From then on the call has no timeout.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.expired {
		return nil, nil, http.ErrHandlerTimeout
	}
	a.connMu.Lock()
	defer a.connMu.Unlock()
	conn, rw, err := http.NewResponseController(a.w).Hijack()
	if err == nil {
		a.hijacked = true
		a.status = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// closeAfter says whether the connection ends with this answer, unless that has
// begun: what is left of the request would be in the way of the next.
func (a *answer) closeAfter(yes bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.status != 0 || a.r.ProtoMajor != 1:
	case yes:
		a.w.Header().Set("Connection", "close")
	default:
		a.w.Header().Del("Connection")
	}
}

// timing adds a phase to the Server-Timing header of an answer not yet begun.
func (a *answer) timing(name string, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timings = append(a.timings, serverTiming(name, d))
}

// timingOf is timing with a word about what was timed.
func (a *answer) timingOf(name string, d time.Duration, what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.timings = append(a.timings, serverTiming(name, d)+";desc=\""+what+"\"")
}

func serverTiming(name string, d time.Duration) string {
	return string(appendTiming(nil, name, d))
}

// appendTiming appends a metric of the Server-Timing header, in milliseconds.
func appendTiming(b []byte, name string, d time.Duration) []byte {
	b = append(append(b, name...), ";dur="...)
	return appendDecimal(b, d.Microseconds(), 3)
}

// refuse answers an error of the platform's making, unless an answer has begun.
func (a *answer) refuse(status int, text string) {
	a.fail(status, text, true)
}

// refuseBusy answers 429, and when to try again.
func (a *answer) refuseBusy(text string, retry time.Duration) {
	a.w.Header().Set("Retry-After", strconv.Itoa(int(max(time.Second, retry.Round(time.Second)).Seconds())))
	a.refuse(http.StatusTooManyRequests, text)
}

// fail answers an error in one line of text and reports true, unless an answer
// has begun. Callers see from a header whether the platform failed or the function.
func (a *answer) fail(status int, text string, platform bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.status != 0 || a.hijacked || a.finished {
		return false
	}
	a.sendText(status, text, platform)
	return true
}

func (a *answer) sendText(status int, text string, platform bool) {
	h := a.w.Header()
	text = strings.TrimRight(text, "\n") + "\n"
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	if platform {
		h.Set(internalHeader, "watchdog")
	}
	if status == http.StatusGatewayTimeout {
		// The function may still be running, and until it has returned an
		// HTTP/1 connection is of no use.
		h.Set("Connection", "close")
	}
	a.send(status)
	n, _ := io.WriteString(a.w, text) // a client that has left misses nothing
	a.written += int64(n)
}

// expire answers 504 if nothing has been answered, and cancels the call. A
// connection that the function took over is left alone.
func (a *answer) expire(budget time.Duration) {
	if !a.hurry() {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hijacked || a.finished {
		return
	}
	a.expired = true
	a.context.end(context.DeadlineExceeded) // before the client learns of it and leaves, or that would be the cause
	if a.status == 0 {
		a.sendText(http.StatusGatewayTimeout, fmt.Sprintf("the function took longer than %v", budget), true)
		_ = http.NewResponseController(a.w).Flush() // as for the text
	} else {
		a.cut = true
	}
}

// hurry bounds what the function, out of time, is still waiting for: a client
// that does not read the answer, which has a moment more, and one that does not
// send the request. It is false if the connection is the function's own.
func (a *answer) hurry() bool {
	a.connMu.Lock()
	defer a.connMu.Unlock()
	if a.hijacked {
		return false
	}
	control := http.NewResponseController(a.w)
	_ = control.SetWriteDeadline(time.Now().Add(lateAnswer)) // a connection that is broken will say so
	if a.body != nil && !a.body.ended.Load() {
		_ = control.SetReadDeadline(time.Unix(1, 0))
	}
	return true
}

// finish ends the function's part. It panics with [http.ErrAbortHandler] if an
// answer has begun that will not be whole, because cutting the connection is
// the only way left to say so.
func (a *answer) finish(abort bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.finished = true
	if a.hijacked {
		return
	}
	if a.status == 0 && !a.expired && a.r.Context().Err() != nil {
		a.status, abort = statusClientLeft, true
	}
	if abort || a.cut {
		panic(http.ErrAbortHandler)
	}
	if a.expired {
		return
	}
	a.writeHeader(http.StatusOK)
	a.copyTrailers()
}

// copyTrailers passes on what the function has set after its body. It leaves
// the server's headers alone if that is nothing, for it would copy them.
func (a *answer) copyTrailers() {
	var h http.Header
	for name, values := range a.own {
		if !strings.HasPrefix(name, http.TrailerPrefix) && !a.announced(name) {
			continue
		}
		if h == nil {
			h = a.w.Header()
		}
		h[name] = values
	}
	delete(h, internalHeader)
}

// announced reports whether a header is among those that Trailer names.
func (a *answer) announced(name string) bool {
	for _, names := range a.own["Trailer"] {
		for one := range strings.SplitSeq(names, ",") {
			if http.CanonicalHeaderKey(strings.TrimSpace(one)) == name {
				return true
			}
		}
	}
	return false
}
