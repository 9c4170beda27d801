package web

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
)

// InProcess returns a transport that calls h instead of a network: the same
// encoding, the same errors, no port. Answers stream: RoundTrip returns with
// the headers, and the body is what h writes from then on. Closing the body,
// or cancelling the request, cancels the context h sees and fails its writes;
// h's goroutine ends when h returns. A panic of h is RoundTrip's error, or the
// body's if the answer had begun.
func InProcess(h http.Handler) http.RoundTripper { return inProcess{h} }

type inProcess struct{ h http.Handler }

func (t inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	body, w := io.Pipe()
	rw := &pipeWriter{header: http.Header{}, body: w, head: r.Method == http.MethodHead, ready: make(chan struct{})}

	in := r.Clone(ctx)
	in.RequestURI = r.URL.RequestURI()
	in.RemoteAddr = "in-process"
	if in.Host == "" {
		in.Host = r.URL.Host
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	go func() {
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
	case <-r.Context().Done():
		// h may be writing, and nobody will read it.
		body.CloseWithError(context.Cause(r.Context()))
		cancel()
		return nil, context.Cause(r.Context())
	}
	if rw.err != nil {
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
		ContentLength: contentLength(rw.sent),
		Request:       r,
	}, nil
}

// contentLength returns what h says of the answer's length, or -1.
func contentLength(h http.Header) int64 {
	n, err := strconv.ParseInt(h.Get("Content-Length"), 10, 64)
	if err != nil || n < 0 {
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
	head   bool // the request is a HEAD: what h writes is not for the caller
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
	switch {
	case w.status == http.StatusNoContent, w.status == http.StatusNotModified:
		return 0, http.ErrBodyNotAllowed
	case w.head:
		return len(p), nil
	}
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
