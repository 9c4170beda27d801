package invoke

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/graphene-faas/graphene/internal/web"
)

// A socket is the tunnel of a WebSocket, which can be ended as the protocol has
// it: when the gateway stops, or the replica is about to go, the caller is told
// so by a close frame with the status 1001, "going away", once the frame that
// is on its way is complete. Callers then come back, and find another replica.
type socket struct {
	*tunnel
	unwatch func() // ends the watch for the gateway's end
	leaving atomic.Bool
	closed  sync.Once

	toCaller   frames // touched by Read alone
	said       bool   // the close frame was sent; touched by Read alone
	fromCaller frames // touched by Write alone
	answered   sync.Once
	over       chan struct{} // closed when the caller has nothing more to say
}

// closeGoingAway is the frame that ends a WebSocket with the status 1001.
var closeGoingAway = [...]byte{0x88, 2, 1001 >> 8, 1001 & 0xff}

// closeAnswer is how long a caller may take to answer it.
const closeAnswer = 2 * time.Second

var errGoingAway = errors.New("the WebSocket was closed: going away")

// newSocket makes a socket of a tunnel for a request with that context.
func newSocket(ctx context.Context, t *tunnel) *socket {
	s := &socket{tunnel: t, over: make(chan struct{})}
	draining, release := web.UntilDrain(ctx)
	stop := context.AfterFunc(draining, s.leave)
	s.unwatch = func() {
		stop()
		release()
	}
	t.transport.hold(s)
	return s
}

// leave has the caller told, unless one of the two sides is about to close.
func (s *socket) leave() {
	s.leaving.Store(true)
	_ = s.SetReadDeadline(time.Unix(1, 0)) // wakes Read; a connection that is broken does so itself
}

// Read reads what the function says, until it is to be left.
func (s *socket) Read(p []byte) (int, error) {
	if s.said {
		wait := time.NewTimer(closeAnswer)
		defer wait.Stop()
		select {
		case <-s.over:
		case <-wait.C:
		}
		return 0, errGoingAway
	}
	for {
		most := len(p)
		if s.leaving.Load() && !s.toCaller.closing {
			if s.toCaller.between() && most >= len(closeGoingAway) {
				s.said = true
				return copy(p, closeGoingAway[:]), nil
			}
			most = min(most, s.toCaller.missing())
		}
		n, err := s.tunnel.Read(p[:most])
		s.toCaller.pass(p[:n])
		timeout, ok := errors.AsType[net.Error](err)
		if n > 0 || !ok || !timeout.Timeout() || !s.leaving.Load() {
			return n, err
		}
		// It was leave that woke us, or it will be in vain: what is left to
		// read comes before the end.
		if err := s.SetReadDeadline(time.Time{}); err != nil {
			return 0, err
		}
	}
}

// Write sends what the caller says.
func (s *socket) Write(p []byte) (int, error) {
	n, err := s.tunnel.Write(p)
	s.fromCaller.pass(p[:n])
	if s.fromCaller.closing && s.fromCaller.between() {
		s.answered.Do(func() { close(s.over) })
	}
	return n, err
}

// CloseWrite tells the function that the caller says nothing more.
func (s *socket) CloseWrite() error {
	s.answered.Do(func() { close(s.over) })
	return s.tunnel.CloseWrite()
}

func (s *socket) Close() error {
	s.closed.Do(func() {
		s.unwatch()
		s.tunnel.transport.drop(s)
	})
	return s.tunnel.Close()
}

// hold has close leave s, or leaves it if that is over.
func (t *transport) hold(s *socket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		s.leave()
		return
	}
	if t.sockets == nil {
		t.sockets = map[*socket]struct{}{}
	}
	t.sockets[s] = struct{}{}
}

func (t *transport) drop(s *socket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sockets, s)
}

// frames follows a stream of WebSocket frames. It looks at their heads only.
type frames struct {
	head    [14]byte // of the frame that begins, as far as it has come
	have    int
	left    uint64 // bytes of the frame's content that are still to come
	closing bool   // a close frame has begun: it is the last one
}

// between reports whether no frame is on its way.
func (f *frames) between() bool { return f.have == 0 && f.left == 0 }

// missing is how much may be read without reading into the frame after this;
// it is at least 1.
func (f *frames) missing() int {
	if f.left > 0 {
		return int(min(f.left, 1<<20))
	}
	return f.wants() - f.have
}

// wants is how long the head is, as far as can be told from what has come.
func (f *frames) wants() int {
	n := 2
	if f.have < n {
		return n
	}
	switch f.head[1] & 0x7f {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if f.head[1]&0x80 != 0 {
		n += 4 // the mask
	}
	return n
}

// pass takes in the next bytes.
func (f *frames) pass(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, uint64(len(p)))
			f.left -= n
			p = p[n:]
			continue
		}
		n := copy(f.head[f.have:f.wants()], p)
		f.have += n
		p = p[n:]
		if f.have < f.wants() {
			continue
		}
		switch length := f.head[1] & 0x7f; length {
		case 126:
			f.left = uint64(binary.BigEndian.Uint16(f.head[2:]))
		case 127:
			f.left = binary.BigEndian.Uint64(f.head[2:])
		default:
			f.left = uint64(length)
		}
		const opClose = 8
		f.closing = f.closing || f.head[0]&0x0f == opClose
		f.have = 0
	}
}
