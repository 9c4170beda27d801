package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// routes is everything the watchdog answers. Its own pages are matched by the
// exact path, without a ServeMux, so that a function gets its paths untouched.
func (wd *Watchdog) routes(metricsHere bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/_/"); ok {
			switch {
			// The second path is for a kubelet, which does not know which
			// watchdog it asks: others leave the query aside.
			case rest == "ready", rest == "health" && r.URL.RawQuery == "ready":
				wd.serveReady(w, r)
				return
			case rest == "health":
				wd.serveHealth(w, r)
				return
			case rest == "metrics" && metricsHere:
				wd.serveMetricsText(w, r)
				return
			}
		}
		wd.serveCall(w, r)
	})
}

// serveHealth says whether this process is alive and means to stay.
func (wd *Watchdog) serveHealth(w http.ResponseWriter, r *http.Request) {
	if !isGet(w, r) {
		return
	}
	if wd.draining.Load() {
		http.Error(w, "draining", http.StatusServiceUnavailable)
		return
	}
	select {
	case <-wd.failed: // and this process is about to end
		http.Error(w, wd.notReady(), http.StatusServiceUnavailable)
		return
	default:
	}
	if wd.o.LockFile != "" {
		if _, err := os.Stat(wd.o.LockFile); err != nil {
			http.Error(w, "the lock file is gone", http.StatusServiceUnavailable)
			return
		}
	}
	_, _ = io.WriteString(w, "OK") // a probe that has left needs no answer
}

// capacious is a mode that knows, once it is ready, how many calls at once its
// function can use.
type capacious interface{ capacity() int }

// serveReady says whether a call would be answered, and in a header how many at
// once where the function itself decides that. A function that is busy up to
// its limit is ready: being full is not being ill.
func (wd *Watchdog) serveReady(w http.ResponseWriter, r *http.Request) {
	if !isGet(w, r) {
		return
	}
	if reason := wd.notReady(); reason != "" {
		http.Error(w, reason, http.StatusServiceUnavailable)
		return
	}
	if m, ok := wd.mode.(capacious); ok && wd.o.MaxInflight == 0 {
		w.Header().Set("X-Max-Inflight", strconv.Itoa(m.capacity()))
	}
	if m, ok := wd.mode.(restful); ok && m.resting() {
		w.Header().Set("X-Resting", "true")
	}
	if n := wd.o.MaxInflight; n > 0 && wd.calls.running() >= n {
		fmt.Fprintf(w, "ready: full, with %d calls running\n", n)
		return
	}
	if wd.o.ReadyPath != "" {
		probe := r.Clone(r.Context())
		probe.URL.Path, probe.URL.RawPath, probe.RequestURI = wd.o.ReadyPath, "", wd.o.ReadyPath
		wd.call(newAnswer(w, probe, time.Now()), probe)
		return
	}
	if note := wd.mode.note(); note != "" {
		fmt.Fprintf(w, "ready: %s\n", note)
		return
	}
	_, _ = io.WriteString(w, "ready\n") // as for health
}

// notReady is why no call can be answered now: a word and maybe a reason, in
// one line. It is empty when calls can be answered.
func (wd *Watchdog) notReady() string {
	if wd.draining.Load() {
		return "draining"
	}
	select {
	case <-wd.failed:
		return "failed: " + oneLine(wd.failure)
	default:
	}
	select {
	case <-wd.ready:
	default:
		return "loading"
	}
	if m, ok := wd.mode.(troubled); ok {
		if trouble := m.trouble(); trouble != "" {
			return "failing: " + trouble
		}
	}
	return ""
}

// troubled is a mode whose function can lose the ability to answer calls, and
// find it again.
type troubled interface{ trouble() string }

func oneLine(err error) string {
	if err == nil {
		return "the function has ended"
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// isGet refuses everything but GET, as probes have always been answered.
func isGet(w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodGet {
		return true
	}
	w.Header().Set("Allow", http.MethodGet)
	http.Error(w, "only GET", http.StatusMethodNotAllowed)
	return false
}

// serveCall runs one call of the function within the limits, and counts, times
// and logs it.
func (wd *Watchdog) serveCall(w http.ResponseWriter, r *http.Request) {
	a := newAnswer(w, r, time.Now())
	defer func() {
		d := time.Since(a.start)
		wd.metrics.observe(r.Method, a.status, d)
		wd.logAccess(r, a, d)
	}()

	if wd.tokens != nil && !wd.tokens.admit(a, r) {
		return
	}
	if !wd.calls.enter() {
		a.refuse(http.StatusTooManyRequests, fmt.Sprintf("Concurrent request limit exceeded. Max concurrent requests: %d", wd.o.MaxInflight))
		return
	}
	defer wd.calls.leave()

	// A request of our own: bodies are wrapped below, and the server must know
	// its own again, or it cuts connections whose body nobody has read to the end.
	call := r.WithContext(&a.context)
	if wd.o.MaxBody > 0 {
		if r.ContentLength > wd.o.MaxBody {
			a.refuse(http.StatusRequestEntityTooLarge, fmt.Sprintf("a request may have %d bytes", wd.o.MaxBody))
			return
		}
		call.Body = http.MaxBytesReader(w, call.Body, wd.o.MaxBody)
	}
	if r.ProtoMajor == 1 && r.Body != http.NoBody {
		// Without it a handler that answers while it reads would lose the rest
		// of the request. Every HTTP/1 connection of net/http can do it.
		_ = http.NewResponseController(w).EnableFullDuplex()
		a.body = watchBody(call)
	}
	if err := wd.awaitReady(r.Context(), a); err != nil {
		a.refuse(http.StatusServiceUnavailable, oneLine(err))
		return
	}
	wd.within(a, call)
	a.drain()
}

// awaitReady holds a call that came before the function had loaded. Loading
// has a timeout of its own and does not count as execution.
func (wd *Watchdog) awaitReady(ctx context.Context, a *answer) error {
	select {
	case <-wd.ready:
		return nil
	default:
	}
	select {
	case <-wd.ready:
		a.began = time.Now()
		a.timing("load", a.began.Sub(a.start))
		return nil
	case <-wd.failed:
		if wd.failure == nil {
			return errors.New("the function has ended")
		}
		return wd.failure
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// within calls the function and answers for it if it takes too long.
func (wd *Watchdog) within(a *answer, r *http.Request) {
	budget := wd.o.budget()
	own := false // this call has less time than others
	if text := r.Header["X-Timeout"]; len(text) > 0 {
		if d, err := parseDuration(text[0]); err == nil && d > 0 && (budget == 0 || d < budget) {
			budget, own = d, true
		}
	}
	if d := wd.o.ReadTimeout; d > 0 && (budget == 0 || d < budget) && r.Body != http.NoBody {
		// The bound is lifted as soon as the body has been read, because the
		// server reads on to notice that the client has left.
		control := http.NewResponseController(a.w)
		_ = control.SetReadDeadline(a.began.Add(d))
		r.Body = &timedBody{r.Body, control}
	}
	switch {
	case budget == 0:
	case own:
		a.context.deadline = a.began.Add(budget)
		a.lapsed.Add(1)
		timer := time.AfterFunc(budget, func() {
			defer a.lapsed.Done()
			a.expire(budget)
		})
		defer func() {
			if !timer.Stop() {
				a.lapsed.Wait()
			}
		}()
	default:
		a.context.deadline = a.began.Add(budget)
		wd.deadlines.add(a)
		defer wd.deadlines.remove(a)
	}
	defer a.context.end(nil)
	wd.call(a, r)
}

// call runs the function's code. A panic of it becomes an answer, or the end
// of one.
func (wd *Watchdog) call(a *answer, r *http.Request) {
	defer func() {
		v := recover()
		err, _ := v.(error)
		if v != nil && !errors.Is(err, http.ErrAbortHandler) {
			wd.log.Error("function panicked", "panic", v)
			_, _ = wd.o.Stderr.Write(debug.Stack()) // lines are what people read, and what the platform keeps
			if a.fail(http.StatusInternalServerError, "the function panicked; its log says more", false) {
				v = nil
			}
		}
		a.finish(v != nil)
	}()
	wd.mode.ServeHTTP(a, r)
}

// timedBody lifts the connection's read deadline at the end of the body.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}
