package invoke

import (
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

func frozen(name string) function.Endpoints {
	e := replicas(false, 0, name)
	e.Desired, e.Replicas[0].Tier = 0, function.Frozen
	return e
}

func TestNothingIsSentToAReplicaThatHasParted(t *testing.T) {
	table := NewTable(TableOptions{})
	table.Set(replicas(true, 0, "a"))
	ref := replicas(true, 0).Ref
	route := routeOf(t, table)
	var stopped atomic.Bool // the replica's process
	var done atomic.Bool
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for !done.Load() {
				rep := route.view.Load().pick()
				if rep == nil {
					runtime.Gosched()
					continue
				}
				route.inflight.begin(0)
				if stopped.Load() {
					t.Error("a request was sent to a replica that is stopped")
				}
				route.release(rep)
			}
		})
	}
	for n := range 200 {
		cold := frozen("a")
		cold.Replicas[0].Keeps = n
		if table.Set(cold); n > 0 && table.Parted(ref, "a", n+1) {
			t.Fatal("it has parted for a time that nobody has heard of")
		}
		for !table.Parted(ref, "a", n) { // calls in flight end
			runtime.Gosched()
		}
		stopped.Store(true)
		runtime.Gosched()
		stopped.Store(false)
		table.Set(replicas(true, 0, "a"))
	}
	done.Store(true)
	callers.Wait()
}

func TestAFrozenReplicaIsProbedOnlyWhenItIsHotAgain(t *testing.T) {
	n := &network{}
	n.answer("a", 200)
	var table *Table
	wake := func(int) error {
		e := replicas(false, 0, "a")
		e.Replicas[0].Tier = function.Frozen
		table.Set(e) // wanted, and not thawed yet
		synctest.Wait()
		if dials := n.dials.Load(); dials != 0 {
			t.Errorf("a frozen replica was asked %d times", dials)
		}
		table.Set(replicas(false, 0, "a"))
		return nil
	}
	inTime(t, TableOptions{Scaler: &scaler{do: wake}, Dial: n.dial}, func(t *testing.T, running *Table) {
		table = running
		table.Set(frozen("a"))
		route := routeOf(t, table)
		g := mustAcquire(t, route)
		if n.dials.Load() != 1 {
			t.Errorf("it was ready after %d probes, want 1", n.dials.Load())
		}
		route.release(g.replica)
	})
}

func TestACallThatThawsAReplicaIsToldSo(t *testing.T) {
	n := &network{}
	n.answer("a", 503)
	var table *Table
	wake := &scaler{do: func(int) error {
		time.Sleep(30 * time.Millisecond)
		table.Set(replicas(false, 0, "a"))
		time.Sleep(20 * time.Millisecond)
		n.answer("a", 200)
		return nil
	}}
	inTime(t, TableOptions{Scaler: wake, Dial: n.dial}, func(t *testing.T, running *Table) {
		table = running
		table.Set(frozen("a"))
		route := routeOf(t, table)
		g := mustAcquire(t, route)
		thaw := g.wake - 30*time.Millisecond
		if want := (startup{schedule: 30 * time.Millisecond, thaw: thaw}); g.startup != want || thaw < 20*time.Millisecond {
			t.Errorf("waking took %v, of that %+v, want %+v", g.wake, g.startup, want)
		}
		if want := "wake-schedule;dur=30.000, wake-thaw;dur=" + milliseconds(thaw); !strings.HasSuffix(g.timing(), want) {
			t.Errorf("Server-Timing %q has no %q", g.timing(), want)
		}
		route.release(g.replica)
	})
}
