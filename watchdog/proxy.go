package watchdog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/graphene-faas/graphene/internal/proc"
)

// upstreamRetry is how long to wait between attempts to reach a child that has
// not begun to listen.
const upstreamRetry = 10 * time.Millisecond

// proxy is mode [HTTP]: a child process that is a server, started once.
type proxy struct {
	o    *Options
	web  *httputil.ReverseProxy
	grpc *httputil.ReverseProxy
	lost atomic.Bool // the child accepted no connection when last asked for one
}

func newProxy(o *Options) *proxy {
	p := &proxy{o: o}
	transport := func(protocols ...func(*http.Protocols, bool)) *http.Transport {
		t := &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			Protocols:           new(http.Protocols),
			MaxIdleConnsPerHost: 512,
			IdleConnTimeout:     90 * time.Second,
			DisableCompression:  true, // the client and the function settle that
		}
		for _, allow := range protocols {
			allow(t.Protocols, true)
		}
		return t
	}
	p.web = &httputil.ReverseProxy{
		Rewrite:       p.rewrite,
		Transport:     transport((*http.Protocols).SetHTTP1),
		FlushInterval: -1, // streams, such as server-sent events, must not be held
		ErrorHandler:  p.unreachable,
		ErrorLog:      slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	grpc := *p.web
	grpc.Transport = transport((*http.Protocols).SetUnencryptedHTTP2)
	grpc.FlushInterval = 0 // an HTTP/2 stream is flushed anyway, and -1 breaks answers that are trailers only
	p.grpc = &grpc
	return p
}

func (p *proxy) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(p.o.Upstream)
	r.Out.Host = r.In.Host
	// The gateway has written these; Rewrite takes them away for proxies that
	// face strangers.
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if v, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = v
		}
	}
	r.Out.URL.RawQuery = r.In.URL.RawQuery // as sent, even if it cannot be parsed
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
		p.grpc.ServeHTTP(w, r)
		return
	}
	if p.o.BufferBody && r.ContentLength < 0 {
		body, err := readWhole(r, p.o.MaxBuffer)
		if err != nil {
			w.(*answer).bodyError(err)
			return
		}
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	}
	p.web.ServeHTTP(w, r)
}

// unreachable answers for a child that did not.
func (p *proxy) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	status, text := http.StatusBadGateway, "the function's process did not answer"
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		status, text = http.StatusRequestEntityTooLarge, fmt.Sprintf("a request may have %d bytes", tooLarge.Limit)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && r.Context().Err() == nil {
		p.lost.Store(true)
	}
	p.o.Log.Warn("function did not answer", "method", r.Method, "err", err)
	w.(*answer).refuse(status, text)
}

func (p *proxy) run(ctx context.Context, ready func()) error {
	child, err := proc.Start(proc.Command{
		Args:          p.o.Process,
		Env:           p.o.Environ,
		Stdout:        lineWriter(p.o.Stdout, "stdout", p.o.PrefixLogs),
		Stderr:        lineWriter(p.o.Stderr, "stderr", p.o.PrefixLogs),
		MaxLine:       p.o.LogBuffer,
		OnParentDeath: syscall.SIGKILL,
	})
	if err != nil {
		return err
	}
	if p.awaitUpstream(ctx, child) {
		ready()
	}
	select {
	case <-child.Done():
		return fmt.Errorf("%s ended: %s", p.o.Process[0], exitText(child.Wait()))
	case <-ctx.Done():
		grace := childGrace
		if errors.Is(context.Cause(ctx), errAbandoned) {
			grace = 0
		}
		if err := child.Stop(grace); err != nil {
			p.o.Log.Info("function's process ended", "status", exitText(err))
		}
		return nil
	}
}

// trouble tries whether a child that was lost is back.
func (p *proxy) trouble() string {
	if !p.lost.Load() {
		return ""
	}
	conn, err := net.DialTimeout("tcp", p.address(), time.Second)
	if err != nil {
		return "the function's process accepts no connections any more: " + err.Error()
	}
	conn.Close()
	p.lost.Store(false)
	return ""
}

// address is where the child listens.
func (p *proxy) address() string {
	if p.o.Upstream.Port() == "" {
		return net.JoinHostPort(p.o.Upstream.Hostname(), "80")
	}
	return p.o.Upstream.Host
}

// awaitUpstream reports true once the child accepts connections, or false if
// it or ctx has ended.
func (p *proxy) awaitUpstream(ctx context.Context, child *proc.Child) bool {
	retry := time.NewTicker(upstreamRetry)
	defer retry.Stop()
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", p.address())
		if err == nil {
			conn.Close()
			return true
		}
		select {
		case <-child.Done():
			return false
		case <-ctx.Done():
			return false
		case <-retry.C:
		}
	}
}

// exitText says how a process ended. Ending without being asked is never fine,
// so success has a text too.
func exitText(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

func (p *proxy) note() string { return "" }

func (p *proxy) writeMetrics(io.Writer) {}
