package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// TestPythonKeepsTheGuidesPromises deploys handlers of each kind and holds
// them to what docs/guide/python.md says.
func TestPythonKeepsTheGuidesPromises(t *testing.T) {
	p := start(t)
	p.pythonFunction("sync", "python3-http", `
import hashlib, json, os, queue, sys, threading, time

def handle(event, context):
    what = event.path.strip("/")
    if what == "sum":
        return {"body": hashlib.sha256(event.body).hexdigest() + " %d" % len(event.body)}
    if what == "stream-sum":
        digest, n = hashlib.sha256(), 0
        for piece in event.stream():
            digest.update(piece)
            n += len(piece)
        return digest.hexdigest() + " %d" % n
    if what == "echo-lines":
        def lines():
            for piece in event.stream():
                yield b"got " + piece
        return {"body": lines(), "headers": {"Content-Type": "application/x-ndjson"}}
    if what == "large":
        return {"body": (b"x" * (1 << 20) for _ in range(100))}
    if what == "broken":
        def pieces():
            yield b"first"
            raise ValueError("in the middle")
        return pieces()
    if what == "request":
        return {"query": event.query.get("a"), "all": event.query.getlist("a"), "header": event.headers.get("x-mine"),
                "method": event.method, "function": context.function, "namespace": context.namespace,
                "call": context.call_id, "remaining": 0 < context.remaining() <= 30}
    if what == "tuple":
        return "teapot", 418, {"X-Kind": "tuple"}
    if what == "none":
        return None
    if what == "status":
        return {"statusCode": int(event.query["code"]), "body": ""}
    if what == "cookies":
        return {"body": "x", "headers": {"Set-Cookie": ["a=1", "b=2"]}}
    if what == "nonsense":
        return {"statusCode": 7, "body": object()}
    if what == "pid":
        return str(os.getpid())
    if what == "slow":
        time.sleep(0.2)
        return str(os.getpid())
    return what
`)
	p.stack("sync", "python3-http", "workers: 2", "exec_timeout: 30s", `labels: {com.openfaas.scale.max: "1"}`)
	p.cli("up", "-f", "sync.yml")
	p.pythonFunction("async", "python3-http", `
import asyncio

state = {"here": 0, "most": 0, "cancelled": 0}

async def handle(event, context):
    if event.path == "/state":
        return dict(state)
    state["here"] += 1
    state["most"] = max(state["most"], state["here"])
    try:
        while event.path == "/hang" or state["here"] < 20 and event.path == "/together" and state["most"] < 20:
            await asyncio.sleep(0.005)
    except asyncio.CancelledError:
        state["cancelled"] += 1
        raise
    finally:
        state["here"] -= 1
    return "done"
`)
	p.stack("async", "python3-http", "workers: 1", `labels: {com.openfaas.scale.max: "1"}`)
	p.cli("up", "-f", "async.yml")
	p.pythonFunction("once", "python3-http", "import os\n\ndef handle(event, context):\n    return str(os.getpid())\n")
	p.stack("once", "python3-http", "max_requests: 1", "workers: 2")
	p.cli("up", "-f", "once.yml")

	for _, sub := range []struct {
		name string
		test func(*platform)
	}{
		{"the request as the handler sees it", testPythonRequest},
		{"what a handler may return", testPythonAnswers},
		{"bodies of a hundred megabytes", testPythonLargeBodies},
		{"both ways at once", testPythonDuplex},
		{"an answer that fails in the middle", testPythonBrokenStream},
		{"workers share the calls", testPythonWorkers},
		{"async handlers take many calls, and learn of callers who leave", testPythonAsync},
		{"a fresh process for each call", testPythonOnce},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.test(p.in(t)) })
	}
}

func testPythonRequest(p *platform) {
	a := p.call(200, "PUT", "/function/sync/request?a=1&a=2", "", "X-Mine", "yes", "X-Call-Id", "call-7")
	var got struct {
		Query, Header, Method, Function, Namespace, Call string
		All                                              []string
		Remaining                                        bool
	}
	decode(p.t, a.body, &got)
	if got.Query != "1" || fmt.Sprint(got.All) != "[1 2]" || got.Header != "yes" || got.Method != "PUT" || got.Function != "sync" || got.Namespace != "openfaas-fn" || got.Call != "call-7" || !got.Remaining {
		p.t.Errorf("the handler saw %+v", got)
	}
	if ct := a.header.Get("Content-Type"); !strings.HasPrefix(ct, "application/json") {
		p.t.Errorf("a dict is sent as %q", ct)
	}
}

func testPythonAnswers(p *platform) {
	if a := p.call(418, "GET", "/function/sync/tuple", ""); a.body != "teapot" || a.header.Get("X-Kind") != "tuple" {
		p.t.Errorf("a tuple: %q %v", a.body, a.header)
	}
	if a := p.call(200, "GET", "/function/sync/none", ""); a.body != "" {
		p.t.Errorf("None: %q", a.body)
	}
	for _, code := range []int{204, 304, 404, 503} {
		a := p.call(code, "GET", fmt.Sprintf("/function/sync/status?code=%d", code), "")
		if a.header.Get("X-Openfaas-Internal") != "" {
			p.t.Errorf("%d of the handler passes for the platform's", code)
		}
	}
	if a := p.call(200, "GET", "/function/sync/cookies", ""); len(a.header.Values("Set-Cookie")) != 2 {
		p.t.Errorf("two cookies arrive as %q", a.header.Values("Set-Cookie"))
	}
	p.call(500, "GET", "/function/sync/nonsense", "")
	if a := p.call(200, "HEAD", "/function/sync/abc", ""); a.body != "" {
		p.t.Errorf("HEAD: %q", a.body)
	}
}

func testPythonLargeBodies(p *platform) {
	const zeroesSum = "20492a4d0d84f8beb1767f6616229f85d44c2827b64bdbfb260ee12fa1109e0e" // of 100 MiB
	before := p.peakMemory()
	for _, path := range []string{"sum", "stream-sum"} {
		for _, length := range []int64{large, -1} {
			req, err := http.NewRequestWithContext(p.t.Context(), "POST", p.url+"/function/sync/"+path, io.LimitReader(zeroes{}, large))
			if err != nil {
				p.t.Fatal(err)
			}
			req.ContentLength = length
			if a := p.send(req); a.body != fmt.Sprintf("%s %d", zeroesSum, large) {
				p.t.Errorf("%s of length %d: %q", path, length, a.body)
			}
		}
	}
	resp := p.open("GET", "/function/sync/large", nil)
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != large || err != nil {
		p.t.Errorf("a generator of 100 MiB: %d bytes, %v", n, err)
	}
	p.wantMemory(before)
}

func testPythonDuplex(p *platform) {
	body, lines := io.Pipe()
	go func() { _, _ = io.WriteString(lines, "0\n") }() // fails only when the call has
	resp := p.open("POST", "/function/sync/echo-lines", body)
	defer resp.Body.Close()
	answers := bufio.NewReader(resp.Body)
	for i := range 10 {
		if line, err := answers.ReadString('\n'); line != fmt.Sprintf("got %d\n", i) {
			p.t.Fatalf("answer %d is %q, %v", i, line, err)
		}
		if _, err := fmt.Fprintf(lines, "%d\n", i+1); err != nil {
			p.t.Fatal(err)
		}
	}
	lines.Close()
	if rest, err := io.ReadAll(answers); string(rest) != "got 10\n" || err != nil {
		p.t.Errorf("the end is %q, %v", rest, err)
	}
}

func testPythonBrokenStream(p *platform) {
	resp := p.open("GET", "/function/sync/broken", nil)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		p.t.Errorf("an answer that failed in the middle reads as whole: %q", body)
	}
	p.call(200, "GET", "/function/sync/x", "")
}

func testPythonWorkers(p *platform) {
	var mu sync.Mutex
	pids := map[string]bool{}
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			a, err := p.do("GET", "/function/sync/slow", "")
			if err != nil || a.status != 200 {
				p.t.Errorf("%d %q, %v", a.status, a.body, err)
			}
			mu.Lock()
			defer mu.Unlock()
			pids[a.body] = true
		})
	}
	calls.Wait()
	if len(pids) != 2 {
		p.t.Errorf("eight calls at once were answered by %d workers, want 2", len(pids))
	}
}

func testPythonAsync(p *platform) {
	type state struct{ Here, Most, Cancelled int }
	now := func() (s state) {
		decode(p.t, p.call(200, "GET", "/function/async/state", "").body, &s)
		return s
	}
	var together sync.WaitGroup
	for range 20 {
		together.Go(func() {
			if a, err := p.do("GET", "/function/async/together", ""); err != nil || a.body != "done" {
				p.t.Errorf("%d %q, %v", a.status, a.body, err)
			}
		})
	}
	together.Wait()
	if s := now(); s.Most < 20 {
		p.t.Errorf("one worker took %d calls at once, want 20", s.Most)
	}
	ctx, leave := context.WithCancel(p.t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", p.url+"/function/async/hang", nil)
	if err != nil {
		p.t.Fatal(err)
	}
	left := make(chan struct{})
	go func() {
		defer close(left)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	testkit.Eventually(p.t, "the handler waits", func() bool { return now().Here == 1 })
	leave()
	<-left
	testkit.Eventually(p.t, "the handler is cancelled", func() bool { return now() == state{0, 20, 1} })
}

func testPythonOnce(p *platform) {
	pids := map[string]bool{}
	for range 10 {
		pids[p.call(200, "GET", "/function/once", "").body] = true
	}
	if len(pids) != 10 {
		p.t.Errorf("ten calls were answered by %d processes", len(pids))
	}
}
