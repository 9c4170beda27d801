package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"

	"github.com/graphene-faas/graphene/watchdog"
)

// linkedLimit is how many requests per second a Go function answers at least,
// as a part of what its handler does alone.
const linkedLimit = 0.85

// benchGo measures a handler in Go, served by the watchdog that functions link
// and served by net/http alone.
func benchGo(out io.Writer, o options) error {
	var peers []*peer
	for _, p := range []struct{ role, title string }{
		{"handler", "the handler alone, `http.Server`"},
		{"function", "with the linked watchdog"},
	} {
		r, err := startRole(p.role, "")
		if err != nil {
			return err
		}
		defer r.stop()
		peers = append(peers, &peer{title: p.title, url: "http://" + r.first.Address + "/", front: r.cmd.Process.Pid})
	}
	generator, err := measurePeers(peers, o)
	if err != nil {
		return err
	}
	what := "GET of 26 bytes"
	if o.body > 0 {
		what = fmt.Sprintf("POST of %d bytes, echoed,", o.body)
	}
	fmt.Fprintf(out, "%s over TCP; access log to /dev/null; load by %s, %d connections; medians of %d × %s; %d CPUs, %s\n\n",
		what, generator, o.connections, o.rounds, o.duration, runtime.NumCPU(), runtime.Version())
	fmt.Fprintf(out, "| server | requests/s | ratio | CPU per request | p50 | p99 |\n|---|---|---|---|---|---|\n")
	bare := peers[0].median().rate
	for _, p := range peers {
		m := p.median()
		fmt.Fprintf(out, "| %s | %.0f | %.2f | %s | %s | %s |\n", p.title, m.rate, m.rate/bare, micros(m.cpu), micros(m.p50), micros(m.p99))
	}
	fmt.Fprintf(out, "\nBound: a ratio of at least %.2f.\n", linkedLimit)
	if got := peers[1].median().rate / bare; got < linkedLimit {
		return fmt.Errorf("with the watchdog a handler answers %.2f of the requests that it answers alone, which is less than %.2f", got, linkedLimit)
	}
	return nil
}

// serveFunction serves a handler as a Go function does, until ctx ends.
func serveFunction(ctx context.Context, ln net.Listener, h http.Handler, accessLog io.Writer) error {
	o, err := watchdog.FromEnviron(nil)
	if err != nil {
		return err
	}
	o.Mode, o.Handler, o.Listener, o.Stderr = watchdog.InProcess, h, ln, accessLog
	o.Metrics, o.LockFile = "", ""
	wd, err := watchdog.New(o)
	if err != nil {
		return err
	}
	return wd.Run(ctx)
}

// serveHandler serves a handler with net/http alone, until ctx ends.
func serveHandler(ctx context.Context, ln net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	return srv.Serve(ln)
}
