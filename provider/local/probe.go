package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

const (
	// While a replica starts it is asked often, for somebody may be waiting,
	// and less and less often the longer it takes.
	firstProbe, slowestStart = time.Millisecond, 50 * time.Millisecond
	// After that it is asked now and then, in case it changes its mind.
	probeInterval = 2 * time.Second
	probeTimeout  = 2 * time.Second
	// A busy machine answers late; that alone makes no replica unready.
	missedProbes = 3
)

// probe asks the replica whether it is ready, until ctx ends, and tells its
// supervisor when the answer changes. It kills one that hangs.
func (r *replica) probe(ctx context.Context) {
	hang := r.f.rt.HangTimeout
	timeout, interval := min(probeTimeout, hang/10), min(probeInterval, hang/10)
	var silent time.Time // since when it has answered nothing at all; zero: it does
	pause, missed, keeps := firstProbe, 0, 0
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for ready := false; ; timer.Reset(pause) {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.thawed:
		}
		now, ok := r.awaitHot(ctx)
		if !ok {
			return
		}
		if now != keeps { // what was known of it was before
			keeps, ready, missed, silent, pause = now, false, 0, time.Time{}, firstProbe
		}
		asked := time.Now()
		answer, mute, err := r.answers(ctx, timeout)
		if ctx.Err() != nil {
			return
		}
		if r.keptSince(keeps) {
			continue
		}
		if !mute {
			silent = time.Time{}
		} else if silent.IsZero() {
			silent = asked
		}
		if mute && time.Since(silent) >= hang {
			r.kill(fmt.Sprintf("killed: it took connections but answered no health check for %s", hang))
			return
		}
		switch {
		case err == nil:
			ready, missed, pause = true, 0, interval
			r.f.became(r, true, capacityOf(answer))
		case !ready:
			pause = min(pause*3/2, slowestStart)
		default:
			missed++
			_, said := errors.AsType[notReady](err)
			if said || missed >= missedProbes || mute && r.f.hasOther(r) {
				ready, pause = false, firstProbe
				r.f.became(r, false, 0)
			}
		}
	}
}

// answers asks the replica whether it is ready. It is mute if it answers
// nothing at all, though it takes connections.
func (r *replica) answers(ctx context.Context, timeout time.Duration) (answer http.Header, mute bool, err error) {
	if isStopped(r.process().PID()) {
		return nil, true, notReady("somebody has stopped its process")
	}
	answer, err = ask(ctx, r.socket, "/_/ready", timeout)
	if unanswered(err) {
		_, err := ask(ctx, r.socket, "/_/health", timeout)
		mute = unanswered(err)
	}
	return answer, mute, err
}

// awaitHot waits while the replica is kept, and returns how often it has been.
// It reports false if ctx ends before.
func (r *replica) awaitHot(ctx context.Context) (keeps int, ok bool) {
	r.f.mu.Lock()
	hot, keeps := r.hot, r.keeps
	r.f.mu.Unlock()
	if hot == nil {
		return keeps, true
	}
	select {
	case <-hot:
		return keeps, true
	case <-ctx.Done():
		return keeps, false
	}
}

// keptSince reports whether the replica has been kept more often than that.
func (r *replica) keptSince(keeps int) bool {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	return r.keeps != keeps
}

// hasOther reports whether the function has another replica that is ready.
func (f *supervisor) hasOther(r *replica) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.replicas, func(other *replica) bool { return other != r && other.ready && !other.leaving })
}

// capacityOf reads how many calls at once a watchdog says that its function
// can use, which it knows once the handler is loaded; 0 if it does not say.
func capacityOf(h http.Header) int {
	n, err := strconv.Atoi(h.Get(function.HeaderCapacity))
	if err != nil {
		return 0
	}
	return max(0, n)
}

// notReady is what a replica says when it is not ready: the reason.
type notReady string

func (e notReady) Error() string { return string(e) }

// unanswered reports whether err of ask means that somebody listens who does
// not answer. A queue of connections that is full counts too.
func unanswered(err error) bool {
	network, ok := errors.AsType[net.Error](err)
	return ok && network.Timeout()
}

// ask asks the watchdog behind a socket for a path that answers 200, and
// returns the header of that answer, or 503 and why not, which becomes a
// notReady. For want of an answer in time the error is as [unanswered] says.
func ask(ctx context.Context, socket, path string, timeout time.Duration) (http.Header, error) {
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: replica\r\nConnection: close\r\n\r\n"); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		return answer.Header, nil
	}
	reason, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	if err != nil {
		return nil, err
	}
	return nil, notReady(fmt.Sprintf("status %d: %s", answer.StatusCode, strings.TrimSpace(string(reason))))
}
