package watchdog

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"
	"unicode/utf8"
)

// The frames of docs/reference/pool-protocol.md.

const poolProtocol = 2

type frameType uint8

const (
	frameHello  frameType = 1
	frameStart  frameType = 2
	frameLoaded frameType = 3
	frameFailed frameType = 4
	frameFork   frameType = 5
	frameForked frameType = 6
	frameExited frameType = 7
	frameKill   frameType = 8
	frameReady  frameType = 9

	frameRequest  frameType = 16
	frameResponse frameType = 17
	frameData     frameType = 18
	frameEnd      frameType = 19
	frameError    frameType = 20
	frameCredit   frameType = 21
	frameCancel   frameType = 22
	frameBatch    frameType = 23
	frameDropped  frameType = 24
	frameRecall   frameType = 25
)

const (
	frameHeader  = 9
	frameMax     = 16 << 20
	requestHead  = 9         // flags, milliseconds left, and the length of the JSON
	responseHead = 5         // flags and the length of the JSON
	messageLast  = 1         // flag: the body is whole
	creditWindow = 128 << 10 // bytes of DATA under way without CREDIT
	dataPiece    = 32 << 10  // bytes in one DATA frame
	wholeBody    = 64 << 10  // bytes of a body that go along with REQUEST
)

type frame struct {
	kind    frameType
	id      uint32
	payload []byte
}

// ends reports whether the frame is the last of its call.
func (f frame) ends() bool {
	switch f.kind {
	case frameEnd, frameError, frameDropped:
		return true
	case frameResponse:
		return len(f.payload) > 0 && f.payload[0]&messageLast != 0
	}
	return false
}

// frameBuffered reports whether a whole frame has been received.
func frameBuffered(r *bufio.Reader) bool {
	if r.Buffered() < frameHeader {
		return false
	}
	head, _ := r.Peek(frameHeader) // it is in the buffer
	return uint64(r.Buffered()) >= frameHeader+uint64(binary.BigEndian.Uint32(head))
}

// readFrame reads one frame. The payload is the caller's.
func readFrame(r *bufio.Reader) (frame, error) {
	head, err := r.Peek(frameHeader)
	if err != nil {
		return frame{}, err
	}
	length := binary.BigEndian.Uint32(head)
	f := frame{kind: frameType(head[4]), id: binary.BigEndian.Uint32(head[5:])}
	if length > frameMax {
		return frame{}, fmt.Errorf("a frame of %d bytes; at most %d are allowed", length, frameMax)
	}
	_, _ = r.Discard(frameHeader) // it is in the buffer
	if length > 0 {
		f.payload = make([]byte, length)
		if _, err := io.ReadFull(r, f.payload); err != nil {
			return frame{}, err
		}
	}
	return f, nil
}

func appendFrame(dst []byte, kind frameType, id uint32, payload []byte) []byte {
	dst = append(dst, make([]byte, frameHeader)...)
	putFrameHeader(dst[len(dst)-frameHeader:], len(payload), kind, id)
	return append(dst, payload...)
}

func putFrameHeader(dst []byte, length int, kind frameType, id uint32) {
	binary.BigEndian.PutUint32(dst, uint32(length))
	dst[4] = byte(kind)
	binary.BigEndian.PutUint32(dst[5:], id)
}

// appendRequest appends what a function is told of r as a REQUEST frame that
// has no body, id and timeout yet. The body, or its beginning, follows at the
// end, and then [sealRequest] makes the frame whole.
func appendRequest(dst []byte, r *http.Request) []byte {
	begin := len(dst)
	dst = append(dst, make([]byte, frameHeader+requestHead)...)
	meta := len(dst)
	dst = append(dst, `{"method":`...)
	dst = appendJSON(dst, r.Method, false)
	dst = append(dst, `,"path":`...)
	dst = appendJSON(dst, r.URL.Path, false)
	dst = append(dst, `,"query":`...)
	dst = appendJSON(dst, r.URL.RawQuery, false)
	dst = append(dst, `,"call_id":`...)
	dst = appendJSON(dst, r.Header.Get("X-Call-Id"), true)
	// The server has moved Host out of the headers; handlers look for it there.
	dst = append(dst, `,"headers":[["Host",`...)
	dst = appendJSON(dst, r.Host, true)
	dst = append(dst, ']')
	for name, values := range r.Header {
		for _, value := range values {
			dst = append(dst, ",["...)
			dst = appendJSON(dst, name, true)
			dst = append(dst, ',')
			dst = appendJSON(dst, value, true)
			dst = append(dst, ']')
		}
	}
	dst = append(dst, "]}"...)
	binary.BigEndian.PutUint32(dst[begin+frameHeader+5:], uint32(len(dst)-meta))
	return dst
}

// sealRequest completes the REQUEST frame that f is. A zero timeout means none;
// whole, that no DATA follows.
func sealRequest(f []byte, id uint32, timeout time.Duration, whole bool) {
	putFrameHeader(f, len(f)-frameHeader, frameRequest, id)
	f[frameHeader] = 0
	if whole {
		f[frameHeader] = messageLast
	}
	ms := min(max(timeout.Milliseconds(), 0), math.MaxUint32)
	if timeout > 0 && ms == 0 {
		ms = 1
	}
	binary.BigEndian.PutUint32(f[frameHeader+1:], uint32(ms))
}

// appendJSON appends s as a JSON string. Bytes beyond ASCII are Latin-1, as in
// HTTP headers, or else UTF-8, and then what is not becomes U+FFFD.
func appendJSON(dst []byte, s string, latin1 bool) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		case c < utf8.RuneSelf:
			dst = append(dst, c)
		case latin1:
			dst = utf8.AppendRune(dst, rune(c))
		default:
			r, size := utf8.DecodeRuneInString(s[i:])
			dst = utf8.AppendRune(dst, r)
			i += size
			continue
		}
		i++
	}
	return append(dst, '"')
}

// A response is what RESPONSE says.
type response struct {
	*head
	body []byte // the body, or its beginning
	last bool   // the body is whole
}

// A head is status and headers of answers. It is shared by those that have the
// same, and not changed.
type head struct {
	status int
	header http.Header // ready to be sent
}

// heads remembers the heads of answers, since a function has few. The zero
// value is empty.
type heads struct {
	mu    sync.Mutex
	known map[string]*head
}

const (
	knownHeads = 64  // after which all are forgotten
	knownHead  = 512 // bytes of the largest that is remembered
)

func (h *heads) parse(text []byte) (*head, error) {
	h.mu.Lock()
	found := h.known[string(text)]
	h.mu.Unlock()
	if found != nil {
		return found, nil
	}
	found, err := parseHead(text)
	if err != nil || len(text) > knownHead {
		return found, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known == nil || len(h.known) >= knownHeads {
		h.known = make(map[string]*head)
	}
	h.known[string(text)] = found
	return found, nil
}

func parseHead(text []byte) (*head, error) {
	var said struct {
		Status  int         `json:"status"`
		Headers [][2]string `json:"headers"`
	}
	if err := json.Unmarshal(text, &said); err != nil {
		return nil, fmt.Errorf("a response that cannot be read: %w", err)
	}
	// net/http would panic, and 1xx announce an answer without being one.
	if said.Status < 200 || said.Status > 999 {
		return nil, fmt.Errorf("a response with status %d", said.Status)
	}
	header := http.Header{"Content-Type": nil} // no guessing from the body
	for _, pair := range said.Headers {
		switch name := http.CanonicalHeaderKey(pair[0]); name {
		case "Connection", "Transfer-Encoding":
			// Between the function and us there is no HTTP.
		default:
			header[name] = append(header[name], pair[1])
		}
	}
	if said.Status == http.StatusNoContent || said.Status == http.StatusNotModified {
		delete(header, "Content-Length")
	}
	for name, values := range header {
		header[name] = slices.Clip(values)
	}
	return &head{said.Status, header}, nil
}

func parseResponse(payload []byte, known *heads) (response, error) {
	var res response
	if len(payload) < responseHead {
		return res, errors.New("a response shorter than its head")
	}
	length := binary.BigEndian.Uint32(payload[1:])
	rest := payload[responseHead:]
	if uint64(length) > uint64(len(rest)) {
		return res, errors.New("a response longer than its frame")
	}
	var err error
	if res.head, err = known.parse(rest[:length]); err != nil {
		return response{}, err
	}
	res.body, res.last = rest[length:], payload[0]&messageLast != 0
	return res, nil
}

// parseCredit reads CREDIT; a malformed one is worth nothing.
func parseCredit(payload []byte) int {
	if len(payload) != 4 {
		return 0
	}
	return int(binary.BigEndian.Uint32(payload))
}

// parseJSON reads the payload of the frames that are JSON.
func parseJSON[T any](payload []byte) (T, error) {
	var v T
	if err := json.Unmarshal(payload, &v); err != nil {
		return v, fmt.Errorf("frame of a pool's process: %w", err)
	}
	return v, nil
}
