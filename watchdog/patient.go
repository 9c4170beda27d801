package watchdog

import (
	"errors"
	"math"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// patientListener accepts connections that are [patientConn]s.
type patientListener struct{ net.Listener }

func (l patientListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if socket, ok := conn.(halfCloser); ok {
		return newPatientConn(socket), err
	}
	return conn, err
}

// A halfCloser is a connection that can tell its peer that nothing more comes,
// as net/http does before it closes one.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// A patientConn is a connection whose deadlines cost next to nothing. For each
// request net/http sets five, which are for peers that misbehave and hardly
// ever pass: if every one of them changes a timer of the runtime, they take as
// long as all that the watchdog does for a short call of a Go handler. So a
// read deadline is only noted, and the connection below gets one when a read
// begins that might otherwise last longer. If that was set for an earlier
// request, the read begins anew when it passes.
//
// Only what is set by its methods counts, so the connection below is for no one
// else.
type patientConn struct {
	halfCloser
	accepted time.Time // where the times below begin

	wanted  atomic.Int64 // nanoseconds until reads fail; never for no deadline
	reading atomic.Int64 // how many reads are at work

	mu           sync.Mutex // held to change what follows, and the deadlines below
	set          atomic.Int64
	writeBounded atomic.Bool
}

const never = math.MaxInt64

func newPatientConn(conn halfCloser) *patientConn {
	c := &patientConn{halfCloser: conn, accepted: time.Now()}
	c.wanted.Store(never)
	c.set.Store(never)
	return c
}

// Read reads until the deadline that was set last, which may be while it waits.
func (c *patientConn) Read(p []byte) (int, error) {
	// Noted before the deadline is looked at: who sets one meanwhile either is
	// early enough or sees that there is a read to be stopped.
	c.reading.Add(1)
	defer c.reading.Add(-1)
	for {
		wanted := c.wanted.Load()
		if wanted <= 0 { // net/http and we say "at once" by a time long ago
			return 0, os.ErrDeadlineExceeded
		}
		if wanted < c.set.Load() {
			c.lower()
		}
		n, err := c.halfCloser.Read(p)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !c.early() {
			return n, err
		}
	}
}

// lower has reads below end no later than wanted.
func (c *patientConn) lower() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if wanted := c.wanted.Load(); wanted < c.set.Load() {
		c.setRead(wanted)
	}
}

// early reports whether a read that has run out of time has some left, and
// then lets the next one have it.
func (c *patientConn) early() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	wanted := c.wanted.Load()
	if wanted != never && wanted <= int64(time.Since(c.accepted)) {
		return false
	}
	c.setRead(wanted)
	return true
}

// setRead sets the deadline below. The caller holds the lock.
func (c *patientConn) setRead(at int64) {
	c.set.Store(at)
	var t time.Time
	if at != never {
		t = c.accepted.Add(time.Duration(at))
	}
	_ = c.halfCloser.SetReadDeadline(t) // a connection that is closed will say so when it is read
}

func (c *patientConn) SetReadDeadline(t time.Time) error {
	wanted := int64(never)
	if !t.IsZero() {
		wanted = int64(t.Sub(c.accepted))
	}
	c.wanted.Store(wanted)
	if wanted < c.set.Load() && c.reading.Load() > 0 {
		c.lower()
	}
	return nil
}

// SetWriteDeadline leaves a connection alone that has none and is to have none,
// which is what net/http asks for after each answer.
func (c *patientConn) SetWriteDeadline(t time.Time) error {
	if t.IsZero() && !c.writeBounded.Load() {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeBounded.Store(!t.IsZero())
	return c.halfCloser.SetWriteDeadline(t)
}

func (c *patientConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
