package watchdog_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/watchdog"
)

func inProcess(f http.HandlerFunc) watchdog.Options {
	return watchdog.Options{Mode: watchdog.InProcess, Handler: f}
}

func TestAGoHandlerIsServedWithItsTimings(t *testing.T) {
	r := start(t, inProcess(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-OpenFaaS-Internal", "liar")
		w.Header().Set("Server-Timing", "mine;dur=1")
		w.WriteHeader(http.StatusTeapot)
		fmt.Fprintf(w, "%s %s", r.Method, r.RequestURI)
	})).up()
	got := r.do("PATCH", "/a//b?q=%20", "")
	if got.status != http.StatusTeapot || got.body != "PATCH /a//b?q=%20" {
		t.Errorf("got %d %q", got.status, got.body)
	}
	if v, there := got.header["X-Openfaas-Internal"]; there {
		t.Errorf("the handler spoke as %q", v)
	}
	if ok, _ := regexp.MatchString(`^\d+\.\d{6}$`, got.header.Get("X-Duration-Seconds")); !ok {
		t.Errorf("X-Duration-Seconds: %q", got.header.Get("X-Duration-Seconds"))
	}
	timing := got.header.Values("Server-Timing")
	if len(timing) != 2 || timing[0] != "mine;dur=1" || !strings.HasPrefix(timing[1], "handler;dur=") {
		t.Errorf("Server-Timing: %q", timing)
	}
	r.awaitOutput("PATCH /a//b?q=%20 - 418 I'm a teapot - ContentLength: 17B (")
}

func TestProbesAnswerGetOnly(t *testing.T) {
	r := start(t, inProcess(func(http.ResponseWriter, *http.Request) {})).up()
	for _, path := range []string{"/_/health", "/_/ready"} {
		if got := r.do("GET", path, ""); got.status != http.StatusOK {
			t.Errorf("GET %s: %d", path, got.status)
		}
		for _, method := range []string{"HEAD", "POST"} {
			if got := r.do(method, path, ""); got.status != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %d", method, path, got.status)
			}
		}
	}
	if got := r.do("GET", "/_/health", ""); got.body != "OK" {
		t.Errorf("health says %q", got.body)
	}
	if strings.Contains(r.out.String(), "/_/") {
		t.Errorf("probes are logged:\n%s", r.out)
	}
}

func TestReadyPathAsksTheFunction(t *testing.T) {
	o := inProcess(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/warm" {
			http.Error(w, "not warm", http.StatusServiceUnavailable)
		}
	})
	o.ReadyPath = "/warm"
	r := start(t, o)
	for {
		status, body := r.tryReady()
		if status != 0 && body != "loading\n" {
			if status != http.StatusServiceUnavailable || body != "not warm\n" {
				t.Errorf("ready: %d %q", status, body)
			}
			if got := r.do("GET", "/_/health?ready", ""); got.status != status || got.body != body {
				t.Errorf("asked by way of health: %d %q", got.status, got.body)
			}
			if got := r.do("GET", "/_/health", ""); got.status != http.StatusOK {
				t.Errorf("health: %d %q", got.status, got.body)
			}
			return
		}
	}
}

func TestCallsOverTheLimitAreRefused(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	o := inProcess(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-leave
	})
	o.MaxInflight = 1
	r := start(t, o).up()
	first := make(chan reply, 1)
	go func() { got, _ := r.try("GET", "/", ""); first <- got }()
	<-entered
	got := r.do("GET", "/", "")
	want := "Concurrent request limit exceeded. Max concurrent requests: 1\n"
	if got.status != http.StatusTooManyRequests || got.body != want || got.header.Get("X-OpenFaaS-Internal") == "" {
		t.Errorf("got %d %q %v", got.status, got.body, got.header)
	}
	if status, _ := r.tryReady(); status != http.StatusOK {
		t.Errorf("a full function is not ready: %d", status)
	}
	close(leave)
	if got := <-first; got.status != http.StatusOK {
		t.Errorf("the first call got %d", got.status)
	}
	go func() { <-entered }()
	if got := r.do("GET", "/", ""); got.status != http.StatusOK {
		t.Errorf("after the first call: %d", got.status)
	}
}

func TestACallThatTakesTooLongIsAnsweredWhileItsHandlerRuns(t *testing.T) {
	leave := make(chan struct{})
	cause := make(chan error, 1)
	o := inProcess(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := r.Context().Deadline(); !ok {
			t.Error("the handler does not know its deadline")
		}
		<-r.Context().Done()
		cause <- context.Cause(r.Context())
		<-leave
		w.Header().Set("X-Late", "yes")
		if _, err := io.WriteString(w, "late"); !errors.Is(err, http.ErrHandlerTimeout) {
			t.Errorf("a late write returned %v", err)
		}
	})
	o.ExecTimeout = time.Hour
	r := start(t, o).up()
	got := r.do("GET", "/", "", "X-Timeout", "1ms")
	if got.status != http.StatusGatewayTimeout || got.header.Get("X-OpenFaaS-Internal") != "watchdog" || got.body != "the function took longer than 1ms\n" {
		t.Errorf("got %d %q %v", got.status, got.body, got.header)
	}
	if err := <-cause; !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the context was cancelled because of %v", err)
	}
	close(leave)
}

func TestAnAnswerCutByTheTimeoutIsNotWhole(t *testing.T) {
	o := inProcess(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	o.ExecTimeout = 10 * time.Millisecond
	r := start(t, o).up()
	got, err := r.try("GET", "/", "")
	if err == nil {
		t.Errorf("the answer looks whole: %q", got.body)
	}
}

func TestACallerWhoLeavesIsLoggedAsSuch(t *testing.T) {
	entered := make(chan struct{})
	r := start(t, inProcess(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})).up()
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://function/", nil)
	if err != nil {
		t.Fatal(err)
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		if res, err := r.client.Do(req); err == nil {
			res.Body.Close()
		}
	}()
	<-entered
	leave()
	<-left
	r.awaitOutput("GET / - 499 ")
}

func TestAPanicIsTheFunctionsFault(t *testing.T) {
	r := start(t, inProcess(func(http.ResponseWriter, *http.Request) { panic("oh no") })).up()
	got := r.do("GET", "/", "")
	if got.status != http.StatusInternalServerError || got.header.Get("X-OpenFaaS-Internal") != "" {
		t.Errorf("got %d %v", got.status, got.header)
	}
}

func TestABodyOverTheLimitIsRefused(t *testing.T) {
	o := inProcess(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	o.MaxBody = 3
	r := start(t, o).up()
	for body, want := range map[string]int{"abc": http.StatusOK, "abcd": http.StatusRequestEntityTooLarge} {
		if got := r.do("POST", "/", body); got.status != want {
			t.Errorf("%q: %d, want %d", body, got.status, want)
		}
	}
}

// pipes is a listener whose connections are pipes, so that time can be virtual.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.done) }); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func TestRunningCallsFinishAfterTheStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan struct{})
		o := inProcess(func(w http.ResponseWriter, r *http.Request) {
			<-leave
			io.WriteString(w, "done")
		})
		l := newPipes()
		o.Listener, o.DrainDelay, o.ExecTimeout = l, time.Minute, time.Hour
		wd, err := watchdog.New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- wd.Run(ctx) }()
		transport := &http.Transport{DialContext: l.dial}
		client := &http.Client{Transport: transport}
		get := func(path string) (int, string) {
			res, err := client.Get("http://function" + path)
			if err != nil {
				return 0, err.Error()
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			return res.StatusCode, string(body)
		}

		answer := make(chan string, 1)
		go func() { _, body := get("/"); answer <- body }()
		synctest.Wait()
		stop()
		synctest.Wait()
		for path, want := range map[string]string{"/_/ready": "draining\n", "/_/health": "draining\n"} {
			if status, body := get(path); status != http.StatusServiceUnavailable || body != want {
				t.Errorf("%s while draining: %d %q", path, status, body)
			}
		}
		time.Sleep(2 * time.Minute) // virtual: the listener closes, the call goes on
		synctest.Wait()
		if status, body := get("/_/ready"); status != 0 {
			t.Errorf("after the drain delay somebody still listens: %d %q", status, body)
		}
		select {
		case err := <-ended:
			t.Errorf("Run returned %v with a call running", err)
		default:
		}
		close(leave)
		if body := <-answer; body != "done" {
			t.Errorf("the running call got %q", body)
		}
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v", err)
		}
		transport.CloseIdleConnections()
	})
}

func TestADrainIsBoundedByTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leave := make(chan struct{})
		o := inProcess(func(http.ResponseWriter, *http.Request) { <-leave }) // deaf to its context
		l := newPipes()
		o.Listener, o.ExecTimeout = l, time.Hour
		wd, err := watchdog.New(o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- wd.Run(ctx) }()
		transport := &http.Transport{DialContext: l.dial}
		go func() {
			if res, err := (&http.Client{Transport: transport}).Get("http://function/"); err == nil {
				res.Body.Close()
			}
		}()
		synctest.Wait()
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v", err)
		}
		close(leave)
		transport.CloseIdleConnections()
	})
}

func TestAFunctionMayTakeOverTheConnection(t *testing.T) {
	o := inProcess(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(rw, line)
		rw.Flush()
	})
	o.ExecTimeout = time.Minute
	r := start(t, o).up()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: f\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	fmt.Fprintln(conn, "hello")
	if line, err := br.ReadString('\n'); line != "hello\n" {
		t.Errorf("echoed %q, %v", line, err)
	}
}

func TestBothWaysFlowAtOnce(t *testing.T) {
	r := start(t, inProcess(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintf(w, "<%s>\n", lines.Text())
			w.(http.Flusher).Flush()
		}
	})).up()
	in, out := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "http://function/", in)
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answers := bufio.NewScanner(res.Body)
	for i := range 3 {
		fmt.Fprintln(out, i)
		if !answers.Scan() || answers.Text() != fmt.Sprintf("<%d>", i) {
			t.Fatalf("line %d came back as %q, %v", i, answers.Text(), answers.Err())
		}
	}
	out.Close()
}

func TestAnUnreadBodyHarmsNoLaterCall(t *testing.T) {
	r := start(t, inProcess(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/flush" {
			_ = http.NewResponseController(w).Flush()
		}
	})).up()
	for name, request := range map[string]string{
		"small":            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"small, flushed":   "POST /flush HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"large":            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000),
		"chunked":          "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"chunked, flushed": "POST /flush HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			var conn net.Conn
			var answers *bufio.Reader
			for i := range 50 {
				if conn == nil {
					var err error
					if conn, err = net.Dial("unix", r.socket); err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					answers = bufio.NewReader(conn)
				}
				if _, err := io.WriteString(conn, request); err != nil {
					t.Fatalf("call %d: %v", i, err)
				}
				resp, err := http.ReadResponse(answers, nil)
				if err != nil {
					t.Fatalf("call %d: %v", i, err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					t.Fatalf("call %d: %v", i, err)
				}
				if resp.Close {
					conn = nil // as the server wishes
				}
			}
		})
	}
}

func TestHTTP2WithoutTLSCarriesTrailers(t *testing.T) {
	r := start(t, inProcess(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.Copy(w, r.Body)
		w.Header().Set("X-Sum", "42")
		w.Header().Set(http.TrailerPrefix+"X-Extra", "more")
	})).up()
	for _, version := range []int{1, 2} {
		transport := &http.Transport{Protocols: new(http.Protocols), DialContext: r.client.Transport.(*http.Transport).DialContext}
		transport.Protocols.SetHTTP1(version == 1)
		transport.Protocols.SetUnencryptedHTTP2(version == 2)
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://function/", strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		transport.CloseIdleConnections()
		if err != nil || res.ProtoMajor != version || string(body) != "body" {
			t.Errorf("HTTP/%d: %q, %v", res.ProtoMajor, body, err)
		}
		if res.Trailer.Get("X-Sum") != "42" || res.Trailer.Get("X-Extra") != "more" {
			t.Errorf("HTTP/%d trailers: %v", version, res.Trailer)
		}
	}
}

func TestMetricsCountCalls(t *testing.T) {
	r := start(t, inProcess(func(http.ResponseWriter, *http.Request) {})).up()
	r.do("GET", "/", "")
	r.do("BREW", "/", "")
	text := r.do("GET", "/_/metrics", "").body
	for _, want := range []string{
		`http_requests_total{code="200",method="GET"} 1`,
		`http_requests_total{code="200",method="unknown"} 1`,
		`http_request_duration_seconds_bucket{code="200",method="GET",le="+Inf"} 1`,
		`http_request_duration_seconds_count{code="200",method="GET"} 1`,
		`http_requests_in_flight 0`,
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

func TestStaticServesFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.txt"), []byte("A"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := start(t, watchdog.Options{Mode: watchdog.Static, StaticPath: dir}).up()
	if got := r.do("GET", "/a.txt", ""); got.status != http.StatusOK || got.body != "A" {
		t.Errorf("got %d %q", got.status, got.body)
	}
	if got := r.do("GET", "/b.txt", ""); got.status != http.StatusNotFound {
		t.Errorf("a missing file: %d", got.status)
	}
}

func TestOnlyTheExpectedUserMayConnect(t *testing.T) {
	o := inProcess(func(http.ResponseWriter, *http.Request) {})
	o.PeerUID = new(os.Getuid() + 4711)
	r := start(t, o).up() // we are the same user, or root, and always let in
	if got := r.do("GET", "/", ""); got.status != http.StatusOK {
		t.Errorf("got %d", got.status)
	}

	if _, err := os.Stat("/usr/bin/python3"); err != nil || os.Getuid() != 0 {
		t.Skip("SKIPPED: it takes root, and a program that others may run, to connect as somebody else")
	}
	if err := os.Chmod(r.socket, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(r.socket), 0o755); err != nil {
		t.Fatal(err)
	}
	for uid, allowed := range map[int]bool{*o.PeerUID: true, 12345: false} {
		out, err := asUser(uid, "/usr/bin/python3", "-c", fmt.Sprintf(
			`import socket; s=socket.socket(socket.AF_UNIX); s.connect(%q); s.sendall(b"GET /_/health HTTP/1.0\r\n\r\n"); print(s.recv(12))`, r.socket))
		if got := strings.Contains(out, "HTTP/1.0 200"); got != allowed {
			t.Errorf("user %d: let in %v, want %v: %s %v", uid, got, allowed, out, err)
		}
	}
}

func TestAPeerCannotBeCheckedOnTCP(t *testing.T) {
	o := inProcess(func(http.ResponseWriter, *http.Request) {})
	o.Listen, o.PeerUID = "tcp:127.0.0.1:0", new(1)
	wd, err := watchdog.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := wd.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "listen_peer_uid") {
		t.Errorf("Run() = %v", err)
	}
}

// self is a command that runs this test binary as a child.
func self(t *testing.T, child string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), append(env, childVariable+"="+child)...)
	return cmd
}

func TestMainServesOnASocketUntilTheLifelineEnds(t *testing.T) {
	dir, err := os.MkdirTemp("", "wd")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	line, keep, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := self(t, "main", "listen=unix:"+socket, "lifeline_fd=3")
	cmd.ExtraFiles = []*os.File{line}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line.Close()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for {
		res, err := client.Get("http://function/x")
		if err != nil {
			time.Sleep(time.Millisecond)
			continue
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if string(body) != "GET /x" {
			t.Errorf("got %q", body)
		}
		break
	}
	keep.Close()
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("without its lifeline the function ended with %v", err)
	}
}

// child is mode http with this test binary as the server.
func child(t *testing.T, env ...string) watchdog.Options {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	_, port, _ := net.SplitHostPort(address)
	return watchdog.Options{
		Mode:     watchdog.HTTP,
		Process:  []string{os.Args[0]},
		Environ:  append(os.Environ(), append(env, childVariable+"=server", "PORT="+port)...),
		Upstream: &url.URL{Scheme: "http", Host: address},
	}
}

func TestAServerIsReadyWhenItListensAndCallsWaitForIt(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "go")
	r := start(t, child(t, "WAIT_FOR="+gate))
	for {
		if status, body := r.tryReady(); status != 0 {
			if status != http.StatusServiceUnavailable || body != "loading\n" {
				t.Errorf("before it listens: %d %q", status, body)
			}
			break
		}
	}
	answer := make(chan reply, 1)
	go func() { got, _ := r.try("POST", "/echo?a=1", "early", "X-Forwarded-For", "10.1.2.3:4"); answer <- got }()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	got := <-answer
	if got.status != http.StatusOK || got.body != "early" {
		t.Errorf("the early call got %d %q", got.status, got.body)
	}
	if diff := cmp.Diff("function /echo?a=1 5 [10.1.2.3:4]", got.header.Get("X-Seen")); diff != "" {
		t.Errorf("the server saw (-want +got)\n%s", diff)
	}
	if v := got.header.Get("X-OpenFaaS-Internal"); v != "" {
		t.Errorf("the server spoke as %q", v)
	}
	r.awaitOutput("listening soon")
}

func TestAServerIsStoppedAfterTheDrain(t *testing.T) {
	r := start(t, child(t)).up()
	r.stop()
	<-r.ended
	if r.err != nil {
		t.Errorf("Run() = %v", r.err)
	}
	r.awaitOutput("told to stop")
}

func TestExitZeroIsStillAnExit(t *testing.T) {
	r := start(t, child(t)).up()
	got, err := r.try("GET", "/exit", "")
	if err != nil || got.status != http.StatusBadGateway || got.header.Get("X-OpenFaaS-Internal") == "" {
		t.Errorf("the call that ended it got %d %v, %v", got.status, got.header, err)
	}
	<-r.ended
	if r.err == nil || !strings.Contains(r.err.Error(), "exit status 0") {
		t.Errorf("Run() = %v", r.err)
	}
}

func TestAServerThatHangsIsAnsweredFor(t *testing.T) {
	r := start(t, child(t)).up()
	if got := r.do("GET", "/hang", "", "X-Timeout", "5ms"); got.status != http.StatusGatewayTimeout {
		t.Errorf("no timeout configured: %d", got.status)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for _, o := range []watchdog.Options{
		{},
		{Mode: "afterburn"},
		{Mode: watchdog.InProcess},
		{Mode: watchdog.HTTP},
		{Mode: watchdog.HTTP, Process: []string{"true"}},
		{Mode: watchdog.Pool},
	} {
		if _, err := watchdog.New(o); err == nil {
			t.Errorf("New(%+v) was content", o)
		}
	}
}
