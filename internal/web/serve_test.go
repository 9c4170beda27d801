package web_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/web"
)

// A server is one run of web.Serve.
type server struct {
	address string
	stop    context.CancelFunc
	ended   chan error
}

func serve(t *testing.T, h http.HandlerFunc, o web.ServeOptions) *server {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, ln, h, o)
}

func serveOn(t *testing.T, ln net.Listener, h http.HandlerFunc, o web.ServeOptions) *server {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	s := &server{address: ln.Addr().String(), stop: stop, ended: make(chan error, 1)}
	if o.Log == nil {
		o.Log = testkit.Log(t)
	}
	go func() { s.ended <- web.Serve(ctx, ln, h, o) }()
	t.Cleanup(stop)
	return s
}

// send writes text on a new connection and returns a reader of what comes back.
func (s *server) send(t *testing.T, text string) *bufio.Reader {
	t.Helper()
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	io.WriteString(conn, text)
	return bufio.NewReader(conn)
}

const simple = "GET / HTTP/1.1\r\nHost: x\r\n\r\n"

func TestServeLetsRequestsInFlightFinish(t *testing.T) {
	arrived, finish := make(chan struct{}), make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-finish
		if r.Context().Err() != nil {
			t.Error("the request's context ended during the drain")
		}
		io.WriteString(w, "done")
	}, web.ServeOptions{Drain: time.Hour})
	answer := s.send(t, simple)
	<-arrived
	s.stop()
	refused(t, s.address)
	close(finish)
	resp, err := http.ReadResponse(answer, nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := io.ReadAll(resp.Body); string(body) != "done" || err != nil {
		t.Errorf("answer %q, %v", body, err)
	}
	if err := <-s.ended; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

// refused returns once address takes no connections any more.
func refused(t *testing.T, address string) {
	t.Helper()
	for {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return
		}
		conn.Close()
	}
}

func TestServeAnswersCallersWhoConnectedBeforeItStopped(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "done") }, web.ServeOptions{Drain: time.Hour})
	conn, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	half := len(simple) / 2
	io.WriteString(conn, simple[:half])
	if resp, err := http.ReadResponse(s.send(t, simple), nil); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v", resp, err) // connections are accepted in their order
	}
	s.stop()
	refused(t, s.address)
	io.WriteString(conn, simple[half:])
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusOK || !resp.Close {
		t.Errorf("%v, %v", resp, err)
	}
	if err := <-s.ended; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

// A slowListener accepts when it is told to.
type slowListener struct {
	*net.TCPListener
	open chan struct{}
}

func (l *slowListener) Accept() (net.Conn, error) {
	<-l.open
	return l.TCPListener.Accept()
}

func TestServeAnswersCallersWhomItHasNotAcceptedWhenItStops(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	slow := &slowListener{ln.(*net.TCPListener), make(chan struct{})}
	s := serveOn(t, slow, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }, web.ServeOptions{Drain: time.Minute})
	var answers []*bufio.Reader
	for range 20 {
		answers = append(answers, s.send(t, simple))
	}
	s.stop()
	time.AfterFunc(50*time.Millisecond, func() { close(slow.open) }) // when it has begun to stop
	for i, r := range answers {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("caller %d: %v", i, err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("caller %d gets %s", i, resp.Status)
		}
	}
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
}

func TestCallersWhoKeepConnectionsBusyLoseNothingWhenServersFollowEachOther(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	next := func() *server { // the socket stays open when it stops
		file, err := socket.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		ln, err := net.FileListener(file)
		if err != nil {
			t.Fatal(err)
		}
		return serveOn(t, ln, func(http.ResponseWriter, *http.Request) {}, web.ServeOptions{Drain: time.Minute})
	}
	s := next()
	var callers sync.WaitGroup
	var calls atomic.Int64
	done := make(chan struct{})
	for range 4 {
		callers.Go(func() {
			transport := &http.Transport{}
			defer transport.CloseIdleConnections()
			client := &http.Client{Transport: transport, Timeout: time.Minute}
			for {
				select {
				case <-done:
					return
				default:
				}
				resp, err := client.Post("http://"+socket.Addr().String(), "text/plain", strings.NewReader("x"))
				if err != nil {
					t.Error(err)
					return
				}
				resp.Body.Close()
				calls.Add(1)
			}
		})
	}
	for range 10 {
		for before := calls.Load(); calls.Load() < before+100 && !t.Failed(); {
			time.Sleep(time.Millisecond)
		}
		s.stop()
		if err := <-s.ended; err != nil {
			t.Error(err)
		}
		s = next()
	}
	close(done)
	callers.Wait()
}

func TestServeWaitsNotForCallersWhoSendNothing(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) {}, web.ServeOptions{Drain: 10 * time.Millisecond})
	answer := s.send(t, "GET")
	if _, err := http.ReadResponse(s.send(t, simple), nil); err != nil {
		t.Fatal(err)
	}
	s.stop()
	if err := <-s.ended; err != nil {
		t.Errorf("Serve = %v", err)
	}
	if _, err := answer.ReadByte(); err == nil {
		t.Error("the connection is still open")
	}
}

func TestServeCutsOffWhatOutlastsTheDrainAndWaitsForItsHandler(t *testing.T) {
	for name, h := range map[string]func(w http.ResponseWriter, r *http.Request){
		"ordinary": func(w http.ResponseWriter, r *http.Request) {},
		"upgraded": func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			context.AfterFunc(r.Context(), func() { conn.Close() })
		},
	} {
		arrived, returned := make(chan struct{}), make(chan struct{})
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			defer close(returned)
			h(w, r)
			close(arrived)
			<-r.Context().Done()
		}, web.ServeOptions{Drain: time.Millisecond})
		answer := s.send(t, simple)
		<-arrived
		s.stop()
		if err := <-s.ended; err != nil {
			t.Errorf("%s: Serve = %v", name, err)
		}
		select {
		case <-returned:
		default:
			t.Errorf("%s: Serve returned before the handler did", name)
		}
		if _, err := answer.ReadByte(); err == nil {
			t.Errorf("%s: the connection is still open", name)
		}
	}
}

func TestAnEndlessAnswerEndsWhenTheDrainBegins(t *testing.T) {
	arrived := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := web.UntilDrain(r.Context())
		defer cancel()
		close(arrived)
		<-ctx.Done()
		if r.Context().Err() != nil {
			t.Error("the request was cut off")
		}
		io.WriteString(w, "bye")
	}, web.ServeOptions{Drain: time.Hour})
	answer := s.send(t, simple)
	<-arrived
	s.stop()
	resp, err := http.ReadResponse(answer, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Errorf("%v, %v", resp, err)
	}
	if err := <-s.ended; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

func TestUntilDrainOutsideAServerEndsWithItsContext(t *testing.T) {
	parent, stop := context.WithCancel(t.Context())
	ctx, cancel := web.UntilDrain(parent)
	defer cancel()
	stop()
	<-ctx.Done()
}

func TestServeSpeaksHTTP2WithoutTLS(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) }, web.ServeOptions{Drain: time.Hour})
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: &protocols}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://" + s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); string(body) != "HTTP/2.0" {
		t.Errorf("protocol %q", body)
	}
}

func TestHeadersBeyondTheLimitAreRefused(t *testing.T) {
	s := serve(t, func(http.ResponseWriter, *http.Request) {}, web.ServeOptions{MaxHeaderBytes: 1000})
	// The limit is soft: net/http adds a few kilobytes to it.
	answer := s.send(t, "GET / HTTP/1.1\r\nHost: x\r\nX-Big: "+strings.Repeat("a", 10000)+"\r\n\r\n")
	resp, err := http.ReadResponse(answer, nil)
	if err != nil || resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("%v, %v; want 431", resp, err)
	}
}

func TestServeReportsAListenerThatFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := web.Serve(t.Context(), ln, http.NotFoundHandler(), web.ServeOptions{}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v, want net.ErrClosed", err)
	}
}

func TestAPanicBreaksTheConnectionAndIsLoggedAsAnError(t *testing.T) {
	var out bytes.Buffer
	s := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
		panic("boom")
	}, web.ServeOptions{Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelError}))})
	for _, path := range []string{"/abort", "/boom"} {
		if _, err := s.send(t, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n").ReadByte(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v, want the connection closed", path, err)
		}
	}
	s.stop()
	if err := <-s.ended; err != nil {
		t.Error(err)
	}
	if got := out.String(); strings.Count(got, "handler panicked") != 1 || !strings.Contains(got, "path=/boom") || !strings.Contains(got, "serve_test.go") {
		t.Errorf("log: %s", got)
	}
}
