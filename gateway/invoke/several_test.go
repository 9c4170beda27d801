package invoke

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// startFull is a replica whose watchdog takes one call at a time. It counts
// the calls that its function got.
func startFull(t *testing.T, handled *atomic.Int64) *instance {
	var running atomic.Int64
	return startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer running.Add(-1)
		if running.Add(1) > 1 {
			w.Header().Set("X-Openfaas-Internal", "watchdog")
			http.Error(w, "Concurrent request limit exceeded. Max concurrent requests: 1", http.StatusTooManyRequests)
			return
		}
		handled.Add(1)
		time.Sleep(time.Millisecond) // what the function does
		_, _ = io.Copy(w, r.Body)
	}))
}

func TestTwoGatewaysShareAReplicaThatEachTakesForItsOwn(t *testing.T) {
	var handled atomic.Int64
	e := endpoints(startFull(t, &handled), startFull(t, &handled))
	e.Settings.MaxInflight = 1
	var all sync.WaitGroup
	const gateways, calls = 2, 60
	for range gateways {
		table := startTable(t, TableOptions{})
		table.Set(e)
		table.Synced()
		url := startProxy(t, table)
		for i := range calls {
			all.Go(func() {
				want := fmt.Sprint("call ", i)
				res, body := do(t, "POST", url+"/function/echo", strings.NewReader(want))
				if res.StatusCode != 200 || body != want {
					t.Errorf("%d %q, want 200 %q", res.StatusCode, body, want)
				}
			})
		}
	}
	all.Wait()
	if got := handled.Load(); got != gateways*calls {
		t.Errorf("the function got %d calls, want each of %d once", got, gateways*calls)
	}
}

func TestOnlyACallThatWasNeverStartedAndMayWaitIsTriedAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		answer map[string]string // headers
		queued bool
		body   io.Reader
		tries  int64
	}{
		"turned away by the watchdog":      {map[string]string{"X-Openfaas-Internal": "watchdog"}, false, strings.NewReader("x"), 3},
		"by the limiter of OpenFaaS":       {map[string]string{"X-Openfaas-Internal": "faas-middleware"}, false, nil, 3},
		"by the function itself":           {nil, false, nil, 1},
		"with a word on when to try again": {map[string]string{"X-Openfaas-Internal": "watchdog", "Retry-After": "7"}, false, nil, 1},
		"a call of the queue":              {map[string]string{"X-Openfaas-Internal": "watchdog"}, true, nil, 1},
		"a body that is sent only once":    {map[string]string{"X-Openfaas-Internal": "watchdog"}, false, io.MultiReader(strings.NewReader("x")), 1},
	} {
		var tries atomic.Int64
		url := startEcho(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if tries.Add(1) >= 3 {
				return
			}
			for k, v := range tt.answer {
				w.Header().Set(k, v)
			}
			w.WriteHeader(http.StatusTooManyRequests)
		})
		req := newRequest(t, "POST", url+"/function/echo", tt.body)
		if tt.queued {
			req.Header.Set(HeaderQueued, "1")
		}
		res, _ := send(t, req)
		want := http.StatusTooManyRequests
		if tt.tries == 3 {
			want = http.StatusOK
		}
		if res.StatusCode != want || tries.Load() != tt.tries {
			t.Errorf("%s: %d after %d tries, want %d after %d", name, res.StatusCode, tries.Load(), want, tt.tries)
		}
	}
}

func TestACallThatIsAlwaysTurnedAwayIsRefusedInTheEnd(t *testing.T) {
	table := startTable(t, TableOptions{MaxWait: 50 * time.Millisecond})
	table.Set(endpoints(startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Openfaas-Internal", "watchdog")
		w.WriteHeader(http.StatusTooManyRequests)
	}))))
	table.Synced()
	res, body := do(t, "GET", startProxy(t, table)+"/function/echo", nil)
	if res.StatusCode != http.StatusTooManyRequests || res.Header.Get("Retry-After") == "" || !strings.Contains(body, "no free slot") {
		t.Errorf("%d %v %q, want 429 with Retry-After", res.StatusCode, res.Header, body)
	}
}

func TestOneThatComesBackGoesBeforeThoseWhoCameLater(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 1, "a"))
		r := routeOf(t, table)
		first := mustAcquire(t, r)
		var order []string
		var mu sync.Mutex
		var all sync.WaitGroup
		wait := func(name string, before *grant) {
			all.Go(func() {
				g, err := r.acquire(t.Context(), true, before)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
				time.Sleep(time.Second)
				r.release(g.replica)
			})
			time.Sleep(time.Millisecond)
		}
		wait("one", nil)
		wait("two", nil)
		wait("back", &grant{waited: time.Second})
		r.release(first.replica)
		all.Wait()
		if got := strings.Join(order, " "); got != "back one two" {
			t.Errorf("served in the order %s", got)
		}
	})
}

// silent returns the address of a port at which nobody accepts and nobody
// refuses, as behind a network that is cut.
func silent(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprint("127.0.0.1:", name.(*syscall.SockaddrInet4).Port)
	for range 64 { // until its backlog is full
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if late, ok := errors.AsType[net.Error](err); ok && late.Timeout() {
			return address
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Skip("SKIPPED: this system takes connections that nobody accepts")
	return ""
}

func TestAReplicaBehindACutNetworkHoldsNoCallForLong(t *testing.T) {
	live := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	e := endpoints(live)
	e.Desired = 2
	e.Replicas = append(e.Replicas, function.Replica{ID: "cut", Address: "tcp:" + silent(t), Ready: true})
	var dials atomic.Int64
	dialer := newDialer()
	table := startTable(t, TableOptions{Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == "tcp" {
			dials.Add(1)
		}
		return dialer.DialContext(ctx, network, address)
	}})
	table.Set(e)
	table.Synced()
	url := startProxy(t, table)
	for dials.Load() == 0 { // until one was sent that way, too
		if res, body := do(t, "POST", url+"/function/echo", strings.NewReader("x")); res.StatusCode != 200 || body != "ok" {
			t.Fatalf("%d %q", res.StatusCode, body)
		}
	}
	// It is out of use now, and asked in the background only.
	r := routeOf(t, table)
	if usable := r.view.Load().usable; len(usable) != 1 || usable[0].ID != live.ID {
		t.Errorf("%d replicas are in use", len(usable))
	}
}
