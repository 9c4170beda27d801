package async

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
)

// TestAClusterThatLosesAServerLosesNoCall stops the server that leads the calls
// stream while calls are submitted and run: what was accepted before, during
// and after the election must run.
func TestAClusterThatLosesAServerLosesNoCall(t *testing.T) {
	const calls = 600
	servers := natstest.Cluster(t, 3)
	var urls []string
	for _, s := range servers {
		urls = append(urls, s.ClientURL())
	}
	reconnected := make(chan struct{}, 100)
	nc := connect(t, ConnectOptions{
		URL: strings.Join(urls, ","), Name: "test", Log: testkit.Log(t), Reconnected: func() { reconnected <- struct{}{} },
	})
	q, err := New(nc, Options{Replicas: 3, Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	ran := map[string]int{}
	r := rigWith(t, q, func(_ http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		mu.Lock()
		defer mu.Unlock()
		ran[string(body)]++
	})
	run(t, q.Run)
	stop := r.work()
	<-q.Opened()

	// A call of the submitters is submitted until it is accepted: an election
	// may refuse it with 503.
	ids := make([]string, calls)
	var submitting sync.WaitGroup
	half := make(chan struct{})
	for n := range 6 {
		submitting.Go(func() {
			for i := n; i < calls; i += 6 {
				if i == calls/2+n && n == 0 {
					close(half)
				}
				for {
					a := r.do("POST", CallsPath+fmt.Sprint("fn", i%3), fmt.Sprint(i), "Idempotency-Key", fmt.Sprint(i))
					if a.status == http.StatusAccepted {
						ids[i] = strings.TrimPrefix(a.header.Get("Location"), CallsPath)
						break
					}
					if a.status != http.StatusServiceUnavailable {
						t.Errorf("call %d: %d %s", i, a.status, a.body)
						return
					}
					time.Sleep(50 * time.Millisecond) // as a caller does
				}
			}
		})
	}
	<-half
	info, err := q.calls.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, s := range servers {
		if s.Name() == info.Cluster.Leader {
			s.Shutdown()
			s.WaitForShutdown()
		}
	}
	submitting.Wait()
	for i, id := range ids {
		if c := r.await(id); c.State != Done {
			t.Errorf("call %d is %s after %d tries", i, c.State, len(c.Tries))
		}
	}
	t.Logf("the second half was accepted and had run %s after the server stopped", time.Since(began).Round(time.Millisecond))
	mu.Lock()
	defer mu.Unlock()
	repeated := 0
	for i := range calls {
		if n := ran[fmt.Sprint(i)]; n > 0 {
			repeated += n - 1
		} else {
			t.Errorf("call %d never ran", i)
		}
	}
	t.Logf("%d runs were repeated", repeated)
	stop()
}
