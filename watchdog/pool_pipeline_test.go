package watchdog_test

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// short is a function whose calls are short, unless their path says otherwise.
const short = `
import os, time
def handle(event, context):
    what = event.path[1:]
    if what == "exit": os._exit(3)
    if what == "hang":
        while True: pass
    if what == "stuck": sum(iter(int, 1)) # does not return to the interpreter
    if what.startswith("wait"):
        while not os.path.exists(os.environ["GATE"] + what[4:]): time.sleep(0.001)
    return event.body
`

// shortPool is a pool that knows that its calls are short.
func shortPool(t *testing.T, gate string, workers int) *running {
	t.Helper()
	o := pool(t, short, "GATE="+gate)
	o.Workers.Max, o.Workers.Min = workers, workers
	r := start(t, o).up()
	for range 20 {
		if got := r.do("POST", "/", "x"); got.body != "x" {
			t.Fatalf("got %d %q", got.status, got.body)
		}
	}
	return r
}

// counter is the value of a metric.
func (r *running) counter(name string) int {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\d+)$`).FindStringSubmatch(r.do("GET", "/_/metrics", "").body)
	if m == nil {
		r.t.Fatalf("there is no metric %s", name)
	}
	n, _ := strconv.Atoi(m[1])
	return n
}

// hammer sends calls, each with a body of its own, until done is closed, and
// fails if one is not answered as it should.
func (r *running) hammer(callers int, done <-chan struct{}) (wait func()) {
	var calling sync.WaitGroup
	for i := range callers {
		calling.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					return
				default:
				}
				body := strconv.Itoa(i) + " " + strconv.Itoa(n)
				got, err := r.try("POST", "/", body)
				if err != nil || got.status != http.StatusOK || got.body != body {
					r.t.Errorf("call %q: %d %q, %v", body, got.status, got.body, err)
					return
				}
			}
		})
	}
	return calling.Wait
}

func TestShortCallsAreSentBehindOneAnother(t *testing.T) {
	r := shortPool(t, "", 1)
	done := make(chan struct{})
	wait := r.hammer(4, done)
	for r.counter("pool_followed_total") < 100 && !t.Failed() {
		time.Sleep(time.Millisecond)
	}
	close(done)
	wait()
}

func TestACallBehindOneThatEndsItsWorkerIsAnsweredByAnother(t *testing.T) {
	for _, what := range []string{"exit", "hang"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			r := shortPool(t, "", 2)
			done := make(chan struct{})
			wait := r.hammer(6, done)
			for r.counter("pool_redispatched_total") == 0 && !t.Failed() {
				got, err := r.try("GET", "/"+what, "", "X-Timeout", "300ms")
				if err != nil || got.status != http.StatusInternalServerError && got.status != http.StatusGatewayTimeout {
					t.Errorf("%s: %d %q, %v", what, got.status, got.body, err)
				}
			}
			close(done)
			wait()
		})
	}
}

func TestACallBehindALongOneMayRunOutOfTimeAndHarmsNobody(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	r := shortPool(t, gate, 1)
	for followed := false; !followed && !t.Failed(); {
		before := r.counter("pool_followed_total")
		first, second := make(chan reply, 1), make(chan reply, 1)
		go func() { got, _ := r.try("POST", "/wait", "first", "X-Timeout", "1m"); first <- got }()
		go func() { got, _ := r.try("POST", "/", "second", "X-Timeout", "100ms"); second <- got }()
		if got := <-second; got.status == http.StatusGatewayTimeout {
			followed = r.counter("pool_followed_total") > before
		}
		if err := os.WriteFile(gate, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := <-first; got.body != "first" {
			t.Errorf("the long call: %d %q", got.status, got.body)
		}
		for range 30 { // and calls are short again
			if got := r.do("POST", "/", "x"); got.body != "x" {
				t.Errorf("afterwards: %d %q", got.status, got.body)
			}
		}
		if err := os.Remove(gate); err != nil {
			t.Fatal(err)
		}
	}
	if n := r.counter("pool_worker_deaths_total"); n != 0 {
		t.Errorf("%d workers died", n)
	}
	if strings.Contains(r.out.String(), "killing") {
		t.Errorf("the worker was killed:\n%s", r.out)
	}
}

func TestACallBehindOneThatNeverReturnsToTheInterpreterIsAnsweredBeforeThatIsKilled(t *testing.T) {
	t.Parallel()
	const taken, killed, died = "pool_redispatched_total", `pool_worker_kills_total{reason="time"}`, "pool_worker_deaths_total"
	r := shortPool(t, "", 2)
	done := make(chan struct{})
	wait := r.hammer(6, done)
	for r.counter(taken) == 0 && !t.Failed() { // for there may be no call behind it
		kills, deaths := r.counter(killed), r.counter(died)
		stuck := make(chan reply, 1)
		go func() { got, _ := r.try("GET", "/stuck", "", "X-Timeout", "5s"); stuck <- got }()
		for r.counter(taken) == 0 && r.counter(died) == deaths {
			time.Sleep(time.Millisecond)
		}
		if r.counter(taken) > 0 && r.counter(killed) > kills {
			t.Error("the worker was killed first")
		}
	}
	close(done)
	wait()
}

func TestACallBehindALongOneIsTakenBack(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	r := shortPool(t, gate, 2)
	open := func(name string) {
		t.Helper()
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for before := r.counter("pool_redispatched_total"); r.counter("pool_redispatched_total") == before && !t.Failed(); {
		call := func(path string) chan reply {
			answer := make(chan reply, 1)
			go func() { got, _ := r.try("POST", path, path); answer <- got }()
			return answer
		}
		long, other, short := call("/wait1"), call("/wait2"), call("/")
		open(gate + "2")
		// The long call's worker cannot answer the short one.
		if got := <-short; got.body != "/" {
			t.Errorf("the short call: %d %q", got.status, got.body)
		}
		if got := <-other; got.body != "/wait2" {
			t.Errorf("the other call: %d %q", got.status, got.body)
		}
		open(gate + "1")
		if got := <-long; got.body != "/wait1" {
			t.Errorf("the long call: %d %q", got.status, got.body)
		}
		for range 30 { // and calls are short again
			if got := r.do("POST", "/", "x"); got.body != "x" {
				t.Errorf("afterwards: %d %q", got.status, got.body)
			}
		}
		for _, name := range []string{gate + "1", gate + "2"} {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := r.counter("pool_worker_deaths_total"); n != 0 {
		t.Errorf("%d workers died", n)
	}
}
