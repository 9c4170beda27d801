package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
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
	pause, missed := firstProbe, 0
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for ready := false; ; timer.Reset(pause) {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		asked := time.Now()
		answer, err := ask(ctx, r.socket, "/_/ready", timeout)
		if unanswered(err) && r.silentToo(ctx, timeout) {
			if silent.IsZero() {
				silent = asked
			}
		} else {
			silent = time.Time{}
		}
		if ctx.Err() != nil {
			return
		}
		if !silent.IsZero() && time.Since(silent) >= hang {
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
			if _, said := errors.AsType[notReady](err); said || missed >= missedProbes {
				ready, pause = false, firstProbe
				r.f.became(r, false, 0)
			}
		}
	}
}

// silentToo reports whether the replica's other page is not answered either.
func (r *replica) silentToo(ctx context.Context, timeout time.Duration) bool {
	_, err := ask(ctx, r.socket, "/_/health", timeout)
	return unanswered(err)
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
