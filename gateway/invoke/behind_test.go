package invoke

import (
	"errors"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// answer is a call of r that takes as long as it says.
func answer(t *testing.T, r *route, took time.Duration) {
	t.Helper()
	g := mustAcquire(t, r)
	time.Sleep(took)
	g.replica.pace.note(took, 1, 1)
	r.release(g.replica)
}

// fill takes what r gives, and returns how much of it each replica has given.
func fill(t *testing.T, r *route) (grants []grant, by map[string]int) {
	t.Helper()
	by = map[string]int{}
	for {
		g, err := r.acquire(t.Context(), false, nil)
		if errors.Is(err, fault.Busy) {
			return grants, by
		}
		if err != nil {
			t.Fatal(err)
		}
		by[g.replica.ID]++
		grants = append(grants, g)
	}
}

func TestAReplicaWhoseCallsAreShortGetsMoreThanItsSlots(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 2, "a"))
		r := routeOf(t, table)
		if _, by := fill(t, r); by["a"] != 2 {
			t.Errorf("a replica that has not answered anything got %d calls, want 2", by["a"])
		}
	})
	for name, test := range map[string]struct {
		took, pause time.Duration
		settings    function.Settings
		want        int
	}{
		"just short calls":             {999 * time.Microsecond, 0, function.Settings{}, 8},
		"very short calls":             {10 * time.Microsecond, 0, function.Settings{}, 32},
		"long calls":                   {time.Millisecond, 0, function.Settings{}, 2},
		"no answer for a while":        {100 * time.Microsecond, 2 * time.Millisecond, function.Settings{}, 2},
		"somebody has limited it to 2": {100 * time.Microsecond, 0, function.Settings{MaxInflight: 2}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
				e := replicas(true, 2, "a")
				e.Settings = test.settings
				table.Set(e)
				r := routeOf(t, table)
				answer(t, r, test.took)
				time.Sleep(test.pause)
				if _, by := fill(t, r); by["a"] != test.want {
					t.Errorf("it got %d calls, want %d", by["a"], test.want)
				}
			})
		})
	}
}

func TestNoCallGoesBehindAnotherWhileAReplicaIsFree(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 1, "a", "b", "c", "d"))
		r := routeOf(t, table)
		for range 20 {
			answer(t, r, 100*time.Microsecond)
		}
		used := map[string]bool{}
		for range 4 {
			used[mustAcquire(t, r).replica.ID] = true
		}
		if len(used) != 4 {
			t.Errorf("four calls went to %d replicas of four", len(used))
		}
	})
}

func TestOneLongCallEndsTheHasteForAWhile(t *testing.T) {
	inTime(t, TableOptions{}, func(t *testing.T, table *Table) {
		table.Set(replicas(true, 1, "a"))
		r := routeOf(t, table)
		calls := func(n int, took time.Duration) (most int) {
			for range n {
				answer(t, r, took)
			}
			grants, by := fill(t, r)
			for _, g := range grants {
				r.release(g.replica)
			}
			return by["a"]
		}
		const short = 600 * time.Microsecond
		got := []int{calls(5, short), calls(1, time.Second), calls(5, short), calls(100, short)}
		for i, want := range []int{6, 1, 1, 6} {
			if got[i] != want {
				t.Errorf("step %d: %d calls at once, want %d", i, got[i], want)
			}
		}
	})
}

func TestWaitingBehindOthersIsNotTakenForWork(t *testing.T) {
	var p pace
	for range 100 {
		p.note(time.Millisecond, 8, 2) // four for each worker, so that each takes a quarter
	}
	if got := p.depth(0); got != 16 {
		t.Errorf("a slot is good for %d calls of 250 µs, want 16", got)
	}
}
