package invoke

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A fog lies between the gateway and a replica: while it is thick, connections
// are made and nothing comes back, as from a process that was stopped.
type fog struct {
	mu     sync.Mutex
	lifted chan struct{} // nil: it is not thick
}

func (f *fog) set(thick bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if thick {
		f.lifted = make(chan struct{})
		return
	}
	close(f.lifted)
	f.lifted = nil
}

func (f *fog) wait() {
	f.mu.Lock()
	lifted := f.lifted
	f.mu.Unlock()
	if lifted != nil {
		<-lifted
	}
}

// hide puts f before in, which is then reached through it.
func (f *fog) hide(t *testing.T, in *instance) {
	t.Helper()
	behind := strings.TrimPrefix(in.Address, "unix:")
	ln, err := net.Listen("unix", behind+"-fog")
	if err != nil {
		t.Fatal(err)
	}
	in.Address = "unix:" + behind + "-fog"
	var all sync.WaitGroup
	all.Go(func() {
		for {
			front, err := ln.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("unix", behind)
			if err != nil {
				front.Close()
				continue
			}
			all.Go(func() {
				defer back.Close()
				_, _ = io.Copy(back, front) // until one of them is closed
			})
			all.Go(func() {
				defer front.Close()
				buf := make([]byte, 4096)
				for {
					n, err := back.Read(buf)
					f.wait()
					if _, gone := front.Write(buf[:n]); err != nil || gone != nil {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		in.stop()
		all.Wait()
	})
}

func TestAReplicaThatIsStoppedIsRoutedAroundAndComesBack(t *testing.T) {
	var served [2]atomic.Int64
	var all []*instance
	for i := range served {
		all = append(all, startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			served[i].Add(1)
			fmt.Fprint(w, i)
		})))
	}
	var f fog
	f.hide(t, all[0])
	table := startTable(t, TableOptions{})
	table.Set(endpoints(all...))
	url := startProxy(t, table)
	call := func() string {
		res, body := do(t, "POST", url+"/function/echo", strings.NewReader("x"))
		if res.StatusCode != 200 {
			t.Errorf("%d %q", res.StatusCode, body)
		}
		return body
	}
	for served[0].Load() == 0 || served[1].Load() == 0 {
		call()
	}
	f.set(true)
	// Callers keep coming, and some are caught in it.
	usable := func() int { return len(routeOf(t, table).view.Load().usable) }
	var calls sync.WaitGroup
	stop := make(chan struct{})
	calls.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				calls.Go(func() { call() })
			}
		}
	})
	for usable() != 1 {
		if t.Context().Err() != nil {
			t.Fatal("the replica that was stopped stays in use")
		}
		time.Sleep(time.Millisecond)
	}
	close(stop)
	for range 50 {
		if got := call(); got != "1" {
			t.Fatalf("%s answered, which was stopped", got)
		}
	}
	f.set(false)
	for usable() != 2 {
		if t.Context().Err() != nil {
			t.Fatal("the replica that goes on does not come back")
		}
		time.Sleep(time.Millisecond)
	}
	calls.Wait()
	for before := served[0].Load(); served[0].Load() == before; {
		call()
	}
}

func TestAReplicaThatIsOnlySlowStaysInUse(t *testing.T) {
	release := make(chan struct{})
	slow := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-release }))
	quick := startInstance(t, http.HandlerFunc(nothing))
	table := startTable(t, TableOptions{})
	e := endpoints(slow, quick)
	table.Set(e)
	url := startProxy(t, table)
	var calls sync.WaitGroup
	stop := make(chan struct{})
	calls.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				calls.Go(func() { do(t, "POST", url+"/function/echo", strings.NewReader("x")) })
			}
		}
	})
	r := routeOf(t, table)
	asked := func() bool {
		for _, rep := range r.view.Load().usable {
			if rep.asked.Load() > 0 {
				return true
			}
		}
		return false
	}
	for !asked() {
		if t.Context().Err() != nil {
			t.Fatal("the slow replica is never asked whether it is there")
		}
		time.Sleep(time.Millisecond)
	}
	// Longer than the question may take.
	for end := time.Now().Add(2 * probeTimeout); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if n := len(r.view.Load().usable); n != 2 {
			t.Fatalf("%d replicas are in use, want both", n)
		}
	}
	close(stop)
	close(release)
	calls.Wait()
}
