package watchdog_test

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestThreadsOfOneWorkerAnswerCallsAtTheSameTime(t *testing.T) {
	o := pool(t, `
import os, threading
all = threading.Barrier(4)
def handle(event, context):
    all.wait()
    print("line of", context.call_id)
    return f"{os.getpid()} {threading.get_ident()}"
`)
	o.Workers.Max, o.Workers.Concurrent, o.LogCallID = 1, 4, true
	r := start(t, o).up()
	answers := make(chan string, 4)
	for i := range 4 {
		go func() { got, _ := r.try("GET", "/", "", "X-Call-Id", "c-"+strconv.Itoa(i)); answers <- got.body }()
	}
	pids, threads := map[string]bool{}, map[string]bool{}
	for range 4 {
		pid, thread, _ := strings.Cut(<-answers, " ")
		pids[pid], threads[thread] = true, true
	}
	if len(pids) != 1 || len(threads) != 4 {
		t.Errorf("processes %v, threads %v answered", pids, threads)
	}
	for i := range 4 {
		id := "c-" + strconv.Itoa(i)
		r.awaitOutput("line of " + id + " [" + id + "]\n")
	}
	if got := r.do("GET", "/_/ready", ""); got.header.Get("X-Max-Inflight") != "4" || got.body != "ready\n" {
		t.Errorf("ready says %q, %v", got.body, got.header)
	}
}

func TestThreadsTakeWorkBeforeWorkersAreStarted(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	o := pool(t, `
import os, time
def handle(event, context):
    print("begun")
    while not os.path.exists(os.environ["GATE"]): time.sleep(0.001)
    return str(os.getpid())
`, "GATE="+gate)
	o.Workers.Max, o.Workers.Concurrent = 2, 2
	r := start(t, o).up()
	answers := make(chan string, 5)
	for range 5 {
		go func() { got, _ := r.try("GET", "/", ""); answers <- got.body }()
	}
	for strings.Count(r.out.String(), "begun") < 4 { // two in each of two workers
	}
	r.waiting("1")
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pids := map[string]bool{}
	for range 5 {
		pids[<-answers] = true
	}
	if len(pids) != 2 {
		t.Errorf("%d workers answered", len(pids))
	}
}

func TestACallThatHangsInAThreadEndsItsWorkerAndTheOthersAreToldWhy(t *testing.T) {
	o := pool(t, `
import os, time
def handle(event, context):
    if event.path == "/pid": return str(os.getpid())
    print("at", event.path)
    def in_here(): time.sleep(1000)
    if event.path != "/listens": in_here()
    while not context.cancelled: time.sleep(0.001)
`)
	o.Workers.Max, o.Workers.Concurrent = 1, 3
	r := start(t, o).up()
	before := r.do("GET", "/pid", "").body
	if got := r.do("GET", "/listens", "", "X-Timeout", "50ms"); got.status != http.StatusGatewayTimeout {
		t.Errorf("a handler that looks whether it is cancelled: %d", got.status)
	}
	if after := r.do("GET", "/pid", "").body; after != before {
		t.Error("a handler that ended when it was cancelled has cost its worker")
	}
	other := make(chan reply, 1)
	go func() { got, _ := r.try("GET", "/other", ""); other <- got }()
	r.awaitOutput("at /other\n")
	if got := r.do("GET", "/", "", "X-Timeout", "1s"); got.status != http.StatusGatewayTimeout {
		t.Errorf("got %d", got.status)
	}
	want := "the function's process ended during the call: it was killed, because a call took too long\n"
	if got := <-other; got.status != http.StatusInternalServerError || got.body != want {
		t.Errorf("the other got %d %q", got.status, got.body)
	}
	r.awaitOutput("in in_here")
	if after := r.do("GET", "/pid", "").body; after == before || after == "" {
		t.Errorf("%s answered before, %s after", before, after)
	}
}

// Sync and async handlers, with batches of one or the other kind, do the same.
func TestEveryKindOfHandlerMayHaveBatches(t *testing.T) {
	const handler = `
import asyncio, os, sys
HANDLE def handle(event, context):
    if event.path == "/hold":
        print("holding")
        while not os.path.exists(os.environ["GATE"]): PAUSE
    if event.body == b"bad": raise ValueError("poison")
    return "1"
BATCH def handle_batch(events, context):
    if any(e.body == b"bad" for e in events): raise ValueError("poison")
    return [str(len(events))] * len(events)
`
	const sleep, wait = "__import__('time').sleep(0.001)", "await asyncio.sleep(0.001)"
	for name, kind := range map[string]struct {
		handle, batch, pause string
	}{
		"sync": {"", "", sleep}, "async": {"async", "async", wait}, "async handle": {"async", "", wait}, "async batch": {"", "async", sleep},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := filepath.Join(t.TempDir(), "gate")
			text := strings.NewReplacer("HANDLE ", kind.handle+" ", "BATCH ", kind.batch+" ", "PAUSE", kind.pause).Replace(handler)
			o := pool(t, strings.ReplaceAll(text, "\n def", "\ndef"), "GATE="+gate)
			o.Workers.Max = 1
			r := start(t, o).up()
			held := make(chan reply, 1)
			go func() { got, _ := r.try("GET", "/hold", ""); held <- got }()
			r.awaitOutput("holding")

			answers := make(chan string, 4)
			for _, body := range []string{"good", "bad", "fine"} {
				go func() {
					got, _ := r.try("POST", "/", body)
					answers <- body + " " + strconv.Itoa(got.status) + " " + strings.Join(got.header.Values("Server-Timing"), ",")
				}()
			}
			r.waiting("3")
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			<-held
			var got []string
			for range 3 {
				words := strings.Fields(<-answers)
				if words[1] == "200" && !strings.Contains(words[2], "n=3") {
					t.Errorf("Server-Timing: %s", words[2])
				}
				got = append(got, words[0]+" "+words[1])
			}
			slices.Sort(got)
			if diff := cmp.Diff([]string{"bad 500", "fine 200", "good 200"}, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got := r.do("GET", "/_/ready", "").header.Get("X-Max-Inflight"); got != "32" {
				t.Errorf("X-Max-Inflight: %s", got)
			}
		})
	}
}

func TestWorkersMayAnswerSeveralBatchesAtTheSameTime(t *testing.T) {
	for name, async := range map[string]string{"threads": "", "async": "async "} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			gate := filepath.Join(t.TempDir(), "gate")
			o := pool(t, `
import asyncio, os, time
`+async+`def handle(event, context):
    print("begun")
    while not os.path.exists(os.environ["GATE"]): `+map[bool]string{true: "await asyncio.sleep(0.001)", false: "time.sleep(0.001)"}[async != ""]+`
    return "1"
`+async+`def handle_batch(events, context):
    return [str(len(events))] * len(events)
`, "GATE="+gate)
			o.Workers.Max, o.Workers.Concurrent = 1, 2
			r := start(t, o).up()
			answers := make(chan string, 6)
			for range 2 {
				go func() { got, _ := r.try("GET", "/", ""); answers <- got.body }()
			}
			for strings.Count(r.out.String(), "begun") < 2 { // a call each, so nothing was kept back to fill a batch
			}
			for range 4 {
				go func() { got, _ := r.try("GET", "/", ""); answers <- got.body }()
			}
			r.waiting("4")
			if err := os.WriteFile(gate, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			var got []string
			for range 6 {
				got = append(got, <-answers)
			}
			slices.Sort(got)
			if diff := cmp.Diff([]string{"1", "1", "4", "4", "4", "4"}, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if got := r.do("GET", "/_/ready", "").header.Get("X-Max-Inflight"); got != "64" {
				t.Errorf("X-Max-Inflight: %s", got)
			}
		})
	}
}

func TestAWorkerWithACallThatDoesNotEndGetsNoOthers(t *testing.T) {
	o := pool(t, `
import asyncio, os
async def handle(event, context):
    if event.path == "/stubborn":
        while True:
            try: await asyncio.sleep(1000)
            except asyncio.CancelledError: print("not yet")
    return str(os.getpid())
`)
	o.Workers.Max = 1
	r := start(t, o).up()
	before := r.do("GET", "/", "").body
	stubborn := make(chan reply, 1)
	go func() { got, _ := r.try("GET", "/stubborn", "", "X-Timeout", "1s"); stubborn <- got }()
	r.awaitOutput("not yet")
	for r.do("GET", "/", "").body == before { // for a moment it is given the benefit of the doubt
	}
	if got := <-stubborn; got.status != http.StatusGatewayTimeout {
		t.Errorf("got %d %q", got.status, got.body)
	}
}
