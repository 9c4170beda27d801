package watchdog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A pipeEnd is one end of a net.Pipe. It counts the deadlines that it is given.
type pipeEnd struct {
	net.Conn
	reads, writes atomic.Int64
}

func (p *pipeEnd) CloseWrite() error { return p.Close() }

func (p *pipeEnd) SetReadDeadline(t time.Time) error {
	p.reads.Add(1)
	return p.Conn.SetReadDeadline(t)
}

func (p *pipeEnd) SetWriteDeadline(t time.Time) error {
	p.writes.Add(1)
	return p.Conn.SetWriteDeadline(t)
}

// patientPipe returns a patientConn, what is below it, and its peer.
func patientPipe(t *testing.T) (*patientConn, *pipeEnd, net.Conn) {
	here, there := net.Pipe()
	end := &pipeEnd{Conn: here}
	t.Cleanup(func() {
		here.Close()
		there.Close()
	})
	return newPatientConn(end), end, there
}

// late fails unless err says that a read ran out of time, as net/http asks.
func late(t *testing.T, err error) {
	t.Helper()
	var e net.Error
	if !errors.As(err, &e) || !e.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the read ended with %v, want a deadline that was exceeded", err)
	}
}

func TestAReadEndsAtTheDeadlineThatWasSetLast(t *testing.T) {
	for name, test := range map[string]struct {
		before time.Duration // the deadline when the read begins, zero for none
		after  time.Duration // that it is given a second later, zero for none, negative for at once
		want   time.Duration // when the read ends, zero for never
	}{
		"as it began":            {before: time.Minute, after: time.Minute, want: time.Minute},
		"earlier":                {before: time.Minute, after: 2 * time.Second, want: 2 * time.Second},
		"at once":                {before: time.Minute, after: -1, want: time.Second},
		"later":                  {before: time.Minute, after: time.Hour, want: time.Hour},
		"none any more":          {before: time.Minute},
		"one where none was":     {after: time.Minute, want: time.Minute},
		"at once where none was": {after: -1, want: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, _, there := patientPipe(t)
				begun := time.Now()
				set := func(d time.Duration) {
					var deadline time.Time
					switch {
					case d > 0:
						deadline = begun.Add(d)
					case d < 0:
						deadline = time.Unix(1, 0)
					}
					if err := c.SetReadDeadline(deadline); err != nil {
						t.Error(err)
					}
				}
				set(test.before)
				ended := make(chan error, 1)
				go func() {
					_, err := c.Read(make([]byte, 1))
					ended <- err
				}()
				time.Sleep(time.Second)
				set(test.after)
				if test.want == 0 {
					time.Sleep(24 * time.Hour)
					synctest.Wait()
					if _, err := there.Write([]byte("x")); err != nil {
						t.Error(err)
					}
					if err := <-ended; err != nil {
						t.Errorf("a read without a deadline ended with %v", err)
					}
					return
				}
				late(t, <-ended)
				if took := time.Since(begun); took != test.want {
					t.Errorf("the read ended after %v, want %v", took, test.want)
				}
			})
		})
	}
}

func TestAConnectionCanBeReadAfterAReadWasInterrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _, there := patientPipe(t)
		for _, during := range []bool{false, true} {
			if during {
				time.AfterFunc(time.Second, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
			} else {
				_ = c.SetReadDeadline(time.Unix(1, 0))
			}
			for range 2 { // also those after the first
				_, err := c.Read(make([]byte, 1))
				late(t, err)
			}
			_ = c.SetReadDeadline(time.Time{})
			go func() { _, _ = there.Write([]byte("x")) }()
			if n, err := c.Read(make([]byte, 1)); n != 1 || err != nil {
				t.Errorf("interrupted during a read %t: then %d bytes and %v were read", during, n, err)
			}
		}
	})
}

func TestAWriteDeadlineIsSetAndLifted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, below, there := patientPipe(t)
		_ = c.SetWriteDeadline(time.Time{})
		if n := below.writes.Load(); n != 0 {
			t.Error("a deadline that was not there has been lifted")
		}
		_ = c.SetDeadline(time.Now().Add(time.Second))
		_, err := c.Write([]byte("x"))
		late(t, err)
		_ = c.SetDeadline(time.Time{})
		go func() { _, _ = io.ReadAll(there) }()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Errorf("after its deadline was lifted a write fails: %v", err)
		}
	})
}

func TestRequestsChangeNoTimers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, below, there := patientPipe(t)
		go func() {
			for range 100 {
				_, _ = there.Write([]byte("x"))
			}
		}()
		for range 100 { // as net/http does
			_ = c.SetReadDeadline(time.Now().Add(3 * time.Minute))
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
			_ = c.SetReadDeadline(time.Time{})
			_ = c.SetReadDeadline(time.Unix(1, 0))
			_, err := c.Read(make([]byte, 1))
			late(t, err)
			_ = c.SetReadDeadline(time.Time{})
			_ = c.SetWriteDeadline(time.Time{})
			time.Sleep(time.Second)
		}
		// One at the beginning, and one whenever it has passed.
		if n := below.reads.Load() + below.writes.Load(); n != 1 {
			t.Errorf("a hundred requests within two minutes set %d deadlines below", n)
		}
	})
}

// pipes is a listener whose connections are made by dial.
type pipes struct {
	conns  chan net.Conn
	closed context.Context
	close  context.CancelFunc
}

func (p pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.conns <- &pipeEnd{Conn: there}
	return here
}

func (p pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed.Done():
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error {
	p.close()
	return nil
}

func (pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipes", Net: "unix"} }

func TestClientsThatTakeTooLongAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left := make(chan time.Duration, 1)
		wd, err := New(Options{Mode: InProcess, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/wait" {
				begun := time.Now()
				<-r.Context().Done()
				left <- time.Since(begun)
			}
			_, _ = io.WriteString(w, "hello\n")
		})})
		if err != nil {
			t.Fatal(err)
		}
		close(wd.ready)
		closed, cancel := context.WithCancel(t.Context())
		ln := pipes{conns: make(chan net.Conn), closed: closed, close: cancel}
		server := wd.server(false)
		served := make(chan error, 1)
		go func() { served <- server.Serve(patientListener{ln}) }()

		// dropped returns how long it takes until the server ends a connection.
		dropped := func(c net.Conn) time.Duration {
			begun := time.Now()
			_, _ = io.Copy(io.Discard, c)
			return time.Since(begun)
		}
		conn := ln.dial()
		if took := dropped(conn); took != headerTimeout {
			t.Errorf("one that sends nothing is dropped after %v", took)
		}
		conn = ln.dial()
		fmt.Fprint(conn, "GET / HTTP/1.1\r\n")
		if took := dropped(conn); took != headerTimeout {
			t.Errorf("one that sends half a request is dropped after %v", took)
		}

		conn = ln.dial()
		answers := bufio.NewReader(conn)
		for i := range 5 {
			if i > 0 {
				time.Sleep(idleTimeout - time.Second)
			}
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: function\r\n\r\n")
			res, err := http.ReadResponse(answers, nil)
			if err != nil {
				t.Fatalf("one that uses its connection now and then gets %v", err)
			}
			if body, err := io.ReadAll(res.Body); string(body) != "hello\n" || err != nil {
				t.Fatalf("the answer is %q, %v", body, err)
			}
		}
		if took := dropped(conn); took != idleTimeout {
			t.Errorf("one that sends no more is dropped after %v", took)
		}

		conn = ln.dial()
		fmt.Fprint(conn, "GET /wait HTTP/1.1\r\nHost: function\r\n\r\n")
		time.Sleep(time.Hour)
		conn.Close()
		if took := <-left; took != time.Hour {
			t.Errorf("the function learns after %v that its client has left", took)
		}

		server.Close()
		<-served
	})
}
