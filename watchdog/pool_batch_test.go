package watchdog_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// batches answers the sizes of its batches, and keeps a call of /hold until
// the gate opens.
const batches = `
import os, time
def hold(events):
    for e in events:
        if e.path == "/hold": print("holding")
        while e.path == "/hold" and not os.path.exists(os.environ["GATE"]): time.sleep(0.001)
def handle(event, context):
    hold([event])
    if event.body == b"bad": raise ValueError("poison")
    return "1"
def handle_batch(events, context):
    hold(events)
    if any(e.body == b"bad" for e in events): raise ValueError("poison")
    if any(e.body == b"exit" for e in events): os._exit(3)
    return [str(len(events))] * len(events)
`

// withBatches has one worker that is held, so that calls gather.
func withBatches(t *testing.T) (r *running, open func()) {
	t.Helper()
	gate := filepath.Join(t.TempDir(), "gate")
	o := pool(t, batches, "GATE="+gate)
	o.Workers.Max = 1
	r = start(t, o).up()
	held := make(chan reply, 1)
	go func() { got, _ := r.try("GET", "/hold", ""); held <- got }()
	r.awaitOutput("holding")
	return r, func() {
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		<-held
	}
}

// waiting waits until as many calls do.
func (r *running) waiting(n string) {
	for !strings.Contains(r.do("GET", "/_/metrics", "").body, "pool_waiting "+n+"\n") {
		time.Sleep(time.Millisecond)
	}
}

func TestWhatWaitsIsAnsweredTogether(t *testing.T) {
	r, open := withBatches(t)
	answers := make(chan reply, 5)
	for range 4 {
		go func() { got, _ := r.try("POST", "/", "x"); answers <- got }()
	}
	// An image is larger than what usually goes along with a request.
	go func() { got, _ := r.try("POST", "/", strings.Repeat("x", 1<<20)); answers <- got }()
	r.waiting("5")
	open()
	for range 5 {
		got := <-answers
		timing := strings.Join(got.header.Values("Server-Timing"), ", ")
		if got.body != "5" || !regexp.MustCompile(`batch;dur=[0-9.]+;desc="n=5"`).MatchString(timing) {
			t.Errorf("got %q, Server-Timing %q", got.body, timing)
		}
	}
	text := r.do("GET", "/_/metrics", "").body
	for _, want := range []string{`pool_batch_size_bucket{le="1"} 1`, `pool_batch_size_bucket{le="8"} 2`, "pool_batch_size_sum 6", "pool_batch_limit 32"} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("the metrics lack %q", want)
		}
	}
	if got := r.do("POST", "/", "x"); got.body != "1" {
		t.Errorf("alone: %q", got.body)
	}
	if got := r.do("GET", "/_/ready", "").header.Get("X-Max-Inflight"); got != "32" {
		t.Errorf("ready says that %s calls are welcome", got)
	}
}

func TestAPoisonedCallOfABatchFailsAlone(t *testing.T) {
	r, open := withBatches(t)
	answers := make(chan reply, 3)
	for _, body := range []string{"x", "bad", "y"} {
		go func() { got, _ := r.try("POST", "/", body); answers <- got }()
	}
	r.waiting("3")
	open()
	statuses := map[int]int{}
	for range 3 {
		statuses[(<-answers).status]++
	}
	if statuses[http.StatusOK] != 2 || statuses[http.StatusInternalServerError] != 1 {
		t.Errorf("statuses %v", statuses)
	}
}

func TestACallThatHasLeftIsNotInTheBatch(t *testing.T) {
	r, open := withBatches(t)
	if got, _ := r.try("POST", "/", "x", "X-Timeout", "20ms"); got.status != http.StatusGatewayTimeout {
		t.Errorf("got %d", got.status)
	}
	answers := make(chan reply, 2)
	for range 2 {
		go func() { got, _ := r.try("POST", "/", "x"); answers <- got }()
	}
	r.waiting("2")
	open()
	for range 2 {
		if got := <-answers; got.body != "2" {
			t.Errorf("got %d %q", got.status, got.body)
		}
	}
}

func TestAProcessThatEndsTellsAllOfItsBatch(t *testing.T) {
	r, open := withBatches(t)
	answers := make(chan reply, 2)
	for _, body := range []string{"x", "exit"} {
		go func() { got, _ := r.try("POST", "/", body); answers <- got }()
	}
	r.waiting("2")
	open()
	for range 2 {
		want := "the function's process ended during the call: exit status 3; it was answering 2 calls together\n"
		if got := <-answers; got.status != http.StatusInternalServerError || got.body != want {
			t.Errorf("got %d %q", got.status, got.body)
		}
	}
	if got := r.do("GET", "/", ""); got.body != "1" {
		t.Errorf("the next call: %d %q", got.status, got.body)
	}
}

func TestAWorkerThatTakesMuchMemoryIsKilledAndItsCallerTold(t *testing.T) {
	o := pool(t, `
import time
def handle(event, context):
    if event.path == "/eat":
        kept = []
        while True:
            kept.append(b"x" * (8 << 20))
            time.sleep(0.005)
    return "fine"
`)
	o.Workers.MaxMemory = 64 << 20
	r := start(t, o).up()
	got := r.do("GET", "/eat", "")
	if got.status != http.StatusInternalServerError || !strings.Contains(got.body, "more than twice max_memory") {
		t.Errorf("got %d %q", got.status, got.body)
	}
	if got := r.do("GET", "/", ""); got.body != "fine" {
		t.Errorf("the next call: %d %q", got.status, got.body)
	}
}

func TestOtherCallsOfAnAsyncWorkerThatIsKilledAreToldWhy(t *testing.T) {
	o := pool(t, `
import asyncio, time
async def handle(event, context):
    if event.path == "/block": time.sleep(1000)
    print("waiting")
    await asyncio.sleep(1000)
`)
	o.Workers.Max = 1
	r := start(t, o).up()
	other := make(chan reply, 1)
	go func() { got, _ := r.try("GET", "/", ""); other <- got }()
	r.awaitOutput("waiting")
	if got := r.do("GET", "/block", "", "X-Timeout", "1s"); got.status != http.StatusGatewayTimeout {
		t.Errorf("got %d", got.status)
	}
	want := "the function's process ended during the call: it was killed, because a call took too long\n"
	if got := <-other; got.body != want {
		t.Errorf("the other got %d %q", got.status, got.body)
	}
}

func TestWorkersAreReplacedByAgeAndGrowth(t *testing.T) {
	handler := `
import os
kept = []
def handle(event, context):
    if event.path == "/grow": kept.append(os.urandom(8 << 20))
    return str(os.getpid())
`
	t.Run("age", func(t *testing.T) {
		o := pool(t, handler)
		o.Workers.MaxAge = time.Millisecond
		o.Workers.Max = 1
		r := start(t, o).up()
		r.replaced("/", "age")
	})
	t.Run("growth", func(t *testing.T) {
		o := pool(t, handler)
		o.Workers.MaxGrowth = 64 << 20
		o.Workers.Max = 1
		r := start(t, o).up()
		for range 20 {
			r.do("GET", "/", "")
		}
		time.Sleep(1100 * time.Millisecond) // the size is looked at each second
		r.replaced("/grow", "growth")
	})
}

// replaced calls until another worker answers, every call well.
func (r *running) replaced(path, reason string) {
	r.t.Helper()
	first := r.do("GET", "/", "").body
	for {
		got := r.do("GET", path, "")
		if got.status != http.StatusOK {
			r.t.Fatalf("got %d %q", got.status, got.body)
		}
		if got.body != first {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if text := r.do("GET", "/_/metrics", "").body; !strings.Contains(text, `pool_worker_replacements_total{reason="`+reason+`"}`) {
		r.t.Errorf("the metrics do not say %q:\n%s", reason, text)
	}
}

func TestAFunctionThatAlwaysCrashesSaysSoAndRests(t *testing.T) {
	r := start(t, pool(t, "import os\ndef handle(event, context):\n    if event.path == '/fine': return 'fine'\n    os._exit(3)")).up()
	for range 4 {
		if got := r.do("GET", "/", ""); got.status != http.StatusInternalServerError {
			t.Fatalf("got %d", got.status)
		}
	}
	if _, body := r.tryReady(); !strings.Contains(body, "workers in a row ended in a call, the last with exit status 3") {
		t.Errorf("ready says %q", body)
	}
	text := r.do("GET", "/_/metrics", "").body
	for _, want := range []string{"pool_crashes_in_a_row 4\n", "pool_loads_unshared 0\n", "# TYPE pool_resting gauge\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
	if got := r.do("GET", "/fine", ""); got.body != "fine" {
		t.Errorf("got %d %q", got.status, got.body)
	}
	if _, body := r.tryReady(); body != "ready\n" {
		t.Errorf("ready says %q", body)
	}
}

func TestACallThatWouldTakeTooLongIsRefused(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	o := pool(t, `
import os, time
def handle(event, context):
    if event.path == "/hold":
        print("holding")
        while not os.path.exists(os.environ["GATE"]): time.sleep(0.001)
    time.sleep(0.05)
    return "1"
def handle_batch(events): return [handle(e, None) for e in events]
`, "GATE="+gate)
	o.Workers.Max, o.Workers.BatchLatency = 1, 80*time.Millisecond
	r := start(t, o).up()
	if got := r.do("GET", "/", ""); got.status != http.StatusOK {
		t.Fatalf("got %d", got.status)
	}
	held := make(chan reply, 1)
	go func() { got, _ := r.try("GET", "/hold", ""); held <- got }()
	r.awaitOutput("holding")
	// One waits for the one that is held, and the next would wait for both.
	first := make(chan reply, 1)
	go func() { got, _ := r.try("GET", "/", ""); first <- got }()
	var refused reply
	for refused.status != http.StatusTooManyRequests {
		refused, _ = r.try("GET", "/", "", "X-Timeout", "10ms")
	}
	if refused.header.Get("Retry-After") != "1" || !strings.Contains(refused.body, "batch_latency") {
		t.Errorf("got %q %v", refused.body, refused.header)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := <-held; got.status != http.StatusOK {
		t.Errorf("the held one: %d", got.status)
	}
	<-first
}

func BenchmarkAFreshForkForEachCall(b *testing.B) {
	o := pool(b, "def handle(event, context): return 'hello'")
	o.Workers.Max, o.Workers.MaxRequests = 2, 1
	benchmark(b, o)
}
