package invoke

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// A network is what the routes of these tests dial: replicas by address, each
// of which answers /_/ready with a status, or nobody where there is none. It
// works in virtual time, where sockets do not.
type network struct {
	dials atomic.Int64

	capacity int // that all say they have; 0 is not said

	mu    sync.Mutex // guards ready
	ready map[string]int
}

func (n *network) answer(address string, status int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ready == nil {
		n.ready = map[string]int{}
	}
	n.ready[address] = status
}

func (n *network) dial(_ context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials.Add(1)
	status, ok := n.ready[address]
	if !ok {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	ours, theirs := net.Pipe()
	go func() { // the end of virtual time waits for it
		defer theirs.Close()
		buf := make([]byte, 1000)
		if _, err := theirs.Read(buf); err != nil {
			return
		}
		said := ""
		if n.capacity > 0 {
			said = fmt.Sprintf("%s: %d\r\n", function.HeaderCapacity, n.capacity)
		}
		fmt.Fprintf(theirs, "HTTP/1.1 %d x\r\n%sContent-Length: 0\r\nConnection: close\r\n\r\n", status, said)
	}()
	return ours, nil
}

// A scaler counts what it is asked for, and calls do.
type scaler struct {
	asked atomic.Int64
	do    func(replicas int) error
}

func (s *scaler) Scale(_ context.Context, _ function.Ref, replicas int) error {
	s.asked.Add(1)
	return s.do(replicas)
}

func replicas(ready bool, slots int, names ...string) function.Endpoints {
	e := function.Endpoints{Ref: echo, Desired: len(names), Min: 2}
	e.Settings.LoadTimeout = function.Duration(10 * time.Minute)
	e.Settings.ExecTimeout = function.Duration(time.Minute)
	for _, name := range names {
		e.Replicas = append(e.Replicas, function.Replica{ID: name, Address: "tcp:" + name, Ready: ready, Slots: slots})
	}
	return e
}

// inTime runs f in virtual time with a table that is running.
func inTime(t *testing.T, o TableOptions, f func(*testing.T, *Table)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		table := NewTable(o)
		var run sync.WaitGroup
		run.Go(func() { _ = table.Run(ctx) })
		f(t, table)
		cancel()
		run.Wait()
	})
}

func routeOf(t *testing.T, table *Table) *route {
	t.Helper()
	r, err := table.find(t.Context(), "echo")
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustAcquire(t *testing.T, r *route) grant {
	t.Helper()
	g, err := r.acquire(t.Context(), true, nil)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestSlotsBoundWhatAReplicaGets(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 2, "a", "b", "c"))
		r := routeOf(t, table)
		got := map[string]int{}
		for range 6 {
			got[mustAcquire(t, r).replica.ID]++
		}
		if diff := cmp.Diff(map[string]int{"a": 2, "b": 2, "c": 2}, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if n := table.InFlight(echo); n != 6 {
			t.Errorf("InFlight = %d", n)
		}
		if _, err := r.acquire(t.Context(), false, nil); !errors.Is(err, fault.Busy) {
			t.Errorf("the seventh, which may not wait: %v", err)
		}
	})
}

func TestMaxInflightIsTheSlotsOfReplicasThatNameNone(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		e := replicas(true, 0, "a")
		e.Settings.MaxInflight = 1
		table.Set(e)
		r := routeOf(t, table)
		mustAcquire(t, r)
		if _, err := r.acquire(t.Context(), false, nil); !errors.Is(err, fault.Busy) {
			t.Errorf("the second: %v", err)
		}
	})
}

func TestAReplicaWhoseSlotsAreAGuessIsAskedOnce(t *testing.T) {
	for _, guessed := range []bool{true, false} {
		net := network{capacity: 20}
		net.answer("a", http.StatusOK)
		inTime(t, TableOptions{Dial: net.dial}, func(t *testing.T, table *Table) {
			e := replicas(true, 1, "a")
			e.Replicas[0].Guessed = guessed
			table.Set(e)
			r := routeOf(t, table)
			synctest.Wait()
			table.Set(e) // what is known stays known
			synctest.Wait()
			want, asked := int64(1), int64(0)
			if guessed {
				want, asked = 20, 1
			}
			if got := r.replicas[0].slots.Load(); got != want {
				t.Errorf("guessed %t: %d slots, want %d", guessed, got, want)
			}
			if got := net.dials.Load(); got != asked {
				t.Errorf("guessed %t: asked %d times, want %d", guessed, got, asked)
			}
		})
	}
}

func TestTheLessBusyReplicaIsPreferred(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 0, "a", "b"))
		r := routeOf(t, table)
		for range 50 {
			mustAcquire(t, r)
		}
		for _, rep := range r.replicas {
			if n := rep.inflight.Load(); n != 25 {
				t.Errorf("%s has %d of 50", rep.ID, n)
			}
		}
	})
}

func TestFreedSlotsGoToThoseWhoWaitInOrder(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 1, "a"))
		r := routeOf(t, table)
		held := mustAcquire(t, r)
		var mu sync.Mutex
		var order []int
		var all sync.WaitGroup
		for i := range 5 {
			all.Go(func() {
				g, err := r.acquire(t.Context(), true, nil)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				time.Sleep(time.Second)
				if want := time.Duration(i+1) * time.Second; g.waited != want || g.wake != 0 {
					t.Errorf("%d waited %s, want %s; wake = %s", i, g.waited, want, g.wake)
				}
				r.release(g.replica)
			})
			synctest.Wait()
		}
		if n := table.Waiting(echo); n != 5 {
			t.Errorf("Waiting = %d", n)
		}
		time.Sleep(time.Second)
		r.release(held.replica)
		all.Wait()
		if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, order); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		if in, waiting := table.InFlight(echo), table.Waiting(echo); in != 0 || waiting != 0 {
			t.Errorf("InFlight = %d, Waiting = %d at the end", in, waiting)
		}
	})
}

func TestTheQueueIsBoundedInLengthAndTime(t *testing.T) {
	inTime(t, TableOptions{MaxWaiting: 2, MaxWait: 5 * time.Second}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 1, "a"))
		r := routeOf(t, table)
		held := mustAcquire(t, r)
		start := time.Now()
		var all sync.WaitGroup
		for range 2 {
			all.Go(func() {
				_, err := r.acquire(t.Context(), true, nil)
				if !errors.Is(err, fault.Busy) || time.Since(start) != 5*time.Second {
					t.Errorf("after %s: %v", time.Since(start), err)
				}
			})
		}
		synctest.Wait()
		_, err := r.acquire(t.Context(), true, nil)
		if retry, ok := errors.AsType[*web.Retry](err); !errors.Is(err, fault.Busy) || !ok || retry.After <= 0 {
			t.Errorf("the third in a queue of two: %v", err)
		}
		all.Wait()
		r.release(held.replica)
		if g := mustAcquire(t, r); g.waited != 0 {
			t.Errorf("the slot was lost to somebody who had left")
		}
	})
}

func TestOfTheCallsOfTheQueueOnlySomeWaitForTheFirstReplica(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(false, 1, "a"))
		r := routeOf(t, table)
		var all sync.WaitGroup
		var served, refused atomic.Int64
		for range maxWakers + 5 {
			all.Go(func() {
				g, err := r.acquire(t.Context(), false, nil)
				switch {
				case err == nil:
					served.Add(1)
					r.release(g.replica)
				case errors.Is(err, fault.Busy):
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if waiting := table.Waiting(echo); waiting != maxWakers || refused.Load() != 5 {
			t.Errorf("%d wait and %d were refused, want %d and 5", waiting, refused.Load(), maxWakers)
		}
		table.Set(replicas(true, 1, "a"))
		all.Wait()
		if served.Load() != maxWakers {
			t.Errorf("%d were served, want those that waited", served.Load())
		}
	})
}

func TestOneWhoGoesAwayLeavesTheQueue(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 1, "a"))
		r := routeOf(t, table)
		held := mustAcquire(t, r)
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := r.acquire(ctx, true, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("err = %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() { r.release(mustAcquire(t, r).replica) })
		synctest.Wait()
		cancel()
		synctest.Wait()
		r.release(held.replica)
		all.Wait()
		if in, waiting := table.InFlight(echo), table.Waiting(echo); in != 0 || waiting != 0 {
			t.Errorf("InFlight = %d, Waiting = %d at the end", in, waiting)
		}
	})
}

func TestASleepingFunctionIsWokenOnceForAllWhoWait(t *testing.T) {
	var net network
	wake := &scaler{}
	inTime(t, TableOptions{Scaler: wake, Dial: net.dial}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 0))
		wake.do = func(n int) error {
			if n != 2 {
				t.Errorf("asked for %d replicas, want the function's minimum of 2", n)
			}
			go func() {
				time.Sleep(100 * time.Millisecond) // scheduling
				table.Set(replicas(false, 3, "a", "b"))
				time.Sleep(400 * time.Millisecond) // starting
				net.answer("a", 503)
				time.Sleep(500 * time.Millisecond) // loading
				net.answer("a", 200)
				time.Sleep(500 * time.Millisecond)
				net.answer("b", 200)
			}()
			return nil
		}
		start := time.Now()
		r := routeOf(t, table)
		var atOnce, later atomic.Int64
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				g, err := r.acquire(t.Context(), false, nil) // even those that may not wait behind others
				if err != nil {
					t.Error(err)
					return
				}
				switch took := time.Since(start); {
				case took >= time.Second && took <= time.Second+slowProbe && g.wake == g.waited:
					atOnce.Add(1)
				case took >= 1500*time.Millisecond && g.wake < g.waited && g.wake <= time.Second+slowProbe:
					later.Add(1)
				default:
					t.Errorf("released after %s, of which waking took %s", took, g.wake)
				}
			})
		}
		synctest.Wait()
		if n := table.Waiting(echo); n != 10 {
			t.Errorf("Waiting = %d", n)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if atOnce.Load() != 3 || later.Load() != 3 || table.Waiting(echo) != 4 {
			t.Errorf("replicas of three slots: %d at once, %d with the second, %d wait", atOnce.Load(), later.Load(), table.Waiting(echo))
		}
		for _, rep := range r.replicas {
			for range 3 {
				r.release(rep)
			}
		}
		all.Wait()
		if n := wake.asked.Load(); n != 1 {
			t.Errorf("the scaler was asked %d times", n)
		}
	})
}

func TestWakingIsTriedAgainUntilItSucceeds(t *testing.T) {
	var net network
	wake := &scaler{}
	inTime(t, TableOptions{Scaler: wake, Dial: net.dial}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 0))
		net.answer("a", 200)
		wake.do = func(int) error {
			if wake.asked.Load() < 4 {
				return errors.New("the provider is restarting")
			}
			table.Set(replicas(false, 0, "a"))
			return nil
		}
		start := time.Now()
		mustAcquire(t, routeOf(t, table))
		if took := time.Since(start); wake.asked.Load() != 4 || took > time.Second {
			t.Errorf("asked %d times, took %s", wake.asked.Load(), took)
		}
	})
}

func TestThoseWhoWaitForWhatCannotStartGetTheReasonAtOnce(t *testing.T) {
	for _, tt := range []struct {
		name   string
		happen func(*Table)
		scale  error
		want   fault.Kind
		text   string
	}{
		{"the provider says why", func(table *Table) {
			e := replicas(false, 0, "a")
			e.Failure = "ModuleNotFoundError: No module named 'sklearn'"
			table.Set(e)
		}, nil, fault.Unavailable, "No module named 'sklearn'"},
		{"the function is removed", func(table *Table) { table.Remove(echo) }, nil, fault.NotFound, "removed"},
		{"scaling is refused for good", func(*Table) {}, fault.Denied.Errorf("no more memory for you"), fault.Unavailable, "no more memory"},
		{"scaling fails again and again", func(*Table) {}, errors.New("no route to provider"), fault.Unavailable, "no route"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var net network
			wake := &scaler{do: func(int) error { return tt.scale }}
			inTime(t, TableOptions{Scaler: wake, Dial: net.dial}, func(t *testing.T, table *Table) {
				table.Set(replicas(true, 0))
				r := routeOf(t, table)
				var all sync.WaitGroup
				for range 5 {
					all.Go(func() {
						if _, err := r.acquire(t.Context(), true, nil); !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
							t.Errorf("err = %v, want %s with %q", err, tt.want, tt.text)
						}
					})
				}
				synctest.Wait()
				start := time.Now()
				tt.happen(table)
				all.Wait()
				if took := time.Since(start); took > wakeTries*wakePause {
					t.Errorf("they learnt it after %s", took)
				}
			})
		})
	}
}

func TestAnOldFailureDoesNotKeepASleepingFunctionFromBeingWoken(t *testing.T) {
	var net network
	wake := &scaler{}
	inTime(t, TableOptions{Scaler: wake, Dial: net.dial}, func(t *testing.T, table *Table) {
		e := replicas(true, 0)
		e.Failure = "it crashed yesterday"
		table.Set(e)
		wake.do = func(int) error { table.Set(replicas(true, 0, "a")); return nil }
		mustAcquire(t, routeOf(t, table))
	})
}

func TestTheWaitForTheFirstReplicaIsBounded(t *testing.T) {
	for _, tt := range []struct {
		name         string
		function     time.Duration
		installation time.Duration
		want         time.Duration
	}{
		{"by load_timeout if nobody says anything else", 0, 0, 10 * time.Minute},
		{"as the installation says", 0, time.Minute, time.Minute},
		{"as the function says", 5 * time.Second, time.Minute, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var net network
			o := TableOptions{Scaler: &scaler{do: func(int) error { return nil }}, Dial: net.dial, WakeTimeout: tt.installation}
			inTime(t, o, func(t *testing.T, table *Table) {
				e := replicas(false, 0, "a")
				e.Settings.WakeTimeout = function.Duration(tt.function)
				e.Waiting = "no node has room for it"
				table.Set(e)
				start := time.Now()
				_, err := routeOf(t, table).acquire(t.Context(), true, nil)
				retry, ok := errors.AsType[*web.Retry](err)
				if !errors.Is(err, fault.Unavailable) || !ok || retry.After <= 0 || !strings.Contains(err.Error(), e.Waiting) || time.Since(start) != tt.want {
					t.Errorf("after %s: %v", time.Since(start), err)
				}
				time.Sleep(time.Second)
				before := net.dials.Load()
				time.Sleep(time.Hour)
				if net.dials.Load() != before {
					t.Errorf("%d probes although nobody waits", net.dials.Load()-before)
				}
			})
		})
	}
}

func TestAFunctionBoundsItsOwnQueue(t *testing.T) {
	inTime(t, TableOptions{MaxWaiting: 5}, func(t *testing.T, table *Table) {
		e := replicas(false, 0, "a")
		e.Replicas = nil
		e.Settings.MaxWaiting = 1
		e.Waiting = "no node has room for it"
		table.Set(e)
		r := routeOf(t, table)
		first, leave := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		waiting.Go(func() {
			if _, err := r.acquire(first, true, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("the first: %v", err)
			}
		})
		synctest.Wait()
		_, err := r.acquire(t.Context(), true, nil)
		if _, ok := errors.AsType[*web.Retry](err); !ok || !errors.Is(err, fault.Busy) || !strings.Contains(err.Error(), e.Waiting) {
			t.Errorf("the second in a queue of one: %v", err)
		}
		leave()
		waiting.Wait()
	})
}

func TestAColdRequestIsToldWhatItWaitedFor(t *testing.T) {
	var net network
	wake := &scaler{}
	inTime(t, TableOptions{Scaler: wake, Dial: net.dial}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 0))
		wake.do = func(int) error {
			go func() {
				time.Sleep(100 * time.Millisecond) // a place is found
				time.Sleep(900 * time.Millisecond) // the image comes, the container starts
				e := replicas(false, 0, "a")
				e.Replicas[0].Startup = function.Startup{Pull: function.Duration(700 * time.Millisecond), Start: function.Duration(200 * time.Millisecond)}
				table.Set(e)
				time.Sleep(300 * time.Millisecond) // the process begins to listen
				net.answer("a", 503)
				time.Sleep(500 * time.Millisecond) // the model is loaded
				net.answer("a", 200)
			}()
			return nil
		}
		r := routeOf(t, table)
		g := mustAcquire(t, r)
		near := func(name string, got, want time.Duration) {
			if got < want || got > want+2*slowProbe {
				t.Errorf("%s took %v, want %v", name, got, want)
			}
		}
		near("waking", g.wake, 1800*time.Millisecond)
		near("pull", g.startup.pull, 700*time.Millisecond)
		near("start", g.startup.start, 500*time.Millisecond)
		near("load", g.startup.load, 500*time.Millisecond-slowProbe)
		if sum := g.startup.schedule + g.startup.pull + g.startup.start + g.startup.load; sum != g.wake || g.wake != g.waited {
			t.Errorf("the parts make %v, waking took %v, all waiting %v", sum, g.wake, g.waited)
		}
		for _, want := range []string{"queue;dur=0, wake;dur=", ", wake-schedule;dur=100.000", ", wake-pull;dur=700.000", ", wake-start;dur=", ", wake-load;dur="} {
			if got := g.timing(); !strings.Contains(got, want) {
				t.Errorf("Server-Timing %q has no %q", got, want)
			}
		}
		r.release(g.replica)

		// One that came when most of it was over waited for the rest only.
		late := startup{schedule: 100, pull: 700, start: 500, load: 500}.within(600)
		if want := (startup{start: 100, load: 500}); late != want {
			t.Errorf("the last 600 of it are %+v, want %+v", late, want)
		}
	})
}

func TestProbingStartsAtAMillisecondAndSlowsDown(t *testing.T) {
	var net network
	inTime(t, TableOptions{Dial: net.dial}, func(t *testing.T, table *Table) {
		table.Set(replicas(false, 0, "a"))
		r := routeOf(t, table)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var all sync.WaitGroup
		all.Go(func() { _, _ = r.acquire(ctx, true, nil) })
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if net.dials.Load() < 4 {
			t.Errorf("%d probes in the first 10 ms", net.dials.Load())
		}
		all.Wait()
		if net.dials.Load() > 450 {
			t.Errorf("%d probes in 10 s", net.dials.Load())
		}
	})
}

func TestARefusingReplicaIsOutOfUseUntilItAnswers(t *testing.T) {
	var net network
	inTime(t, TableOptions{Dial: net.dial}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 0, "a", "b"))
		r := routeOf(t, table)
		a := r.replicas[0]
		r.refuse(a)
		for range 20 {
			if got := mustAcquire(t, r).replica; got == a {
				t.Fatal("the refusing replica was used")
			}
		}
		table.Set(replicas(true, 0, "a", "b")) // the provider has not noticed
		if len(r.view.Load().usable) != 1 {
			t.Error("the provider's word alone brought it back")
		}
		time.Sleep(time.Second)
		net.answer("a", 200)
		time.Sleep(slowProbe)
		synctest.Wait()
		if len(r.view.Load().usable) != 2 {
			t.Error("it answers a probe and is still out of use")
		}
	})
}

func TestAReplicaThatSaysItIsNotReadyAnyMoreGetsNothing(t *testing.T) {
	var net network
	inTime(t, TableOptions{Dial: net.dial}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 0, "a"))
		table.Set(replicas(false, 0, "a"))
		if n := len(routeOf(t, table).view.Load().usable); n != 0 {
			t.Errorf("%d replicas are in use", n)
		}
	})
}

func TestStoppingRefusesThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var net network
		ctx, cancel := context.WithCancel(t.Context())
		table := NewTable(TableOptions{Dial: net.dial, Scaler: &scaler{do: func(int) error { return nil }}})
		var all sync.WaitGroup
		all.Go(func() { _ = table.Run(ctx) })
		table.Set(replicas(true, 0))
		r := routeOf(t, table)
		all.Go(func() {
			if _, err := r.acquire(t.Context(), true, nil); !errors.Is(err, fault.Unavailable) {
				t.Errorf("err = %v", err)
			}
		})
		synctest.Wait()
		cancel()
		all.Wait()
		if _, err := r.acquire(t.Context(), true, nil); !errors.Is(err, fault.Unavailable) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestAnUnknownFunctionIsNotFoundOnceTheTableIsComplete(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		start := time.Now()
		if _, err := table.find(t.Context(), "nope"); !errors.Is(err, fault.Unavailable) || time.Since(start) != firstSync {
			t.Errorf("before the first sync, after %s: %v", time.Since(start), err)
		}
		var all sync.WaitGroup
		all.Go(func() {
			if _, err := table.find(t.Context(), "echo"); err != nil {
				t.Errorf("deployed while the request waited: %v", err)
			}
		})
		synctest.Wait()
		table.Set(replicas(true, 0, "a"))
		table.Synced()
		all.Wait()
		if _, err := table.find(t.Context(), "nope"); !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), "error finding function nope.openfaas-fn") {
			t.Errorf("err = %v", err)
		}
	})
}

func TestFunctionsAreFoundByBothTheirNames(t *testing.T) {
	table := NewTable(TableOptions{})
	other := function.Endpoints{Ref: function.Ref{Name: "echo", Namespace: "other"}}
	table.Set(replicas(true, 0, "a"))
	table.Set(other)
	table.Synced()
	for name, want := range map[string]string{"echo": "openfaas-fn", "echo.openfaas-fn": "openfaas-fn", "echo.other": "other"} {
		r, err := table.find(t.Context(), name)
		if err != nil || r.ref.Namespace != want {
			t.Errorf("%q is %v, %v", name, r, err)
		}
	}
	n := 0
	for range table.All() {
		n++
	}
	if n != 2 {
		t.Errorf("All yields %d functions", n)
	}
	table.Remove(echo)
	for _, name := range []string{"echo", "echo.openfaas-fn"} {
		if _, err := table.find(t.Context(), name); !errors.Is(err, fault.NotFound) {
			t.Errorf("%q after its removal: %v", name, err)
		}
	}
	if _, err := table.find(t.Context(), "echo.other"); err != nil {
		t.Errorf("the other one: %v", err)
	}
}

func TestSlotsAreNeverExceededUnderLoad(t *testing.T) {
	table := startTable(t, TableOptions{MaxWaiting: 10_000})
	table.Set(replicas(true, 3, "a", "b", "c"))
	r := routeOf(t, table)
	var now, most atomic.Int64
	var all sync.WaitGroup
	for range 64 {
		all.Go(func() {
			for range 500 {
				g, err := r.acquire(t.Context(), true, nil)
				if err != nil {
					t.Error(err)
					return
				}
				n := now.Add(1)
				for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
				}
				now.Add(-1)
				r.release(g.replica)
			}
		})
	}
	all.Wait()
	if most.Load() > 9 {
		t.Errorf("%d at once with nine slots", most.Load())
	}
	if in, waiting := table.InFlight(echo), table.Waiting(echo); in != 0 || waiting != 0 {
		t.Errorf("InFlight = %d, Waiting = %d at the end", in, waiting)
	}
}
