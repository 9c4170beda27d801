package watchdog_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/watchdog"
)

// A promise is something that images made for OpenFaaS's watchdogs rely on, in
// the words of its documentation: it is kept, which check shows, or it is not,
// and then differs is how the reference begins to say so.
type promise struct {
	about   string
	check   func(t *testing.T, in *images)
	differs string
}

// promises are all settings, modes, endpoints, headers, metrics and steps of the
// shutdown that of-watchdog has, and what images of the classic watchdog expect
// beside that.
var promises = []promise{
	// Variables.
	{about: "function_process wins over fprocess, is split at spaces, and sees no shell", check: checkProcess},
	{about: "mode is streaming unless set", check: checkDefaultMode},
	{about: "mode afterburn", differs: "`mode=afterburn`"},
	{about: "http_upstream_url wins over upstream_url", check: checkUpstream},
	{about: "port and the port of the metrics", check: checkPorts},
	{about: "timeouts are seconds or durations, and exec_timeout 0 is none", check: checkTimeouts},
	{about: "write_timeout 0 is fatal", differs: "`write_timeout=0`"},
	{about: "healthcheck_interval is write_timeout unless set", differs: "`healthcheck_interval` is 0"},
	{about: "content_type is forced in modes that fork", check: checkContentType},
	{about: "static_path", check: checkStatic},
	{about: "buffer_http and http_buffer_req_body", check: checkBuffer},
	{about: "max_inflight", check: checkMaxInflight},
	{about: "prefix_logs", check: checkPrefix},
	{about: "log_buffer_size", check: checkLongLines},
	{about: "log_callid", check: checkCallID},
	{about: "ready_path", check: checkReadyPath},
	{about: "suppress_lock", check: checkLock},
	{about: "jwt_auth and where tokens come from", check: checkFunctionTokens},
	{about: "--version and --run-healthcheck", check: checkFlags},
	{about: "switches are true or 1", check: checkSwitches},

	// Modes.
	{about: "http passes on method, path, query, headers and body", check: checkPassedOn},
	{about: "http carries events and upgrades", check: checkStreams},
	{about: "http answers 504 when the child takes too long", check: checkHang},
	{about: "http answers 500 when the child cannot be reached", differs: "A child that does not answer is 502"},
	{about: "http is ready before the child listens", differs: "A call that comes before the child listens waits"},
	{about: "http survives a child that answers nonsense", check: checkNonsense},
	{about: "http ends when the child does", check: checkChildExits},
	{about: "http notices a child that no longer listens", check: checkClosedPort},
	{about: "streaming sends what is printed as it is printed", check: checkStreaming},
	{about: "streaming answers 200 when the process fails", differs: "Failing processes in mode streaming are failures"},
	{about: "serializing answers 500 with the error when the process fails", check: checkSerializing},
	{about: "serializing answers 500 when the process is killed", differs: "Time is up is 504 in every mode"},
	{about: "no process outlives its call, whatever it does", check: checkProcessesEnd},
	{about: "static answers 404 for what is not there", check: checkStatic},
	{about: "inproc", check: checkInProcess},
	{about: "X-Timeout shortens a call", check: checkXTimeout},
	{about: "processes are told of the request", check: checkCGI},

	// Pages of its own.
	{about: "/_/health", check: checkHealth},
	{about: "/_/ready", check: checkReady},
	{about: "/_/ready is 429 when max_inflight is reached", differs: "A full function is ready"},
	{about: "metrics", check: checkMetrics},
	{about: "429 comes from faas-middleware", differs: "`X-OpenFaaS-Internal` is `watchdog`"},
	{about: "the access log, without kube-probe", check: checkAccessLog},

	// Shutdown.
	{about: "modes that fork serve for healthcheck_interval after SIGTERM, drain, and exit with 0", check: checkForkShutdown},
	{about: "http sends SIGTERM on at once and exits with 1", differs: "Mode http drains"},
	{about: "http ends a child that ignores SIGTERM", check: checkDeafChild},

	// The classic watchdog.
	{about: "classic: methods, types, failures and the log", check: checkClassic},
	{about: "classic: marshal_request, cgi_headers, combine_output, write_debug, debug_headers", check: checkClassicSwitches},
	{about: "classic: exec_timeout answers 408", differs: "Time is up is 504 in every mode"},
	{about: "classic: exec_timeout is off unless set", differs: "In mode classic `exec_timeout` is 30 s"},
	{about: "classic: /_/ready forks the function", differs: "In mode classic `/_/ready`"},
}

func TestWhatImagesOfOpenFaaSRelyOn(t *testing.T) {
	in := buildImages(t)
	reference, err := os.ReadFile("../docs/reference/watchdog.md")
	if err != nil {
		t.Fatal(err)
	}
	_, differences, _ := strings.Cut(string(reference), "## Where it differs from OpenFaaS's watchdogs")
	differences, _, _ = strings.Cut(differences, "\n## ")
	for _, p := range promises {
		t.Run(p.about, func(t *testing.T) {
			if p.check != nil {
				t.Parallel()
				p.check(t, in)
				return
			}
			if !strings.Contains(differences, "\n* "+p.differs) {
				t.Errorf("the reference has no difference that begins with %q", p.differs)
			}
		})
	}
}

// images are the programs in an image.
type images struct{ fwatchdog, function string }

func buildImages(t *testing.T) *images {
	t.Helper()
	dir := t.TempDir()
	in := &images{filepath.Join(dir, "fwatchdog"), filepath.Join(dir, "misbehave")}
	for program, source := range map[string]string{in.fwatchdog: "./cmd/fwatchdog", in.function: "./testdata/misbehave"} {
		if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, source).CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", source, err, out)
		}
	}
	return in
}

// A container is a running fwatchdog with ports of its own.
type container struct {
	t             *testing.T
	cmd           *exec.Cmd
	port, metrics string
	child         string // the port that a child in mode http is told to use
	client        *http.Client
	out           *output
	exited        chan struct{}
}

// run starts fwatchdog with the environment, and waits until it is ready.
func (in *images) run(t *testing.T, env ...string) *container {
	t.Helper()
	c := in.start(t, env...)
	for {
		res, err := c.client.Get(c.url("/_/ready"))
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return c
			}
		}
		select {
		case <-c.exited:
			t.Fatalf("it ended with %d before it was ready\n%s", c.cmd.ProcessState.ExitCode(), c.out)
		case <-time.After(time.Millisecond):
		}
	}
}

// start is run without the wait.
func (in *images) start(t *testing.T, env ...string) *container {
	t.Helper()
	ports := unused(t, 3)
	c := &container{
		t: t, port: ports[0], metrics: ports[1], child: ports[2], out: &output{}, exited: make(chan struct{}),
		client: &http.Client{Transport: &http.Transport{}},
	}
	c.cmd = exec.Command(in.fwatchdog)
	c.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "port=" + c.port, "metrics_port=" + c.metrics, "PORT=" + c.child, "suppress_lock=true"}, env...)
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(c.exited)
		_ = c.cmd.Wait() // ProcessState says how
	}()
	t.Cleanup(func() {
		c.client.CloseIdleConnections()
		_ = c.cmd.Process.Kill()
		<-c.exited
		if t.Failed() {
			t.Logf("it printed\n%.4000s", c.out)
		}
	})
	return c
}

func unused(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

func (c *container) url(path string) string { return "http://127.0.0.1:" + c.port + path }

// call sends one request. body nil is none.
func (c *container) call(method, path string, body io.Reader, header ...string) (reply, error) {
	req, err := http.NewRequestWithContext(c.t.Context(), method, c.url(path), body)
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	res, err := c.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(got)}, err
}

func (c *container) mustCall(method, path, body string, header ...string) reply {
	c.t.Helper()
	got, err := c.call(method, path, strings.NewReader(body), header...)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	return got
}

// expect fails the test unless the answer has the status and contains the text.
func (c *container) expect(got reply, status int, text string) {
	c.t.Helper()
	if got.status != status || !strings.Contains(got.body, text) {
		c.t.Errorf("got %d %.300q, want %d with %q", got.status, got.body, status, text)
	}
}

// prints waits until what was printed matches the expression.
func (c *container) prints(expression string) {
	c.t.Helper()
	want := regexp.MustCompile(expression)
	for !want.MatchString(c.out.String()) {
		select {
		case <-c.exited:
			if !want.MatchString(c.out.String()) {
				c.t.Fatalf("it ended without printing %s", expression)
			}
		case <-c.t.Context().Done():
			c.t.Fatalf("it never printed %s", expression)
		case <-time.After(time.Millisecond):
		}
	}
}

// exit waits for the end and returns the exit status.
func (c *container) exit() int {
	<-c.exited
	return c.cmd.ProcessState.ExitCode()
}

func (c *container) terminate() { _ = c.cmd.Process.Signal(syscall.SIGTERM) }

// begin sends a request that will be answered later, and returns when the
// watchdog has it.
func (c *container) begin(path string, header ...string) (answer <-chan reply) {
	c.t.Helper()
	before := c.running()
	answers := make(chan reply, 1)
	go func() {
		got, err := c.call("GET", path, nil, header...)
		if err != nil {
			got.body += err.Error()
		}
		answers <- got
	}()
	for c.running() == before {
		time.Sleep(time.Millisecond)
	}
	return answers
}

func (c *container) running() int {
	c.t.Helper()
	n, err := strconv.Atoi(c.metric("http_requests_in_flight"))
	if err != nil {
		c.t.Fatal(err)
	}
	return n
}

// metric is the value of a sample, or empty.
func (c *container) metric(sample string) string {
	c.t.Helper()
	res, err := c.client.Get("http://127.0.0.1:" + c.metrics + "/metrics")
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), sample+" "); ok {
			return value
		}
	}
	return ""
}

// server and forks are the environments of an image whose function is a server,
// and of one that does something in a process for each call.
func (in *images) server(more ...string) []string {
	return append([]string{"mode=http", "fprocess=" + in.function + " serve"}, more...)
}

func (in *images) forks(mode, what string, more ...string) []string {
	return append([]string{"mode=" + mode, "fprocess=" + in.function + " " + what}, more...)
}

func checkProcess(t *testing.T, in *images) {
	c := in.run(t, "fprocess=/nowhere", "function_process="+in.function+` arguments $HOME a;b "c d"`)
	var got []string
	if err := json.Unmarshal([]byte(c.mustCall("GET", "/", "").body), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"$HOME", "a;b", `"c`, `d"`}, got); diff != "" {
		t.Errorf("arguments (-want +got)\n%s", diff)
	}
	c = in.start(t, "mode=streaming")
	if c.exit() == 0 {
		t.Error("without a process it is content")
	}
	c.prints("fprocess")
}

func checkDefaultMode(t *testing.T, in *images) {
	c := in.run(t, "fprocess="+in.function+" cat")
	c.expect(c.mustCall("POST", "/", "hello"), http.StatusOK, "hello")
	if c.metric("fork_processes_started_total") != "1" {
		t.Error("no process was started for the call")
	}
}

func checkUpstream(t *testing.T, in *images) {
	port := unused(t, 1)[0]
	c := in.run(t, in.server("PORT="+port, "upstream_url=http://127.0.0.1:1", "http_upstream_url=http://127.0.0.1:"+port)...)
	c.expect(c.mustCall("GET", "/", ""), http.StatusOK, `"Method":"GET"`)
}

func checkPorts(t *testing.T, in *images) {
	c := in.run(t, in.forks("streaming", "cat")...)
	if got := c.metric("http_requests_in_flight"); got != "0" {
		t.Errorf("http_requests_in_flight %q", got)
	}
	for variable, want := range map[string]string{"": "tcp::8080", "port=1234": "tcp::1234"} {
		o, err := watchdog.FromEnviron([]string{variable})
		if err != nil || o.Listen != want || o.Metrics != ":8081" {
			t.Errorf("with %q it listens at %q and %q, %v", variable, o.Listen, o.Metrics, err)
		}
	}
}

func checkTimeouts(t *testing.T, in *images) {
	for _, variable := range []string{"exec_timeout=100ms", "write_timeout=100ms", "exec_timeout=1"} {
		c := in.run(t, in.server(variable)...)
		got := c.mustCall("GET", "/hang", "")
		c.expect(got, http.StatusGatewayTimeout, "")
		if got.header.Get("X-OpenFaaS-Internal") == "" {
			t.Errorf("%s: nobody says that it was the platform", variable)
		}
	}
	c := in.run(t, in.server("exec_timeout=0", "write_timeout=0")...)
	c.expect(c.mustCall("GET", "/slow?50ms", ""), http.StatusOK, "done")

	c = in.run(t, in.forks("serializing", "cat", "read_timeout=100ms")...)
	unfinished, more := io.Pipe()
	defer more.Close()
	if got, err := c.call("POST", "/", unfinished); err == nil {
		c.expect(got, http.StatusBadRequest, "")
	}
}

func checkContentType(t *testing.T, in *images) {
	for _, mode := range []string{"streaming", "serializing"} {
		for variable, want := range map[string]string{"": "application/octet-stream", "content_type=text/x-mine": "text/x-mine"} {
			c := in.run(t, in.forks(mode, "cat", variable)...)
			if got := c.mustCall("POST", "/", "{}", "Content-Type", "application/json").header.Get("Content-Type"); got != want {
				t.Errorf("%s, %q: %q", mode, variable, got)
			}
		}
	}
}

func checkStatic(t *testing.T, in *images) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.html"), []byte("<p>a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := in.run(t, "mode=static", "static_path="+dir)
	c.expect(c.mustCall("GET", "/a.html", ""), http.StatusOK, "<p>a file")
	c.expect(c.mustCall("GET", "/b.html", ""), http.StatusNotFound, "")
	o, err := watchdog.FromEnviron([]string{"mode=static"})
	if err != nil || o.StaticPath != "/home/app/public" {
		t.Errorf("unset, static_path is %q, %v", o.StaticPath, err)
	}
}

func checkBuffer(t *testing.T, in *images) {
	for variable, length := range map[string]int64{"": -1, "buffer_http=true": 5, "http_buffer_req_body=true": 5} {
		c := in.run(t, in.server(variable)...)
		got, err := c.call("POST", "/", io.MultiReader(strings.NewReader("he"), strings.NewReader("llo")))
		if err != nil {
			t.Fatal(err)
		}
		if s := c.seen(got); s.Length != length || s.Body != "hello" {
			t.Errorf("%q: the child saw %q of length %d, want %d", variable, s.Body, s.Length, length)
		}
	}
}

// seen is what the child in mode http says about a request.
func (c *container) seen(got reply) (s struct {
	Method, URI, Host string
	Header            http.Header
	Length            int64
	Body              string
}) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(got.body), &s); err != nil {
		c.t.Fatalf("%d %q: %v", got.status, got.body, err)
	}
	return s
}

func checkMaxInflight(t *testing.T, in *images) {
	for _, mode := range [][]string{in.server(), in.forks("streaming", "hang"), in.forks("serializing", "hang")} {
		c := in.run(t, append(mode, "max_inflight=1")...)
		first := c.begin("/hang", "X-Timeout", "2s")
		got := c.mustCall("GET", "/", "")
		c.expect(got, http.StatusTooManyRequests, "")
		if want := "Concurrent request limit exceeded. Max concurrent requests: 1\n"; got.body != want || got.header.Get("X-OpenFaaS-Internal") == "" {
			t.Errorf("%q, %v", got.body, got.header)
		}
		<-first
	}
}

func checkPrefix(t *testing.T, in *images) {
	c := in.run(t, in.server()...)
	c.mustCall("GET", "/print", "")
	c.prints(`(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d stdout: a line$`)
	c.prints(`(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d stderr: another line$`)
	c = in.run(t, in.server("prefix_logs=false")...)
	c.mustCall("GET", "/print", "")
	c.prints(`(?m)^a line$`)
	c.prints(`(?m)^another line$`)
	c = in.run(t, in.forks("streaming", "no-newline")...)
	c.expect(c.mustCall("GET", "/", ""), http.StatusOK, "answer")
	c.prints(`(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d stderr: last words$`)
}

func checkLongLines(t *testing.T, in *images) {
	c := in.run(t, in.server("log_buffer_size=100", "prefix_logs=false")...)
	c.mustCall("GET", "/print", "")
	c.prints(`(?m)^x{100}$`)
	c = in.run(t, in.server("log_buffer_size=-1", "prefix_logs=false")...)
	c.mustCall("GET", "/print", "")
	c.prints(`(?m)^x{300}$`)
	c.terminate()
	c.exit()
	c.prints(`(?m)^no newline`)
}

func checkCallID(t *testing.T, in *images) {
	c := in.run(t, in.server("log_callid=true")...)
	c.mustCall("GET", "/teapot", "", "X-Call-Id", "the-call")
	c.prints(`(?m)GET /teapot - 418 I'm a teapot - ContentLength: 0B \(\d\.\d{4}s\) \[the-call\]$`)
}

func checkReadyPath(t *testing.T, in *images) {
	c := in.start(t, in.server("ready_path=/teapot")...)
	for {
		got, err := c.call("GET", "/_/ready", nil)
		if err == nil && got.status == http.StatusTeapot {
			break
		}
		if err == nil && got.status != http.StatusServiceUnavailable {
			t.Fatalf("/_/ready is %d %q", got.status, got.body)
		}
		time.Sleep(time.Millisecond)
	}
	c.expect(c.mustCall("GET", "/_/health", ""), http.StatusOK, "OK")
}

func checkFunctionTokens(t *testing.T, _ *images) {
	for more, want := range map[string]*watchdog.FunctionTokens{
		"jwt_auth=false":                    nil,
		"jwt_auth=true":                     {Gateway: "http://gateway.openfaas:8080", Name: "echo", Namespace: "acme"},
		"jwt_auth=true jwt_auth_local=true": {Gateway: "http://127.0.0.1:8000", Name: "echo", Namespace: "acme"},
		"jwt_auth=1 jwt_auth_gateway=https://g.example jwt_auth_local=true": {Gateway: "https://g.example", Name: "echo", Namespace: "acme"},
	} {
		o, err := watchdog.FromEnviron(append(strings.Fields(more), "OPENFAAS_NAME=echo", "OPENFAAS_NAMESPACE=acme"))
		if diff := cmp.Diff(want, o.FunctionTokens); err != nil || diff != "" {
			t.Errorf("with %q: %v\n%s", more, err, diff)
		}
	}
}

func checkLock(t *testing.T, _ *images) {
	for variable, want := range map[string]string{"": "/tmp/.lock", "suppress_lock=true": "", "suppress_lock=1": ""} {
		if o, err := watchdog.FromEnviron([]string{variable}); err != nil || o.LockFile != want {
			t.Errorf("with %q the lock is %q, %v", variable, o.LockFile, err)
		}
	}
	lock := filepath.Join(t.TempDir(), "lock")
	r := start(t, watchdog.Options{Mode: watchdog.Static, StaticPath: t.TempDir(), LockFile: lock}).up()
	if got := r.do("GET", "/_/health", ""); got.status != http.StatusOK {
		t.Errorf("with the lock: %d", got.status)
	}
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	if got := r.do("GET", "/_/health", ""); got.status != http.StatusServiceUnavailable {
		t.Errorf("without the lock: %d", got.status)
	}
}

func checkFlags(t *testing.T, in *images) {
	if out, err := exec.CommandContext(t.Context(), in.fwatchdog, "--version").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "fwatchdog ") {
		t.Errorf("--version: %q, %v", out, err)
	}
	c := in.run(t, in.forks("streaming", "cat")...)
	healthcheck := func() error {
		cmd := exec.CommandContext(t.Context(), in.fwatchdog, "--run-healthcheck")
		cmd.Env = c.cmd.Env
		return cmd.Run()
	}
	if err := healthcheck(); err != nil {
		t.Errorf("--run-healthcheck of a healthy one: %v", err)
	}
	c.terminate()
	c.exit()
	if exit, ok := errors.AsType[*exec.ExitError](healthcheck()); !ok || exit.ExitCode() != 1 {
		t.Errorf("--run-healthcheck of one that has ended: %v", exit)
	}
}

func checkSwitches(t *testing.T, _ *images) {
	for value, want := range map[string]bool{"true": true, "1": true, "false": false, "0": false, "": true} {
		if o, err := watchdog.FromEnviron([]string{"prefix_logs=" + value}); err != nil || o.PrefixLogs != want {
			t.Errorf("prefix_logs=%s is %v, %v", value, o.PrefixLogs, err)
		}
	}
}

func checkPassedOn(t *testing.T, in *images) {
	c := in.run(t, in.server()...)
	got := c.mustCall("PATCH", "/a%2Fb//c?q=1&q=2;3", "the body", "X-Mine", "1", "X-Mine", "2", "X-Forwarded-For", "10.1.2.3", "Authorization", "Bearer x")
	s := c.seen(got)
	header := map[string][]string{}
	for _, name := range []string{"X-Mine", "X-Forwarded-For", "Authorization"} {
		header[name] = s.Header[name]
	}
	want := map[string][]string{"X-Mine": {"1", "2"}, "X-Forwarded-For": {"10.1.2.3"}, "Authorization": {"Bearer x"}}
	if diff := cmp.Diff([]any{"PATCH", "/a%2Fb//c?q=1&q=2;3", "127.0.0.1:" + c.port, "the body", want}, []any{s.Method, s.URI, s.Host, s.Body, header}); diff != "" {
		t.Errorf("the child saw (-want +got)\n%s", diff)
	}
	if seconds, err := strconv.ParseFloat(got.header.Get("X-Duration-Seconds"), 64); err != nil || seconds <= 0 {
		t.Errorf("X-Duration-Seconds is %q", got.header.Get("X-Duration-Seconds"))
	}
	if got.header.Get("X-OpenFaaS-Internal") != "" {
		t.Error("the child speaks in the platform's name")
	}
	c.expect(c.mustCall("GET", "/teapot", ""), http.StatusTeapot, "")
}

func checkStreams(t *testing.T, in *images) {
	c := in.run(t, in.server()...)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	req, err := http.NewRequestWithContext(ctx, "GET", c.url("/events"), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || line != "data: 1\n" {
		t.Errorf("the first event is %q, %v", line, err)
	}
	leave()

	conn, err := net.Dial("tcp", "127.0.0.1:"+c.port)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /upgrade HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n")
	r := bufio.NewReader(conn)
	if answer, err := http.ReadResponse(r, nil); err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the upgrade: %v, %v", answer, err)
	}
	fmt.Fprintf(conn, "echo\n")
	if line, err := r.ReadString('\n'); err != nil || line != "echo\n" {
		t.Errorf("through the upgraded connection came %q, %v", line, err)
	}
}

func checkHang(t *testing.T, in *images) {
	c := in.run(t, in.server("exec_timeout=50ms")...)
	got := c.mustCall("GET", "/hang", "")
	c.expect(got, http.StatusGatewayTimeout, "")
	if got.header.Get("X-OpenFaaS-Internal") == "" {
		t.Errorf("headers: %v", got.header)
	}
	if got, err := c.call("GET", "/endless", nil); err == nil && got.status == http.StatusOK {
		t.Errorf("an endless answer ended well, with %d bytes", len(got.body))
	}
	for c.mustCall("GET", "/", "").status != http.StatusOK { // with so little time it may take more than one try
	}
}

func checkNonsense(t *testing.T, in *images) {
	c := in.run(t, in.server()...)
	for _, path := range []string{"/garbage", "/nothing", "/half-a-head", "/huge-header"} {
		got := c.mustCall("POST", path, "x")
		c.expect(got, http.StatusBadGateway, "")
		if got.header.Get("X-OpenFaaS-Internal") == "" {
			t.Errorf("%s: headers %v", path, got.header)
		}
	}
	for _, path := range []string{"/half-a-body", "/half-a-chunk"} {
		if got, err := c.call("GET", path, nil); err == nil {
			t.Errorf("%s: half an answer was taken for a whole one: %d %q", path, got.status, got.body)
		}
	}
	c.expect(c.mustCall("GET", "/", ""), http.StatusOK, "GET")
	c.expect(c.mustCall("GET", "/_/ready", ""), http.StatusOK, "")
}

func checkChildExits(t *testing.T, in *images) {
	for _, path := range []string{"/exit0", "/exit1", "/orphan-and-exit"} {
		c := in.run(t, in.server()...)
		if got, err := c.call("GET", path, nil); err == nil {
			c.expect(got, http.StatusBadGateway, "")
		}
		if status := c.exit(); status != 1 {
			t.Errorf("%s: it exits with %d", path, status)
		}
		c.prints("exit status")
	}
	c := in.start(t, "mode=http", "fprocess="+in.function+" fail-in-silence")
	if status := c.exit(); status != 1 {
		t.Errorf("a child that never listens: it exits with %d", status)
	}
}

func checkClosedPort(t *testing.T, in *images) {
	c := in.run(t, in.server()...)
	c.mustCall("GET", "/close-port", "")
	c.expect(c.mustCall("GET", "/", ""), http.StatusBadGateway, "")
	c.expect(c.mustCall("GET", "/_/ready", ""), http.StatusServiceUnavailable, "")
	c.expect(c.mustCall("GET", "/_/health", ""), http.StatusOK, "OK")
}

func checkStreaming(t *testing.T, in *images) {
	c := in.run(t, in.forks("streaming", "cat")...)
	in1, out1 := io.Pipe()
	req, err := http.NewRequestWithContext(t.Context(), "POST", c.url("/"), in1)
	if err != nil {
		t.Fatal(err)
	}
	go out1.Write([]byte("early\n"))
	res, err := c.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	r := bufio.NewReader(res.Body)
	if line, err := r.ReadString('\n'); err != nil || line != "early\n" {
		t.Errorf("before the request's end: %q, %v", line, err)
	}
	out1.Close()
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		t.Errorf("the rest: %q, %v", rest, err)
	}

	// Nobody can wait for the end of this one.
	c = in.run(t, in.forks("streaming", "endless", "exec_timeout=1s")...)
	if got, err := c.call("GET", "/", nil); err == nil || len(got.body) == 0 {
		t.Errorf("%d bytes, %v", len(got.body), err)
	}
	c = in.run(t, in.forks("streaming", "fail-in-silence")...)
	c.expect(c.mustCall("GET", "/", ""), http.StatusInternalServerError, "exit status 3")
}

func checkSerializing(t *testing.T, in *images) {
	c := in.run(t, in.forks("serializing", "cat")...)
	got := c.mustCall("POST", "/", "hello")
	c.expect(got, http.StatusOK, "hello")
	if got.header.Get("Content-Length") != "5" || got.header.Get("X-Duration-Seconds") == "" {
		t.Errorf("headers: %v", got.header)
	}
	c = in.run(t, in.forks("serializing", "fail")...)
	c.expect(c.mustCall("GET", "/", ""), http.StatusInternalServerError, "exit status 1")
	c.prints("and then it failed")
	c = in.run(t, in.forks("serializing", "endless", "max_buffer=1Mi")...)
	c.expect(c.mustCall("GET", "/", ""), http.StatusInternalServerError, "max_buffer")
}

func checkProcessesEnd(t *testing.T, in *images) {
	for _, mode := range []string{"streaming", "serializing", "classic"} {
		for _, what := range []string{"hang", "deaf", "endless"} {
			c := in.run(t, in.forks(mode, what, "exec_timeout=100ms")...)
			_, _ = c.call("GET", "/", nil) // how it fails is tested elsewhere
			for c.metric("fork_processes") != "0" {
				time.Sleep(time.Millisecond)
			}
			if c.metric("fork_processes_failed_total") != "1" {
				t.Errorf("%s, %s: the failure is not counted", mode, what)
			}
		}
		c := in.run(t, in.forks(mode, "orphan")...)
		c.expect(c.mustCall("GET", "/", ""), http.StatusOK, "answer")
		c = in.run(t, in.forks(mode, "no-newline")...)
		c.expect(c.mustCall("GET", "/", ""), http.StatusOK, "answer")
	}
}

func checkInProcess(t *testing.T, _ *images) {
	r := start(t, watchdog.Options{Mode: watchdog.InProcess, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Openfaas-Internal", "me")
		io.WriteString(w, "in this process")
	})}).up()
	got := r.do("GET", "/", "")
	if got.status != http.StatusOK || got.body != "in this process" || got.header.Get("X-OpenFaaS-Internal") != "" || got.header.Get("X-Duration-Seconds") == "" {
		t.Errorf("got %+v", got)
	}
}

func checkXTimeout(t *testing.T, in *images) {
	c := in.run(t, in.server("exec_timeout=1m")...)
	c.expect(c.mustCall("GET", "/hang", "", "X-Timeout", "50ms"), http.StatusGatewayTimeout, "50ms")
	c.expect(c.mustCall("GET", "/slow?50ms", "", "X-Timeout", "nonsense"), http.StatusOK, "done")
	c = in.run(t, in.server("exec_timeout=50ms")...)
	c.expect(c.mustCall("GET", "/hang", "", "X-Timeout", "1h"), http.StatusGatewayTimeout, "50ms")
}

func checkCGI(t *testing.T, in *images) {
	for _, mode := range []string{"streaming", "serializing", "classic"} {
		c := in.run(t, in.forks(mode, "environment")...)
		got := c.mustCall("POST", "/some%20path?testing=1", "body", "X-My-Header", "a", "X-My-Header", "b", "Proxy", "http://evil", "Content-Type", "text/plain")
		lines := map[string]bool{}
		for line := range strings.Lines(got.body) {
			lines[strings.TrimSuffix(line, "\n")] = true
		}
		for _, want := range []string{
			"Http_Method=POST", "Http_Query=testing=1", "Http_Path=/some path", "Http_X_My_Header=a, b", "Http_Content_Type=text/plain",
			"Http_ContentLength=4", "Http_Content_Length=4", "Http_Host=127.0.0.1:" + c.port,
		} {
			if !lines[want] {
				t.Errorf("%s: no %s in\n%s", mode, want, got.body)
			}
		}
		if strings.Contains(got.body, "evil") {
			t.Errorf("%s: a caller has set the proxy of the function", mode)
		}
		chunked, err := c.call("POST", "/", io.MultiReader(strings.NewReader("a")))
		if err != nil || !strings.Contains(chunked.body, "Http_Transfer_Encoding=chunked\n") {
			t.Errorf("%s: %q, %v", mode, chunked.body, err)
		}
	}
}

func checkHealth(t *testing.T, in *images) {
	c := in.run(t, in.forks("streaming", "cat", "healthcheck_interval=1m")...)
	if got := c.mustCall("GET", "/_/health", ""); got.status != http.StatusOK || got.body != "OK" {
		t.Errorf("%d %q", got.status, got.body)
	}
	for _, method := range []string{"HEAD", "POST", "DELETE"} {
		if got := c.mustCall(method, "/_/health", ""); got.status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d", method, got.status)
		}
	}
	c.terminate()
	for c.mustCall("GET", "/_/health", "").status != http.StatusServiceUnavailable {
		time.Sleep(time.Millisecond)
	}
	c.expect(c.mustCall("POST", "/", "still"), http.StatusOK, "still")
}

func checkReady(t *testing.T, in *images) {
	c := in.run(t, in.forks("streaming", "cat", "healthcheck_interval=1m")...)
	c.expect(c.mustCall("GET", "/_/ready", ""), http.StatusOK, "")
	if got := c.mustCall("HEAD", "/_/ready", ""); got.status != http.StatusMethodNotAllowed {
		t.Errorf("HEAD: %d", got.status)
	}
	c.terminate()
	for c.mustCall("GET", "/_/ready", "").status != http.StatusServiceUnavailable {
		time.Sleep(time.Millisecond)
	}
}

func checkMetrics(t *testing.T, in *images) {
	c := in.run(t, in.server()...)
	running := c.begin("/hang", "X-Timeout", "1s")
	if n := c.running(); n != 1 {
		t.Errorf("in flight: %d", n)
	}
	<-running
	c.mustCall("GET", "/teapot", "")
	c.mustCall("BREW", "/teapot", "")
	for sample, want := range map[string]string{
		`http_requests_total{code="418",method="GET"}`:                            "1",
		`http_requests_total{code="504",method="GET"}`:                            "1",
		`http_requests_total{code="418",method="unknown"}`:                        "1",
		`http_request_duration_seconds_count{code="418",method="GET"}`:            "1",
		`http_request_duration_seconds_bucket{code="418",method="GET",le="+Inf"}`: "1",
		`http_request_duration_seconds_bucket{code="504",method="GET",le="0.5"}`:  "0",
		`http_requests_in_flight`:                                                 "0",
	} {
		if got := c.metric(sample); got != want {
			t.Errorf("%s %s, want %s", sample, got, want)
		}
	}
}

func checkAccessLog(t *testing.T, in *images) {
	c := in.run(t, in.server()...)
	c.mustCall("GET", "/probed", "", "User-Agent", "kube-probe/1.31")
	c.mustCall("GET", "/slow?1ms", "")
	c.prints(`(?m)^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d GET /slow\?1ms - 200 OK - ContentLength: 4B \(\d\.\d{4}s\)$`)
	if strings.Contains(c.out.String(), "/probed") {
		t.Error("a probe is in the log")
	}
}

func checkForkShutdown(t *testing.T, in *images) {
	for _, mode := range []string{"streaming", "serializing", "classic"} {
		c := in.run(t, in.forks(mode, "cat", "healthcheck_interval=200ms", "write_timeout=30s")...)
		in1, out1 := io.Pipe()
		answer := make(chan reply, 1)
		go func() {
			got, _ := c.call("POST", "/", in1)
			answer <- got
		}()
		for c.running() == 0 {
			time.Sleep(time.Millisecond)
		}
		c.terminate()
		for c.mustCall("GET", "/_/health", "").status != http.StatusServiceUnavailable {
			time.Sleep(time.Millisecond)
		}
		c.expect(c.mustCall("POST", "/", "late"), http.StatusOK, "late")
		io.WriteString(out1, "to the end")
		out1.Close()
		c.expect(<-answer, http.StatusOK, "to the end")
		c.client.CloseIdleConnections()
		if status := c.exit(); status != 0 {
			t.Errorf("%s: it exits with %d", mode, status)
		}
	}
}

func checkDeafChild(t *testing.T, in *images) {
	c := in.run(t, in.server("DEAF=1")...)
	answer := c.begin("/slow?300ms")
	c.terminate()
	c.expect(<-answer, http.StatusOK, "done")
	if status := c.exit(); status != 0 {
		t.Errorf("it exits with %d", status)
	}
	c.prints("told to stop")
	if conn, err := net.Dial("tcp", "127.0.0.1:"+c.child); err == nil {
		conn.Close()
		t.Error("the child is still there")
	}
}

func checkClassic(t *testing.T, in *images) {
	c := in.run(t, in.forks("classic", "cat")...)
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
		got := c.mustCall(method, "/", "{}", "Content-Type", "application/json")
		c.expect(got, http.StatusOK, "{}")
		if kind := got.header.Get("Content-Type"); kind != "application/json" {
			t.Errorf("%s: the answer's type is %q", method, kind)
		}
	}
	c.expect(c.mustCall("OPTIONS", "/", ""), http.StatusMethodNotAllowed, "")
	c.prints(`Forking fprocess\.`)
	c.prints(`Wrote 2 Bytes - Duration: \d\.\d+s`)
	c = in.run(t, in.forks("classic", "fail")...)
	if got := c.mustCall("GET", "/", ""); got.status != http.StatusInternalServerError || got.body != "exit status 1\nthis much was done\nand then it failed\n" {
		t.Errorf("a failure: %d %q", got.status, got.body)
	}
}

func checkClassicSwitches(t *testing.T, in *images) {
	c := in.run(t, in.forks("classic", "cat", "marshal_request=true", "write_debug=true", "debug_headers=true")...)
	var document struct {
		Header http.Header `json:"header"`
		Body   struct{ Raw string }
	}
	got := c.mustCall("POST", "/", "body", "X-Mine", "1")
	if err := json.Unmarshal([]byte(got.body), &document); err != nil {
		t.Fatalf("%q: %v", got.body, err)
	}
	if document.Body.Raw != base64.StdEncoding.EncodeToString([]byte("body")) || document.Header.Get("X-Mine") != "1" {
		t.Errorf("the process read %s", got.body)
	}
	c.prints("Out: {")
	c.prints("X-Mine: 1")
	c = in.run(t, in.forks("classic", "environment", "cgi_headers=false")...)
	if got := c.mustCall("GET", "/", ""); strings.Contains(got.body, "Http_") {
		t.Errorf("without cgi_headers: %s", got.body)
	}
	c = in.run(t, in.forks("classic", "no-newline", "combine_output=false")...)
	if got := c.mustCall("GET", "/", ""); got.body != "answer" {
		t.Errorf("without combine_output: %q", got.body)
	}
	c.prints("stderr: last words")
}
