package web

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
)

// InProcess returns a transport that calls h instead of a network: the same
// encoding, the same errors, no port. Answers stream: RoundTrip returns with
// the headers, and the body is what h writes from then on. Closing the body,
// or cancelling the request, cancels the context h sees; h's goroutine ends
// when h returns.
func InProcess(h http.Handler) http.RoundTripper { return inProcess{h} }

type inProcess struct{ h http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	body, w := io.Pipe()
	rw := &pipeWriter{header: http.Header{}, body: w, ready: make(chan struct{})}

	in := r.Clone(ctx)
	in.RequestURI = r.URL.RequestURI()
	in.RemoteAddr = "in-process"
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer cancel()
		defer in.Body.Close()
		defer func() {
			if p := recover(); p != nil {
				rw.fail(fmt.Errorf("handler panicked: %v", p))
				return
			}
			rw.WriteHeader(http.StatusOK)
			w.Close()
		}()
		t.h.ServeHTTP(rw, in)
	}()

	select {
	case <-rw.ready:
	case <-ctx.Done():
		<-done // the request's body must not be read after RoundTrip returned an error
		return nil, context.Cause(ctx)
	}
	if rw.err != nil {
		<-done
		return nil, rw.err
	}
	return &http.Response{
		Status:        fmt.Sprintf("%d %s", rw.status, http.StatusText(rw.status)),
		StatusCode:    rw.status,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        rw.sent,
		Body:          &pipeBody{PipeReader: body, cancel: cancel},
		ContentLength: contentLength(rw.sent, r.Method),
		Request:       r,
	}, nil
}

func contentLength(h http.Header, method string) int64 {
	var n int64
	if _, err := fmt.Sscan(h.Get("Content-Length"), &n); err != nil || method == http.MethodHead {
		return -1
	}
	return n
}

type pipeBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b *pipeBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

type pipeWriter struct {
	header http.Header
	body   *io.PipeWriter
	once   sync.Once
	ready  chan struct{} // closed when status, sent and err are set
	status int
	sent   http.Header
	err    error
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(status int) {
	if status < 200 {
		return // informational answers have no reader in this process
	}
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.ready)
	})
}

func (w *pipeWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush makes pipeWriter an http.Flusher; a pipe buffers nothing.
func (w *pipeWriter) Flush() { w.WriteHeader(http.StatusOK) }

// CloseNotify is asked for by handlers older than contexts. Its channel never
// fires: the request's context does.
func (w *pipeWriter) CloseNotify() <-chan bool { return nil }

func (w *pipeWriter) fail(err error) {
	w.once.Do(func() {
		w.err = err
		close(w.ready)
	})
	w.body.CloseWithError(err)
}
