package watchdog

import (
	"io"
	"net/http"
	"sync/atomic"
)

// drainable is the largest body that is read to its end after a function that
// left it unread. Whoever sends one has sent it before reading the answer.
const drainable = 16 << 10

// A requestBody knows whether it was read to its end. net/http needs that: in
// full duplex its server reads on after the handler, and when it thus meets the
// end of the body it starts to watch the connection for the client's leaving,
// which then panics at the connection's next request.
type requestBody struct {
	io.ReadCloser
	ended atomic.Bool
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.ended.Store(true)
	}
	return n, err
}

// watchBody makes the body of r a requestBody and returns it; nil if r has none.
func watchBody(r *http.Request) *requestBody {
	if r.Body == nil || r.Body == http.NoBody {
		return nil
	}
	b := &requestBody{ReadCloser: r.Body}
	r.Body = b
	return b
}

// left reports whether the function may have left some of the body of r that
// is not small, so that the connection cannot carry another request.
func (b *requestBody) left(r *http.Request) bool {
	return b != nil && !b.ended.Load() && (r.ContentLength < 0 || r.ContentLength > drainable)
}

// drain reads what the function, which has returned, has left of a small body.
func (a *answer) drain() {
	if length := a.r.ContentLength; a.body == nil || length < 0 || length > drainable {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hijacked {
		return
	}
	_ = a.body.Close() // reads to the end first; if it cannot, the server will find out
}
