package invoke

import (
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestDemandIsTheTimeThatRequestsTakeTogether(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 2, "a"))
		r := routeOf(t, table)
		first, _ := mustAcquire(t, r), mustAcquire(t, r)
		var third sync.WaitGroup
		third.Go(func() { _, _ = r.acquire(t.Context(), true, nil) })
		synctest.Wait()
		time.Sleep(3 * time.Second)
		want := Demand{InFlight: 2, Waiting: 1, Busy: 6 * time.Second, Queued: 3 * time.Second, Arrived: 3}
		if got, ok := table.Demand(echo); !ok || !cmp.Equal(want, got) {
			t.Errorf("after 3 s (-want +got):\n%s", cmp.Diff(want, got))
		}
		r.release(first.replica)
		third.Wait()
		time.Sleep(time.Second)
		want = Demand{InFlight: 2, Busy: 8 * time.Second, Queued: 3 * time.Second, Arrived: 3}
		if got, _ := table.Demand(echo); !cmp.Equal(want, got) {
			t.Errorf("after 4 s (-want +got):\n%s", cmp.Diff(want, got))
		}
		for range 2 {
			r.release(first.replica)
		}
		time.Sleep(time.Hour)
		want.InFlight = 0
		if got, _ := table.Demand(echo); !cmp.Equal(want, got) {
			t.Errorf("an hour later (-want +got):\n%s", cmp.Diff(want, got))
		}
	})
}

// The meter's sum is modulo its width; what is read of it is not.
func TestAMeterThatOverflowsIsReadRight(t *testing.T) {
	var m meter
	var total total
	var want time.Duration
	now, live := uint64(1)<<43, 0
	random := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		switch {
		case live > 0 && random.IntN(2) == 0:
			m.end(now)
			live--
		case live < 50_000:
			m.begin(now)
			live++
		}
		step := random.Uint64N(1 << 36)
		now += step
		want += time.Duration(live) * time.Duration(step) * time.Microsecond
		if got, count := total.read(&m, now); count != live || got != want {
			t.Fatalf("read %v of %d, want %v of %d", got, count, want, live)
		}
	}
}

func TestCountingManyAtOnceLosesNothing(t *testing.T) {
	var m meter
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range uint64(10_000) {
				m.begin(n)
				m.end(n + uint64(i))
			}
		})
	}
	all.Wait()
	var total total
	want := time.Duration(0+1+2+3+4+5+6+7) * 10_000 * time.Microsecond
	if got, count := total.read(&m, 1<<40); count != 0 || got != want {
		t.Errorf("read %v of %d, want %v of 0", got, count, want)
	}
}

func TestWhatTheQueueWorkerWantsIsDemandWhileItSaysSo(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 2, "a"))
		r := routeOf(t, table)
		expect := func(when string, want Demand) {
			t.Helper()
			if got, _ := table.Demand(echo); !cmp.Equal(want, got) {
				t.Errorf("%s (-want +got):\n%s", when, cmp.Diff(want, got))
			}
		}
		for _, nothing := range []string{"1", "", "many", "-5+3", "5+-3", "+"} {
			r.wishes(nothing)
		}
		expect("after marks that say nothing", Demand{})
		r.wishes("5+95")
		expect("at once", Demand{Wanted: 5, Behind: 95})
		time.Sleep(time.Second)
		expect("a second later", Demand{Wanted: 5, Behind: 95, Wished: 5 * time.Second})
		r.wishes("7+90")
		time.Sleep(time.Second)
		expect("after another word", Demand{Wanted: 7, Behind: 90, Wished: 12 * time.Second})
		time.Sleep(time.Hour)
		expect("an hour later", Demand{Wished: 19 * time.Second})
	})
}

func TestOnlyTheQueueWorkersWordCounts(t *testing.T) {
	for _, proof := range []string{"yes", "no"} {
		table := startTable(t, TableOptions{})
		table.Set(endpoints(startInstance(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))))
		table.Synced()
		req := newRequest(t, "POST", startServer(t, NewProxy(table, ProxyOptions{
			Vouched: func(r *http.Request) bool { return r.Header.Get("Proof") == "yes" }, Log: testkit.Log(t),
		}))+"/function/echo", nil)
		req.Header.Set(HeaderQueued, "5+95")
		req.Header.Set("Proof", proof)
		if res, _ := send(t, req); res.StatusCode != 200 {
			t.Fatalf("proof %q: %d", proof, res.StatusCode)
		}
		if d, _ := table.Demand(echo); d.Wished > 0 != (proof == "yes") {
			t.Errorf("proof %q: %+v", proof, d)
		}
	}
}

func TestTheAlarmRingsOnceForEachTimeItIsSet(t *testing.T) {
	rung := 0
	inTime(t, TableOptions{Alarm: func(function.Ref) { rung++ }}, func(t *testing.T, table *Table) {
		expect := func(want int, after string) {
			t.Helper()
			synctest.Wait()
			if rung != want {
				t.Errorf("rung %d times, want %d, %s", rung, want, after)
			}
			rung = 0
		}
		table.Set(replicas(true, 2, "a"))
		expect(1, "for a new function")
		r := routeOf(t, table)
		first := mustAcquire(t, r)
		expect(1, "for the first request")
		mustAcquire(t, r)
		expect(0, "for another: nobody has set it again")
		table.Alarm(echo, 1)
		expect(1, "when it is set below what there is")
		table.Alarm(echo, 2)
		expect(0, "when it is set at what there is")
		var third sync.WaitGroup
		third.Go(func() { _, _ = r.acquire(t.Context(), true, nil) })
		expect(1, "for a request that waits")
		for range 2 {
			r.release(first.replica)
		}
		third.Wait()
		r.release(first.replica)
		expect(0, "for requests that end")
		r.wishes("4+0")
		expect(0, "for what the queue worker wants: nobody has set it again")
		table.Alarm(echo, 4)
		r.wishes("5+0")
		expect(1, "when it wants more")
		table.Alarm(echo, 4)
		expect(1, "when it is set below what it wants")
	})
}

func BenchmarkMeter(b *testing.B) {
	table := NewTable(TableOptions{})
	var m meter
	for b.Loop() {
		m.begin(table.clock())
		m.end(table.clock())
	}
}
