package invoke

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
)

// lastWrite bounds the wait for the write that ends a body when its answer is
// already complete. It is over in no time unless the replica answered without
// reading all.
const lastWrite = 50 * time.Millisecond

// An upload sends a request's body in the background. Its goroutine ends with
// the body, when the connection is closed, or, at the latest, when the handler
// of the request has returned: our server then interrupts whoever still reads
// the body, and waits for that before it goes on.
type upload struct {
	conn    *conn
	body    io.ReadCloser
	length  int64       // of body; -1 is unknown
	trailer http.Header // complete once body has ended
	// verdict says whether a body that expects "100 Continue" is wanted; nil
	// if it is sent without asking. Only its first value counts.
	verdict chan bool
	// ending is set before the last write.
	ending atomic.Bool
	done   chan struct{} // closed at the end, when err is set
	err    error
}

func startUpload(c *conn, m *message) *upload {
	u := &upload{
		conn:    c,
		body:    m.rest,
		length:  m.length,
		trailer: m.req.Trailer,
		done:    make(chan struct{}),
	}
	if m.expects {
		u.verdict = make(chan bool, 1)
	}
	go u.run()
	return u
}

// proceed says whether the replica wants the body. Later verdicts than the
// first count for nothing.
func (u *upload) proceed(wanted bool) {
	if u.verdict == nil {
		return
	}
	select {
	case u.verdict <- wanted:
	default:
	}
}

// finished reports whether the whole body was sent. It may wait a moment for
// the last write. There is nothing to finish about a nil upload.
func (u *upload) finished() bool {
	if u == nil {
		return true
	}
	if u.ending.Load() {
		select {
		case <-u.done:
		case <-time.After(lastWrite):
		}
	}
	select {
	case <-u.done:
		return u.err == nil
	default:
		return false
	}
}

// sourceErr returns the error of reading the body, if that is what ended the
// upload.
func (u *upload) sourceErr() error {
	select {
	case <-u.done:
		if _, ok := u.err.(*bodyError); ok {
			return u.err
		}
	default:
	}
	return nil
}

func (u *upload) run() {
	u.err = u.send()
	_, broken := u.err.(*bodyError)
	close(u.done)
	if broken {
		// The replica must not take half a body for a whole one.
		u.conn.Close()
	}
}

func (u *upload) send() error {
	defer u.body.Close()
	if u.verdict != nil {
		select {
		case wanted := <-u.verdict:
			if !wanted {
				return errUnwanted
			}
		case <-time.After(continueTimeout):
		}
	}
	if u.length < 0 {
		return u.sendChunks()
	}
	return u.sendPlain()
}

var errUnwanted = errors.New("the replica answered without wanting the body")

func (u *upload) sendPlain() error {
	buf := copyBuffers.Get()
	defer copyBuffers.Put(buf)
	for left := u.length; left > 0; {
		n, err := u.body.Read(buf[:min(int64(len(buf)), left)])
		left -= int64(n)
		if left == 0 {
			u.ending.Store(true)
		} else if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return &bodyError{err}
		}
		if _, err := u.conn.Write(buf[:n]); err != nil {
			return err
		}
	}
	return nil
}

// chunkHead is room for the length of a chunk of copyBuffers' size.
const chunkHead = len("8000\r\n")

func (u *upload) sendChunks() error {
	buf := copyBuffers.Get()
	defer copyBuffers.Put(buf)
	const end = len("\r\n")
	for {
		n, err := u.body.Read(buf[chunkHead : len(buf)-end])
		if err != nil && err != io.EOF {
			return &bodyError{err}
		}
		var out []byte
		if n > 0 {
			// The length goes right in front of the data, wherever it begins.
			var hex [chunkHead]byte
			head := append(strconv.AppendInt(hex[:0], int64(n), 16), "\r\n"...)
			begin := chunkHead - len(head)
			copy(buf[begin:], head)
			copy(buf[chunkHead+n:], "\r\n")
			out = buf[begin : chunkHead+n+end]
		}
		if err == io.EOF {
			var last error
			if out, last = appendLastChunk(out, u.trailer); last != nil {
				return &bodyError{last}
			}
			u.ending.Store(true)
		}
		if len(out) > 0 {
			if _, err := u.conn.Write(out); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
	}
}

func appendLastChunk(b []byte, trailer http.Header) ([]byte, error) {
	b = append(b, "0\r\n"...)
	for name := range trailer {
		if !httpguts.ValidTrailerHeader(name) {
			return b, io.ErrUnexpectedEOF
		}
	}
	b, err := appendHeader(b, trailer)
	return append(b, "\r\n"...), err
}

// copyBuffers holds the buffers through which bodies flow, in both directions.
var copyBuffers bufferPool

// A bufferPool is an [httputil.BufferPool].
type bufferPool struct{ pool sync.Pool }

const bufferSize = 32 << 10

func (p *bufferPool) Get() []byte {
	if b, ok := p.pool.Get().(*[bufferSize]byte); ok {
		return b[:]
	}
	return new([bufferSize]byte)[:]
}

func (p *bufferPool) Put(b []byte) { p.pool.Put((*[bufferSize]byte)(b)) }
