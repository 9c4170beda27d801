package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
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
// supervisor when the answer changes.
func (r *replica) probe(ctx context.Context) {
	pause, missed := firstProbe, 0
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for ready := false; ; timer.Reset(pause) {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := askReady(ctx, r.socket)
		if ctx.Err() != nil {
			return
		}
		switch {
		case err == nil:
			ready, missed, pause = true, 0, probeInterval
			r.f.became(r, true)
		case !ready:
			pause = min(pause*3/2, slowestStart)
		default:
			missed++
			if _, said := errors.AsType[notReady](err); said || missed >= missedProbes {
				ready, pause = false, firstProbe
				r.f.became(r, false)
			}
		}
	}
}

// notReady is what a replica says when it is not ready: the reason.
type notReady string

func (e notReady) Error() string { return string(e) }

// askReady asks the watchdog behind a socket whether its function can answer.
// It returns a notReady if it says no.
func askReady(ctx context.Context, socket string) error {
	dialer := net.Dialer{Timeout: probeTimeout}
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if err := conn.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET /_/ready HTTP/1.1\r\nHost: replica\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusOK {
		return nil
	}
	reason, err := io.ReadAll(io.LimitReader(answer.Body, 1<<10))
	if err != nil {
		return err
	}
	return notReady(fmt.Sprintf("status %d: %s", answer.StatusCode, strings.TrimSpace(string(reason))))
}
