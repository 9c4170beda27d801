package watchdog_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// A function may start well and later be unable to: a disk is full, a
// connection that each worker needs is refused.
func TestAFunctionWhoseWorkersDoNotStayAliveIsNotReadyUntilOneDoes(t *testing.T) {
	for name, test := range map[string]struct{ hook, want string }{
		"they end at their start": {
			"if os.path.exists(ill): os._exit(5)",
			"3 have ended one after the other: a worker ended before it was ready: exit status 5",
		},
		"they say why they cannot start": {
			"if os.path.exists(ill): raise OSError('no route to the database')",
			"3 have ended one after the other: OSError: no route to the database",
		},
		"they end while they wait for a call": {
			"threading.Thread(target=fall_ill, daemon=True).start()",
			"exit status 6",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ill := filepath.Join(t.TempDir(), "ill")
			r := start(t, pool(t, `
import os, threading, time
ill = os.environ["ILL"]
def fall_ill():
    while True:
        if os.path.exists(ill): os._exit(6)
        time.sleep(0.001)
def after_fork():
    `+test.hook+`
def handle(event, context): return str(os.getpid())
`, "ILL="+ill)).up()
			pid, err := strconv.Atoi(r.do("GET", "/", "").body)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(ill, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if worker, err := os.FindProcess(pid); err == nil {
				_ = worker.Kill() // it may have ended
			}
			for {
				select {
				case <-r.ended:
					t.Fatalf("the watchdog has ended: %v", r.err)
				default:
				}
				status, body := r.tryReady()
				if status == http.StatusServiceUnavailable {
					if !strings.HasPrefix(body, "failing: no worker stays alive, ") || !strings.Contains(body, test.want) {
						t.Errorf("ready says %q", body)
					}
					break
				}
				time.Sleep(time.Millisecond)
			}
			if got := r.do("GET", "/_/health", ""); got.status != http.StatusOK {
				t.Errorf("health: %d %q", got.status, got.body)
			}
			if err := os.Remove(ill); err != nil {
				t.Fatal(err)
			}
			if got := r.do("GET", "/", ""); got.status != http.StatusOK { // waits for the next worker
				t.Errorf("got %d %q", got.status, got.body)
			}
			if status, body := r.tryReady(); status != http.StatusOK {
				t.Errorf("when a worker has answered, ready says %d %q", status, body)
			}
		})
	}
}

func TestAFunctionWhoseWorkersNeverStayAliveFails(t *testing.T) {
	r := start(t, pool(t, "import os\ndef after_fork(): os._exit(5)\ndef handle(event, context): pass"))
	<-r.ended
	if r.err == nil || r.err.Error() != "a worker ended before it was ready: exit status 5" {
		t.Errorf("Run() = %v", r.err)
	}
}
