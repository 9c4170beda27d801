package async

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
)

// A deadlyConn kills its process, as kill -9 does, in place of a write that
// contains what it dies of.
type deadlyConn struct {
	net.Conn
	of []byte
}

func (c *deadlyConn) Write(p []byte) (int, error) {
	if bytes.Contains(p, c.of) {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return c.Conn.Write(p)
}

// deadly dials connections that die of this.
type deadly []byte

func (d deadly) Dial(network, address string) (net.Conn, error) {
	c, err := net.Dial(network, address)
	return &deadlyConn{c, d}, err
}

// TestDyingSubmitter is the process that dies in the tests below.
func TestDyingSubmitter(t *testing.T) {
	url, of, batch := os.Getenv("DYING_URL"), os.Getenv("DYING_OF"), os.Getenv("DYING_BATCH") != ""
	if url == "" {
		t.Skip("is run by other tests")
	}
	nc, err := nats.Connect(url, nats.SetCustomDialer(deadly(of)))
	if err != nil {
		t.Fatal(err)
	}
	q, err := Open(t.Context(), nc, Options{InlineBody: 1 << 10})
	if err != nil {
		t.Fatal(err)
	}
	body := strings.Repeat("7", 300<<10)
	s := Submission{
		Function: function.Ref{Name: "fn", Namespace: "lab"},
		Request:  types.QueueRequest{Method: "POST", Function: "fn.lab", Header: http.Header{}},
	}
	if batch {
		b, err := q.openBatch(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		err = q.fill(t.Context(), b, s, 0, func() ([]byte, error) {
			if n++; n > 5 {
				return nil, io.EOF
			}
			return []byte(body), nil
		})
		t.Fatal("it lives:", err)
	}
	s.Body, s.Length = strings.NewReader(body), int64(len(body))
	_, err = q.Submit(t.Context(), s)
	t.Fatal("it lives:", err)
}

func TestBodiesThatADeathLeftBehindAreSwept(t *testing.T) {
	for _, c := range []struct {
		name, of string
		batch    bool
		objects  int
	}{
		{"between a body and its message", "HPUB " + callsSubject, false, 1},
		{"before a body is complete", "HPUB " + objectMeta(requestsBucket, ""), false, 0},
		{"between a body of a batch and its message", "HPUB " + callsSubject, true, 1},
		{"between the parts of a batch's body", "HPUB " + objectMeta(requestsBucket, ""), true, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := natstest.Server(t, func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "127.0.0.1", -1 })
			nc, err := nats.Connect("", nats.InProcessServer(s))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(nc.Close)
			r := rigOn(t, nc, func(http.ResponseWriter, *http.Request) {}, func(o *Options) { o.InlineBody = 1 << 10 })
			child := exec.Command(os.Args[0], "-test.run=^TestDyingSubmitter$")
			child.Env = append(os.Environ(), "DYING_URL="+s.ClientURL(), "DYING_OF="+c.of)
			if c.batch {
				child.Env = append(child.Env, "DYING_BATCH=1")
			}
			out, err := child.CombinedOutput()
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("it did not die: %v\n%s", err, out)
			}
			if n, _ := r.backlog(t.Context()); len(n) != 0 {
				t.Fatalf("a call was accepted: %v", n)
			}
			var parts, objects, reads int
			eventually(t, "what the dead process has sent has arrived", func() bool {
				had, hadObjects := parts, objects
				parts, objects = r.bodies()
				if reads++; parts != had || objects != hadObjects || s.NumClients() > 1 {
					reads = 0
				}
				return reads >= 10
			})
			if parts == 0 || objects != c.objects {
				t.Fatalf("the dead process has left %d parts, and %d bodies, not %d", parts, objects, c.objects)
			}
			if err := r.sweep(t.Context(), time.Now().Add(-sweepAge)); err != nil {
				t.Fatal(err)
			}
			if p, o := r.bodies(); p != parts || o != objects {
				t.Error("bodies are swept whose calls may still be on their way")
			}
			if err := r.sweep(t.Context(), time.Now()); err != nil {
				t.Fatal(err)
			}
			if p, o := r.bodies(); p != 0 || o != 0 {
				t.Errorf("%d parts and %d bodies are left", p, o)
			}
		})
	}
}

// bodies counts the parts of bodies that are stored, and the bodies.
func (r *rig) bodies() (parts, objects int) {
	r.t.Helper()
	err := r.each(r.t.Context(), "OBJ_"+requestsBucket, ">", func(m message) error {
		if strings.HasPrefix(m.subject, objectParts(requestsBucket, "")) {
			parts++
		} else {
			objects++
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return parts, objects
}

func TestBodiesOfCallsAreNotSwept(t *testing.T) {
	large := strings.Repeat("x", 5<<10)
	good := false
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if !good || string(body) != large {
			w.WriteHeader(500)
		}
	}, func(o *Options) { o.InlineBody = 1 << 10 })
	dead := r.submit("fn", large)
	stop := r.work(func(o *WorkerOptions) { o.Policy.Attempts = 1 })
	r.await(dead)
	stop()
	later := r.submit("fn", large)
	stop = r.work(func(o *WorkerOptions) { o.Policy.MinWait, o.Policy.MaxWait = time.Hour, time.Hour })
	eventually(t, "a call waits for its next try", func() bool {
		c, err := r.Lookup(t.Context(), later)
		return err == nil && c.State == Waiting
	})
	stop()
	waiting := r.submit("fn", large)
	if err := r.sweep(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, n := r.bodies(); n != 3 {
		t.Fatalf("%d bodies are left of 3", n)
	}
	good = true
	if err := r.Retry(t.Context(), dead); err != nil {
		t.Fatal(err)
	}
	r.work()
	for _, id := range []string{waiting, dead} {
		if c := r.await(id); c.State != Done {
			t.Errorf("call %s: %+v", id, c)
		}
	}
	eventually(t, "their bodies are deleted", func() bool {
		if err := r.sweep(t.Context(), time.Now()); err != nil { // takes away the marks, too
			t.Fatal(err)
		}
		_, n := r.bodies()
		return n == 1
	})
}

func TestABodyThatIsTouchedWhileASweepLooksIsKept(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) {}, func(o *Options) { o.InlineBody = 1 << 10 })
	r.submit("fn", strings.Repeat("x", 5<<10))
	stream, err := r.js.Stream(t.Context(), "OBJ_"+requestsBucket)
	if err != nil {
		t.Fatal(err)
	}
	var seen message
	err = r.each(t.Context(), "OBJ_"+requestsBucket, objectMeta(requestsBucket, "*"), func(m message) error {
		seen = m
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var object string
	err = r.each(t.Context(), callsStream, ">", func(m message) error {
		object = m.header.Get(headerBody)
		return nil
	})
	if err = errors.Join(err, r.touch(t.Context(), object), r.dropObject(t.Context(), stream, requestsBucket, seen)); err != nil {
		t.Fatal(err)
	}
	if body, err := r.requests.GetBytes(t.Context(), object); err != nil || len(body) != 5<<10 {
		t.Errorf("the body has %d bytes: %v", len(body), err)
	}
}

func TestOneWorkerSweepsAtATime(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) {})
	now := time.Now()
	leads := func(at time.Time) bool {
		lead, err := r.leadSweep(context.Background(), at)
		if err != nil {
			t.Fatal(err)
		}
		return lead
	}
	if got := fmt.Sprint(leads(now), leads(now), leads(now.Add(2*sweepEvery))); got != "true false true" {
		t.Error(got)
	}
}
