package watchdog_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/watchdog"
)

// childVariable makes the test binary be the child of a test instead.
const childVariable = "WATCHDOG_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childVariable) {
	case "":
		testkit.Main(m)
	case "server":
		os.Exit(serverChild())
	case "main":
		os.Exit(watchdog.Main(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s", r.Method, r.URL.Path)
		})))
	case "watchdog":
		os.Exit(watchdog.Main(nil))
	case "healthcheck":
		os.Exit(watchdog.Healthcheck())
	case "exit":
		os.Exit(0)
	}
}

// serverChild is an HTTP server of the kind mode http runs. It starts
// listening when the file named by WAIT_FOR exists.
func serverChild() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if path := os.Getenv("WAIT_FOR"); path != "" {
		for {
			if _, err := os.Stat(path); err == nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	fmt.Println("listening soon")
	mux := http.NewServeMux()
	mux.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) { os.Exit(0) })
	mux.HandleFunc("/hang", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Openfaas-Internal", "liar")
		w.Header().Set("X-Seen", fmt.Sprint(r.Host, " ", r.RequestURI, " ", r.ContentLength, " ", r.Header["X-Forwarded-For"]))
		io.Copy(w, r.Body)
	})
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		rw.Flush()
		io.Copy(conn, rw)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		fmt.Println("the listener has left")
	})
	l, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server := http.Server{Handler: mux}
	context.AfterFunc(ctx, func() {
		fmt.Println("told to stop")
		server.Close()
	})
	server.Serve(l)
	return 0
}

// A running watchdog, and a client that talks to it.
type running struct {
	t      testing.TB
	client *http.Client
	socket string
	stop   context.CancelFunc // begins the drain
	ended  chan struct{}
	err    error // what Run returned; valid once ended is closed
	out    *output
}

// start runs a watchdog until the test ends.
func start(t testing.TB, o watchdog.Options) *running {
	t.Helper()
	r := newRunning(t)
	if o.Listen == "" {
		o.Listen = "unix:" + r.socket
	}
	if o.Log == nil {
		o.Log = testkit.Log(t)
	}
	o.Stdout, o.Stderr = r.out, r.out
	wd, err := watchdog.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	r.run(stop, func() error { return wd.Run(ctx) })
	return r
}

// program starts a watchdog in mode pool in a process of its own.
func program(t testing.TB, o watchdog.Options, env ...string) *running {
	t.Helper()
	r := newRunning(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = slices.Concat(o.Environ, env, []string{childVariable + "=watchdog", "mode=pool", "listen=unix:" + r.socket,
		"fprocess=" + strings.Join(o.Process, " "), "handler_dir=" + o.Workers.HandlerDir})
	cmd.Stdout, cmd.Stderr = r.out, r.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.run(func() { _ = cmd.Process.Signal(syscall.SIGTERM) }, cmd.Wait)
	return r.up()
}

func newRunning(t testing.TB) *running {
	t.Helper()
	r := &running{t: t, out: &output{}, ended: make(chan struct{})}
	// Socket paths are limited to about a hundred bytes, and t.TempDir's are long.
	dir, err := os.MkdirTemp("", "wd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r.socket = filepath.Join(dir, "s")
	r.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.socket)
	}}}
	return r
}

// run runs the watchdog until the test ends.
func (r *running) run(stop func(), run func() error) {
	r.stop = stop
	go func() {
		defer close(r.ended)
		r.err = run()
	}()
	r.t.Cleanup(func() {
		stop()
		<-r.ended
		r.client.CloseIdleConnections()
	})
}

// up waits until /_/ready says so.
func (r *running) up() *running {
	r.t.Helper()
	for {
		select {
		case <-r.ended:
			r.t.Fatalf("the watchdog ended before it was ready: %v\n%s", r.err, r.out)
		default:
		}
		if status, _ := r.tryReady(); status == http.StatusOK {
			return r
		}
		time.Sleep(time.Millisecond)
	}
}

// tryReady asks /_/ready once; the status is zero if nobody listens.
func (r *running) tryReady() (int, string) {
	res, err := r.client.Get("http://function/_/ready")
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(body)
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (r *running) do(method, path, body string, header ...string) reply {
	r.t.Helper()
	reply, err := r.try(method, path, body, header...)
	if err != nil {
		r.t.Fatal(err)
	}
	return reply
}

func (r *running) try(method, path, body string, header ...string) (reply, error) {
	var in io.Reader
	if body != "" {
		in = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(r.t.Context(), method, "http://function"+path, in)
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := r.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(got)}, err
}

// output collects what a watchdog and its children print.
type output struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// awaitOutput waits until what was printed contains want.
func (r *running) awaitOutput(want string) {
	r.t.Helper()
	for !strings.Contains(r.out.String(), want) {
		select {
		case <-r.t.Context().Done():
			r.t.Fatalf("%q never came in\n%s", want, r.out)
		case <-r.ended:
			if !strings.Contains(r.out.String(), want) {
				r.t.Fatalf("the watchdog ended (%v) without %q in\n%s", r.err, want, r.out)
			}
		default:
			time.Sleep(time.Millisecond)
		}
	}
}

// benchmark measures calls of a function, one after the other over one connection.
func benchmark(b *testing.B, o watchdog.Options) {
	o.Log = slog.New(slog.DiscardHandler)
	r := start(b, o).up()
	req, err := http.NewRequestWithContext(b.Context(), "GET", "http://function/", nil)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		res, err := r.client.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
}
