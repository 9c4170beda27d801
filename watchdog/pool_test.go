package watchdog_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/watchdog"
)

// python is the interpreter itself and not a launcher that looks for one.
var python = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("python3", "-c", "import sys; print(sys.executable)").Output()
	return strings.TrimSpace(string(out)), err
})

// pool is mode pool with the given handler.py.
func pool(t testing.TB, handler string, env ...string) watchdog.Options {
	t.Helper()
	interpreter, err := python()
	if err != nil {
		t.Fatalf("these tests need python3: %v", err)
	}
	dir := filepath.Join(t.TempDir(), "function")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "handler.py"), []byte(handler), 0o600); err != nil {
		t.Fatal(err)
	}
	library, err := filepath.Abs("../templates/python")
	if err != nil {
		t.Fatal(err)
	}
	return watchdog.Options{
		Mode:    watchdog.Pool,
		Process: []string{interpreter, "-m", "graphene_function"},
		Environ: append(os.Environ(), append(env, "PYTHONPATH="+library, "PYTHONDONTWRITEBYTECODE=1")...),
		Workers: watchdog.WorkerOptions{HandlerDir: dir, Max: 2},
	}
}

const echo = `
import json, os
def handle(event, context):
    return {"statusCode": 201, "headers": {"X-Pid": os.getpid(), "X-OpenFaaS-Internal": "liar", "X-Many": ["a", "b"]}, "body": {
        "body": event.body.decode(), "method": event.method, "path": event.path, "query": event.query.to_dict(flat=False),
        "x": event.headers["x-ä" if False else "X-Test"], "host": event.headers.get("host"), "call": context.call_id, "left": context.remaining() is not None}}
`

func TestAPoolAnswersAsTheHandlerSays(t *testing.T) {
	o := pool(t, echo)
	o.ExecTimeout = time.Minute
	r := start(t, o).up()
	got := r.do("PUT", "/a%20b/ü?q=1&q=2", "hello", "X-Test", "caf\xe9 \"quoted\"", "X-Call-Id", "c-1")
	want := `{"body": "hello", "method": "PUT", "path": "/a b/ü", "query": {"q": ["1", "2"]}, "x": "café \"quoted\"", "host": "function", "call": "c-1", "left": true}` + "\n"
	if diff := cmp.Diff(want, got.body); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got.status != http.StatusCreated || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("got %d %v", got.status, got.header)
	}
	if diff := cmp.Diff([]string{"a", "b"}, got.header.Values("X-Many")); diff != "" {
		t.Errorf("X-Many (-want +got)\n%s", diff)
	}
	if v := got.header.Get("X-OpenFaaS-Internal"); v != "" {
		t.Errorf("the handler spoke as %q", v)
	}
	if !strings.HasPrefix(got.header.Get("Server-Timing"), "handler;dur=") {
		t.Errorf("Server-Timing: %q", got.header.Values("Server-Timing"))
	}
}

func TestCallsBeforeTheLoadWaitForIt(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	r := start(t, pool(t, `
import os, time
while not os.path.exists(os.environ["GATE"]): time.sleep(0.001)
def handle(event, context): return "here"
`, "GATE="+gate))
	for {
		if status, body := r.tryReady(); status != 0 {
			if status != http.StatusServiceUnavailable || body != "loading\n" {
				t.Errorf("while it loads: %d %q", status, body)
			}
			break
		}
	}
	answer := make(chan reply, 1)
	go func() { got, _ := r.try("GET", "/", "", "X-Timeout", "1h"); answer <- got }()
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := <-answer; got.status != http.StatusOK || got.body != "here" {
		t.Errorf("got %d %q", got.status, got.body)
	} else if timing := got.header.Values("Server-Timing"); !strings.HasPrefix(timing[0], "load;dur=") {
		t.Errorf("Server-Timing: %q", timing)
	}
}

func TestEveryContractIsServed(t *testing.T) {
	tests := map[string]struct{ handler, style, want string }{
		"classic":  {"def handle(req): return req.upper()", "", "HELLO"},
		"raw":      {"def handle(req): return req[::-1]", "classic", "olleh"},
		"http":     {"def handle(event, context): return event.body + b'!'", "", "hello!"},
		"model":    {"def load(context): return ['m']\ndef handle(model, event, context): return model[0] + event.body.decode()", "model", "mhello"},
		"async":    {"import asyncio\nasync def handle(event, context):\n    await asyncio.sleep(0)\n    return event.body", "", "hello"},
		"relative": {"from function import handler as me\nfrom . import handler as I\nassert me is I\ndef handle(event, context): return 'ok'", "http", "ok"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := pool(t, test.handler)
			o.Workers.Style = test.style
			r := start(t, o).up()
			if got := r.do("POST", "/", "hello"); got.status != http.StatusOK || got.body != test.want {
				t.Errorf("got %d %q", got.status, got.body)
			}
		})
	}
}

func TestAFunctionThatCannotLoadSaysWhyAndEnds(t *testing.T) {
	tests := map[string]struct{ handler, style, want string }{
		"syntax error":   {"def handle(event, context)\n    return 1", "", "SyntaxError: expected ':'"},
		"import error":   {"import not_installed\ndef handle(req): return req", "", "ModuleNotFoundError: No module named 'not_installed'"},
		"failing load":   {"def load(context): raise ValueError('bad model')\ndef handle(model, event, context): pass", "", "ValueError: bad model"},
		"no handle":      {"x = 1", "", "handler.py defines no function handle"},
		"no load":        {"def handle(m, e, c): pass", "", "handler.py defines no function load(context), which returns the model"},
		"wrong contract": {"def handle(a, b, c, d): pass", "", "handle takes 4 arguments"},
		"exit at import": {"import os; os._exit(7)", "", "ended while the function was loading: exit status 7"},
		"sys.exit":       {"import sys; sys.exit('not today')", "", "SystemExit: not today"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, pool(t, test.handler))
			var reason string
			for {
				if status, body := r.tryReady(); status == http.StatusServiceUnavailable && strings.HasPrefix(body, "failed: ") {
					reason = body
					break
				}
			}
			if !strings.Contains(reason, test.want) || strings.Count(reason, "\n") != 1 {
				t.Errorf("ready says %q", reason)
			}
			<-r.ended
			if r.err == nil || !strings.Contains(r.err.Error(), test.want) {
				t.Errorf("Run() = %v", r.err)
			}
		})
	}
}

func TestALoadThatHangsSaysWhere(t *testing.T) {
	o := pool(t, "import time\ndef here(): time.sleep(1000)\nhere()")
	o.Workers.LoadTimeout = 2 * time.Second // enough for the interpreter to start on a busy machine
	r := start(t, o)
	<-r.ended
	if r.err == nil || !strings.Contains(r.err.Error(), "load_timeout") {
		t.Errorf("Run() = %v", r.err)
	}
	r.awaitOutput("in here")
}

func TestAnExceptionIsTheFunctionsFault(t *testing.T) {
	r := start(t, pool(t, "def handle(event, context): return {}['secret detail']")).up()
	got := r.do("GET", "/", "")
	if got.status != http.StatusInternalServerError || got.header.Get("X-OpenFaaS-Internal") != "" {
		t.Errorf("got %d %v", got.status, got.header)
	}
	if got.body != "the function raised KeyError; its log says more\n" {
		t.Errorf("got %q", got.body)
	}
	r.awaitOutput("KeyError: 'secret detail'")
}

// misbehaving is a function that does what its path says.
const misbehaving = `
import ctypes, os, sys, time
def handle(event, context):
    what = event.path[1:]
    if what == "exit": os._exit(3)
    if what == "sysexit": sys.exit(4)
    if what == "segfault": ctypes.string_at(0)
    if what == "hang":
        while True: pass
    if what == "sleep": time.sleep(1000)
    if what == "print": print("x" * 5_000_000)
    if what == "status": return {"statusCode": 42}
    if what == "header": return {"headers": {"X": "a\r\nInjected: b"}, "body": ""}
    if what == "unserializable": return {"body": {"x": object()}}
    return str(os.getpid())
`

func TestACrashFailsOneCallOnly(t *testing.T) {
	for what, want := range map[string]string{
		"exit":     "the function's process ended during the call: exit status 3\n",
		"segfault": "the function's process ended during the call: signal: Segmentation fault\n",
		"sysexit":  "the function raised SystemExit; its log says more\n",
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := start(t, pool(t, misbehaving)).up()
			got := r.do("GET", "/"+what, "")
			if got.status != http.StatusInternalServerError || got.body != want || got.header.Get("X-OpenFaaS-Internal") != "" {
				t.Errorf("got %d %q %v", got.status, got.body, got.header)
			}
			if got := r.do("GET", "/", ""); got.status != http.StatusOK {
				t.Errorf("the next call got %d %q", got.status, got.body)
			}
		})
	}
}

func TestATimeoutEndsOneWorkerOnlyAndSaysWhereItWas(t *testing.T) {
	r := start(t, pool(t, misbehaving)).up()
	for _, what := range []string{"hang", "sleep"} {
		hanging := make(chan reply, 1)
		go func() { got, _ := r.try("GET", "/"+what, "", "X-Timeout", "1s"); hanging <- got }()
		if got := r.do("GET", "/", ""); got.status != http.StatusOK {
			t.Errorf("beside %s: %d", what, got.status)
		}
		if got := <-hanging; got.status != http.StatusGatewayTimeout || got.header.Get("X-OpenFaaS-Internal") != "watchdog" {
			t.Errorf("%s: %d %v", what, got.status, got.header)
		}
		r.awaitOutput("in handle")
		for range 4 {
			if got := r.do("GET", "/", ""); got.status != http.StatusOK {
				t.Errorf("after %s: %d %q", what, got.status, got.body)
			}
		}
	}
}

func TestOddAnswersHarmNobody(t *testing.T) {
	r := start(t, pool(t, misbehaving)).up()
	for what, want := range map[string]int{
		"print": http.StatusOK, "header": http.StatusOK, "status": http.StatusInternalServerError, "unserializable": http.StatusInternalServerError,
	} {
		got := r.do("GET", "/"+what, "")
		if got.status != want {
			t.Errorf("%s: %d %q", what, got.status, got.body)
		}
		if got.header.Get("Injected") != "" {
			t.Errorf("%s: a header was injected", what)
		}
	}
}

func TestWorkersGrowWithTheLoadAndNoFurther(t *testing.T) {
	dir := t.TempDir()
	o := pool(t, `
import os, time
def handle(event, context):
    open(os.environ["DIR"] + "/" + str(os.getpid()), "w").close()
    while not os.path.exists(os.environ["DIR"] + "/go"): time.sleep(0.001)
    return str(os.getpid())
`, "DIR="+dir)
	o.Workers.Max = 3
	r := start(t, o).up()
	answers := make(chan reply, 5)
	for range 5 {
		go func() { got, _ := r.try("GET", "/", ""); answers <- got }()
	}
	for {
		if entries, _ := os.ReadDir(dir); len(entries) == 3 {
			break
		}
	}
	for {
		if text := r.do("GET", "/_/metrics", "").body; strings.Contains(text, "pool_waiting 2\n") && strings.Contains(text, `pool_workers{state="busy"} 3`) {
			break
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pids, waited := map[string]bool{}, 0
	for range 5 {
		got := <-answers
		pids[got.body] = true
		if strings.HasPrefix(got.header.Get("Server-Timing"), "wait;dur=") {
			waited++
		}
	}
	if len(pids) != 3 || waited < 2 {
		t.Errorf("%d workers answered, %d calls waited", len(pids), waited)
	}
}

func TestTooManyWaitingCallsAreRefused(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	o := pool(t, `
import os, time
def handle(event, context):
    while not os.path.exists(os.environ["GATE"]): time.sleep(0.001)
`, "GATE="+gate)
	o.Workers.Max, o.Workers.MaxQueue = 1, 1
	r := start(t, o).up()
	answers := make(chan reply, 3)
	for range 3 {
		go func() { got, _ := r.try("GET", "/", ""); answers <- got }()
	}
	if got := <-answers; got.status != http.StatusTooManyRequests || got.header.Get("X-OpenFaaS-Internal") == "" {
		t.Errorf("got %d %q", got.status, got.body)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := <-answers; got.status != http.StatusOK {
			t.Errorf("got %d", got.status)
		}
	}
}

func TestAWorkerIsReplacedAfterItsLastRequest(t *testing.T) {
	o := pool(t, "import os\ncalls = []\ndef handle(event, context):\n    calls.append(1)\n    return f'{len(calls)} {os.getpid()}'")
	o.Workers.MaxRequests = 5
	o.Workers.Max = 1
	r := start(t, o).up()
	calls := map[string]int{}
	for len(calls) < 4 {
		count, pid, _ := strings.Cut(r.do("GET", "/", "").body, " ")
		calls[pid]++
		if count != strconv.Itoa(calls[pid]) {
			t.Fatalf("call %d of worker %s was its %s", calls[pid], pid, count)
		}
	}
	short := 0
	for _, n := range calls {
		if n < 5 {
			short++
		}
	}
	if short > 1 { // the last one
		t.Errorf("calls per worker: %v", calls)
	}
}

func TestAWorkerThatGrowsIsReplaced(t *testing.T) {
	o := pool(t, `
import os
kept = []
def handle(event, context):
    if event.path == "/grow": kept.append(os.urandom(1) * (200 << 20))
    return str(os.getpid())
`)
	o.Workers.MaxMemory = 150 << 20
	o.Workers.Max = 1
	r := start(t, o).up()
	old := r.do("GET", "/grow", "").body
	for r.do("GET", "/", "").body == old {
		time.Sleep(10 * time.Millisecond)
	}
	if !strings.Contains(r.do("GET", "/_/metrics", "").body, "pool_worker_deaths_total 0\n") {
		t.Error("the replacement counts as a death")
	}
}

func TestWorkersShareOneLoadAndDrawDifferentRandomNumbers(t *testing.T) {
	loads, workers := t.TempDir(), t.TempDir()
	o := pool(t, `
import os, random, time
def load(context):
    open(os.path.join(os.environ["LOADS"], str(os.getpid())), "w").close()
    random.random()
    return os.getpid()
def handle(model, event, context):
    open(os.path.join(os.environ["WORKERS"], str(os.getpid())), "w").close()
    while len(os.listdir(os.environ["WORKERS"])) < 2: time.sleep(0.001)
    return f"{model} {os.getpid()} {random.random()}"
`, "LOADS="+loads, "WORKERS="+workers)
	r := start(t, o).up()
	answers := make(chan string, 2)
	for range 2 {
		go func() { got, _ := r.try("GET", "/", ""); answers <- got.body }()
	}
	a, b := strings.Fields(<-answers), strings.Fields(<-answers)
	if a[0] != b[0] || a[1] == b[1] || a[2] == b[2] {
		t.Errorf("answers %v and %v", a, b)
	}
	if entries, _ := os.ReadDir(loads); len(entries) != 1 {
		t.Errorf("%d loads", len(entries))
	}
	if body := r.do("GET", "/_/ready", "").body; body != "ready\n" {
		t.Errorf("ready says %q", body)
	}
}

func TestAFunctionThatDoesNotSurviveAForkLoadsOncePerWorker(t *testing.T) {
	r := start(t, pool(t, `
import os
loader = os.getpid()
def load(context): return loader
def warmup(model):
    if os.getpid() != model: os._exit(9) # as a library would whose threads are gone
def handle(model, event, context): return f"{model == os.getpid()}"
`)).up()
	if got := r.do("GET", "/", ""); got.body != "True" {
		t.Errorf("got %q", got.body)
	}
	if _, body := r.tryReady(); body != "ready: each worker loads the function for itself: warmup ended a forked process with exit status 9\n" {
		t.Errorf("ready says %q", body)
	}
}

func TestWithThreadsEachWorkerLoadsForItself(t *testing.T) {
	o := pool(t, "import os\nme = os.getpid()\ndef handle(event, context): return f\"{me == os.getpid()} {os.environ['OMP_NUM_THREADS']}\"")
	o.Workers.Threads = 3
	r := start(t, o).up()
	if got := r.do("GET", "/", ""); got.body != "True 3" {
		t.Errorf("got %q", got.body)
	}
}

func TestALoadThatFailsInEachWorkerIsAFailedLoad(t *testing.T) {
	o := pool(t, "raise ValueError('no model here')")
	o.Workers.Threads = 2
	r := start(t, o)
	<-r.ended
	if r.err == nil || r.err.Error() != "ValueError: no model here" {
		t.Errorf("Run() = %v", r.err)
	}
}

func TestCallsGoOnWhenTheZygoteDies(t *testing.T) {
	o := pool(t, "import os\nparent = os.getpid()\ndef handle(event, context): return f'{parent} {os.getppid()} {os.getpid()}'")
	r := start(t, o).up()
	first := strings.Fields(r.do("GET", "/", "").body)
	pid, _ := strconv.Atoi(first[0])
	process, _ := os.FindProcess(pid)
	if err := process.Kill(); err != nil {
		t.Fatal(err)
	}
	for {
		got := r.do("GET", "/", "")
		if got.status != http.StatusOK {
			t.Fatalf("got %d %q", got.status, got.body)
		}
		if now := strings.Fields(got.body); now[0] != first[0] {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAnswersStream(t *testing.T) {
	for name, handler := range map[string]string{
		"sync":  "def handle(event, context):\n    def lines():\n        for chunk in event.stream():\n            yield b'<' + chunk + b'>'\n    return {'headers': {'Content-Type': 'text/event-stream'}, 'body': lines()}",
		"async": "async def handle(event, context):\n    async def lines():\n        for chunk in event.stream():\n            yield b'<' + chunk + b'>'\n    return {'headers': {'Content-Type': 'text/event-stream'}, 'body': lines()}",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, pool(t, handler)).up()
			got := r.do("POST", "/", "a")
			if got.body != "<a>" || got.header.Get("Content-Type") != "text/event-stream" {
				t.Errorf("got %q %v", got.body, got.header)
			}
		})
	}
}

func TestAHandlerMayAnswerWhileItReads(t *testing.T) {
	r := start(t, pool(t, "def handle(event, context):\n    yield 'begin\\n'\n    for chunk in event.stream():\n        yield chunk.upper()", "unused=")).up()
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
	lines := bufio.NewScanner(res.Body)
	lines.Scan()
	for _, word := range []string{"one", "two"} {
		fmt.Fprintln(out, word)
		if !lines.Scan() || lines.Text() != strings.ToUpper(word) {
			t.Fatalf("got %q, %v", lines.Text(), lines.Err())
		}
	}
	out.Close()
}

func TestLargeBodiesGoThroughWhole(t *testing.T) {
	for name, handler := range map[string]string{
		"sync":  "def handle(event, context): return event.body",
		"async": "async def handle(event, context): return event.body",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := start(t, pool(t, handler)).up()
			for _, size := range []int{0, 1, 64 << 10, 64<<10 + 1, 5 << 20} {
				body := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
				for _, known := range []bool{true, false} {
					var in io.Reader = bytes.NewReader(body)
					if !known {
						in = io.MultiReader(in)
					}
					req, err := http.NewRequestWithContext(t.Context(), "POST", "http://function/", in)
					if err != nil {
						t.Fatal(err)
					}
					res, err := r.client.Do(req)
					if err != nil {
						t.Fatal(err)
					}
					got, err := io.ReadAll(res.Body)
					res.Body.Close()
					if err != nil || res.StatusCode != http.StatusOK || !bytes.Equal(got, body) {
						t.Errorf("%d bytes, length known %v: %d, %d bytes back, %v", size, known, res.StatusCode, len(got), err)
					}
				}
			}
		})
	}
}

func TestABodyNobodyReadsHoldsNothingUp(t *testing.T) {
	o := pool(t, "def handle(event, context): return 'no thanks'")
	o.Workers.Max = 1
	r := start(t, o).up()
	body := strings.Repeat("x", 3<<20)
	for range 3 {
		// The server may close the connection while the client still writes.
		if got, err := r.try("POST", "/", body); err == nil && got.body != "no thanks" {
			t.Errorf("got %d %q", got.status, got.body)
		}
	}
	if got := r.do("GET", "/", ""); got.body != "no thanks" {
		t.Errorf("got %d %q", got.status, got.body)
	}
}

func TestAnAnswerThatBreaksOffIsNotWhole(t *testing.T) {
	r := start(t, pool(t, "def handle(event, context):\n    yield 'half'\n    raise ValueError('oops')")).up()
	for range 100 { // what was said before goes out, however closely the failure follows
		got, err := r.try("GET", "/", "")
		if err == nil || got.status != 200 || got.body != "half" {
			t.Fatalf("got %d %q, %v: want half an answer", got.status, got.body, err)
		}
	}
	r.awaitOutput("ValueError: oops")
}

func TestAGeneratorIsClosedWhenItsCallerLeaves(t *testing.T) {
	o := pool(t, `
def handle(event, context):
    try:
        while True: yield "x" * 10000
    finally:
        print("closed")
`)
	o.Workers.Max = 1
	r := start(t, o).up()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://function/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	io.CopyN(io.Discard, res.Body, 100_000)
	cancel()
	res.Body.Close()
	r.awaitOutput("closed")
}

func TestAsyncCallsShareOneWorker(t *testing.T) {
	o := pool(t, `
import asyncio, os
arrived = 0
async def handle(event, context):
    global arrived
    if event.path == "/stuck": await asyncio.sleep(1000)
    arrived += 1
    while arrived < 20: await asyncio.sleep(0.001)
    return str(os.getpid())
`)
	o.Workers.Max = 1
	r := start(t, o).up()
	if got := r.do("GET", "/stuck", "", "X-Timeout", "20ms"); got.status != http.StatusGatewayTimeout {
		t.Errorf("stuck: %d", got.status)
	}
	answers := make(chan reply, 20)
	for range 20 {
		go func() { got, _ := r.try("GET", "/", ""); answers <- got }()
	}
	pids := map[string]bool{}
	for range 20 {
		pids[(<-answers).body] = true
	}
	if len(pids) != 1 {
		t.Errorf("answers came from %v", pids)
	}
}

func TestLinesOfACallCarryItsID(t *testing.T) {
	o := pool(t, "def handle(event, context):\n    print('one'); print('two')")
	o.LogCallID = true
	r := start(t, o).up()
	r.do("GET", "/", "", "X-Call-Id", "c-7")
	r.awaitOutput("one [c-7]\n")
	r.awaitOutput("two [c-7]\n")
}

func TestNoProcessIsLeftBehind(t *testing.T) {
	r := start(t, pool(t, "import os\nprint('zygote', os.getpid())\ndef handle(event, context): return str(os.getpid())")).up()
	worker := r.do("GET", "/", "").body
	r.stop()
	<-r.ended
	if r.err != nil {
		t.Errorf("Run() = %v", r.err)
	}
	_, zygote, _ := strings.Cut(r.out.String(), "zygote ")
	zygote, _, _ = strings.Cut(zygote, "\n")
	for _, pid := range []string{worker, zygote} {
		for {
			// The worker's adopter may be slow to reap, but a zombie runs nothing.
			b, err := os.ReadFile("/proc/" + pid + "/stat")
			if err != nil || strings.Contains(string(b), ") Z ") {
				break
			}
		}
	}
}

func BenchmarkPoolRoundTrip(b *testing.B) {
	o := pool(b, "def handle(event, context): return 'hello'")
	o.Workers.Max = 1
	benchmark(b, o)
}

func BenchmarkInProcessRoundTrip(b *testing.B) {
	benchmark(b, inProcess(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }))
}

func TestAWorkerThatHangsWhileItIsSentABodyIsKilled(t *testing.T) {
	o := pool(t, misbehaving)
	o.Workers.Max = 1
	r := start(t, o).up()
	// Far more than the socket and the window hold: the sender gets stuck.
	got, err := r.try("POST", "/hang", strings.Repeat("x", 5<<20), "X-Timeout", "200ms")
	if err == nil && got.status != http.StatusGatewayTimeout {
		t.Errorf("got %d %q", got.status, got.body)
	}
	if got := r.do("GET", "/", ""); got.status != http.StatusOK {
		t.Errorf("the next call got %d %q", got.status, got.body)
	}
}

func TestALeavingCallerDoesNotEndTheWorker(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	o := pool(t, `
import os, time
def handle(event, context):
    print("at", event.path)
    while event.path == "/wait" and not os.path.exists(os.environ["GATE"]): time.sleep(0.001)
    return str(os.getpid())
`, "GATE="+gate)
	o.Workers.Max, o.ExecTimeout = 1, time.Minute
	r := start(t, o).up()
	before := r.do("GET", "/", "").body
	ctx, leave := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", "http://function/wait", nil)
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
	r.awaitOutput("at /wait\n")
	leave()
	<-left
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if after := r.do("GET", "/", "").body; after != before {
		t.Errorf("worker %s answered before, %s after", before, after)
	}
}

func TestAnIdleWorkerThatDiesCostsNoCall(t *testing.T) {
	o := pool(t, "import os\ndef handle(event, context): return str(os.getpid())")
	o.Workers.Max = 1
	r := start(t, o).up()
	for range 20 {
		got := r.do("GET", "/", "")
		pid, err := strconv.Atoi(got.body)
		if err != nil {
			t.Fatalf("got %d %q", got.status, got.body)
		}
		process, _ := os.FindProcess(pid)
		if err := process.Kill(); err != nil {
			t.Fatal(err)
		}
		// Dead, and its socket closed, before the next call.
		for state := "?"; state != "" && state != "Z"; {
			b, _ := os.ReadFile("/proc/" + got.body + "/stat")
			_, rest, _ := strings.Cut(string(b), ") ")
			state = rest[:min(1, len(rest))]
		}
	}
}
