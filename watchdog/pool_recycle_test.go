package watchdog_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Workers that share a load are there in milliseconds, others have to load.
// For both, whoever goes on until there is another keeps calls from waiting.
func TestNobodyWaitsForTheSuccessorOfAWorkerThatIsReplaced(t *testing.T) {
	for name, threads := range map[string]int{"forked": 1, "each loads": 2} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := pool(t, "import time\ndef load(context): time.sleep(0.1)\ndef handle(model, event, context): return event.body")
			o.Workers.MaxRequests, o.Workers.Min, o.Workers.Max, o.Workers.Threads = 20, 2, 2, threads
			r := start(t, o).up()
			done := make(chan struct{})
			wait := r.hammer(8, done)
			for r.counter(`pool_worker_replacements_total{reason="requests"}`) < 6 {
				time.Sleep(time.Millisecond)
			}
			close(done)
			wait()
			if n := r.counter("pool_calls_without_worker_total"); n > 0 {
				t.Errorf("%d calls waited for a worker to start", n)
			}
			if n := r.counter("pool_worker_deaths_total"); n > 0 {
				t.Errorf("%d replacements count as deaths", n)
			}
		})
	}
}

func TestEachCallMayHaveAWorkerOfItsOwn(t *testing.T) {
	o := pool(t, "import os\ncalls = []\ndef handle(event, context):\n    calls.append(1)\n    return f'{len(calls)} {os.getpid()}'")
	o.Workers.MaxRequests, o.Workers.Max = 1, 3
	r := start(t, o).up()
	var mu sync.Mutex
	pids := map[string]bool{}
	var callers sync.WaitGroup
	for range 6 {
		callers.Go(func() {
			for range 20 {
				got, err := r.try("GET", "/", "")
				count, pid, _ := strings.Cut(got.body, " ")
				if err != nil || got.status != http.StatusOK || count != "1" {
					t.Errorf("got %d %q, %v", got.status, got.body, err)
				}
				mu.Lock()
				pids[pid] = true
				mu.Unlock()
			}
		})
	}
	callers.Wait()
	if len(pids) != 120 {
		t.Errorf("%d workers answered 120 calls", len(pids))
	}
	if n := r.counter(`pool_worker_deaths_total`); n > 0 {
		t.Errorf("%d replacements count as deaths", n)
	}
}
