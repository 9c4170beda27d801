package invoke

import (
	"fmt"
	"io"
	"net/http"
	"strconv"

	"golang.org/x/net/http/httpguts"

	"github.com/graphene-faas/graphene/internal/fault"
)

// smallBody is the size up to which a body of known length is sent together
// with the head: one write instead of two and no goroutine, and it can be sent
// again. The price is that the replica sees nothing of such a request before
// all of it is here.
const smallBody = 16 << 10

func isSmall(length int64) bool { return 0 < length && length <= smallBody }

// A message is a request as it goes over the wire, ready to be sent any number
// of times until its body has begun to stream.
type message struct {
	req *http.Request
	// start is the head, and the body if that is small.
	start []byte
	// rest is the body that start does not hold, or nil.
	rest io.ReadCloser
	// length is that of rest; -1 is unknown.
	length int64
	// expects says that the body should wait for "100 Continue".
	expects bool
	// upload sends rest, once it has begun to be sent.
	upload *upload
}

func (m *message) streams() bool { return m.rest != nil }

// A bodyError is a failure to read a request's body: its sender's, not the
// replica's.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "read request body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

// newMessage builds the message for req in buf, whose content it overwrites,
// and reads the body if it is small. The caller keeps start, also when there
// is an error: it may be a larger buffer than buf. The error is a *bodyError,
// or fault.Invalid and says which part of req cannot be sent.
func newMessage(buf []byte, req *http.Request) (message, error) {
	m := message{req: req, start: buf[:0]}
	if req.Body != nil && req.Body != http.NoBody {
		m.rest, m.length = req.Body, req.ContentLength
		if m.length == 0 {
			m.length = -1 // a body with length 0 is one of unknown length
		}
	}
	m.expects = m.rest != nil && httpguts.HeaderValuesContainsToken(req.Header["Expect"], "100-continue")
	if err := m.head(); err != nil {
		return m, err
	}
	if m.rest == nil || m.expects || !isSmall(m.length) {
		return m, nil
	}
	head := len(m.start)
	m.start = append(m.start, make([]byte, m.length)...)
	n, err := io.ReadFull(m.rest, m.start[head:])
	if err != nil {
		return m, &bodyError{fmt.Errorf("%d of %d bytes: %w", n, m.length, err)}
	}
	m.rest = nil
	_ = req.Body.Close() // it was read to its end
	return m, nil
}

// head writes the request line and the headers.
func (m *message) head() error {
	req := m.req
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	path := req.URL.EscapedPath()
	if path == "" {
		path = "/"
	}
	switch {
	case !httpguts.ValidHeaderFieldName(req.Method): // methods are tokens, as names are
		return fault.Invalid.Errorf("method %q cannot be sent", req.Method)
	case !httpguts.ValidHostHeader(host):
		return fault.Invalid.Errorf("host %q cannot be sent", host)
	case !printable(path) || !printable(req.URL.RawQuery):
		return fault.Invalid.Errorf("path or query with spaces or control characters cannot be sent")
	}

	b := append(m.start, req.Method...)
	b = append(b, ' ')
	b = append(b, path...)
	if req.URL.ForceQuery || req.URL.RawQuery != "" {
		b = append(b, '?')
		b = append(b, req.URL.RawQuery...)
	}
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, host...)
	b = append(b, "\r\n"...)
	switch {
	case m.rest != nil && m.length < 0:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
		for name := range req.Trailer {
			if !httpguts.ValidTrailerHeader(name) {
				return fault.Invalid.Errorf("trailer %q cannot be sent", name)
			}
			b = appendField(b, "Trailer", name)
		}
	case m.rest != nil:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, m.length, 10)
		b = append(b, "\r\n"...)
	case req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch:
		b = append(b, "Content-Length: 0\r\n"...)
	}
	b, err := appendHeader(b, req.Header)
	m.start = append(b, "\r\n"...)
	return err
}

// appendHeader appends h without the fields that head writes itself.
func appendHeader(b []byte, h http.Header) ([]byte, error) {
	for name, values := range h {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
			continue
		case "User-Agent":
			if len(values) == 1 && values[0] == "" {
				continue // the caller sent none, which ReverseProxy says in this way
			}
		}
		if !httpguts.ValidHeaderFieldName(name) {
			return b, fault.Invalid.Errorf("header name %q cannot be sent", name)
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return b, fault.Invalid.Errorf("value of header %s cannot be sent", name) // it may be a secret
			}
			b = appendField(b, name, value)
		}
	}
	return b, nil
}

func appendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// printable reports whether s has neither spaces nor control characters.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return false
		}
	}
	return true
}
