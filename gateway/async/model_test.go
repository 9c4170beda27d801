package async

import (
	"fmt"
	"slices"
	"testing"
)

// The model explores every way in which one call can go through the queue when
// any process may die between any two durable steps, and one may be so slow
// that others do anything meanwhile. Its world is what the broker stores; what
// a worker has in memory dies with it. The steps are those that plan returns and
// the check of a redelivered message is that of stillToDo, so that a change of
// either is a change of the model.

// A copy is a message of the call: in the calls stream, or waiting for its
// next try.
type copy_ struct {
	tries int
	later bool
}

// A world is one state. It is a value, so that states can be compared.
type world struct {
	copies    [4]copy_ // those from n on are unused
	n         int
	recTries  int   // tries in the record; 0 is no record
	recState  State // "" is no record
	dead      bool
	callbacks int
	runs      int
	crashes   int
	slow      straggler
}

// A straggler is a worker that pauses between two steps; its lease goes on, so
// that nobody else is given its copy.
type straggler struct {
	there bool
	c     copy_
	v     verdict
	done  int // steps
}

const (
	modelAttempts = 3
	modelCrashes  = 2
)

// planner is what the model checks: the real plan, or a broken one.
type planner func(v verdict) []step

// rules are those of the worker, or broken ones.
type rules struct {
	plan      planner
	overtaken func(tries int, there State, triesThere int) bool
}

func workersRules() rules { return rules{realPlan, overtaken} }

func (w world) remove(i int) world {
	rest := slices.Delete(slices.Clone(w.copies[:w.n]), i, i+1)
	w.copies = [4]copy_{}
	copy(w.copies[:], rest)
	w.n--
	return w
}

func (w world) add(c copy_) world {
	// The broker stores a message of one name once.
	if w.n < len(w.copies) && !slices.Contains(w.copies[:w.n], c) {
		w.copies[w.n] = c
		w.n++
	}
	return w
}

// violation returns what is wrong with w, or "".
func (w world) violation() string {
	switch {
	case w.n == 0 && !w.recState.Ended():
		return fmt.Sprintf("the call is lost: no message, and the record says %q", w.recState)
	case w.n == 0 && w.recState == Failed && !w.dead:
		return "the call failed, and there is no dead letter to retry"
	case w.n == 0 && w.callbacks == 0:
		return "the call ended, and nobody is told"
	case w.recState == Failed && !w.dead:
		return "the record tells of a dead letter that is not there"
	case w.runs > modelAttempts*(w.crashes+1):
		return fmt.Sprintf("the call ran %d times with %d crashes", w.runs, w.crashes)
	}
	return ""
}

// successors returns every world that can follow w.
func (w world) successors(r rules) []world {
	var next []world
	if slow := w.slow; slow.there { // goes on
		steps := r.plan(slow.v)
		now := w.after(r, steps[slow.done], slow.v, slow.c)
		if now.slow.done++; now.slow.done == len(steps) {
			now.slow = straggler{}
		}
		next = append(next, now)
	}
	for i, c := range w.copies[:w.n] {
		if w.slow.there && w.slow.c == c {
			continue
		}
		if c.later { // its time comes
			moved := w.remove(i).add(copy_{tries: c.tries})
			next = append(next, moved)
			if w.crashes < modelCrashes { // dies between storing and acknowledging
				crashed := w.add(copy_{tries: c.tries})
				crashed.crashes++
				next = append(next, crashed)
			}
			continue
		}
		if w.recState.Ended() || w.recTries > c.tries { // stillToDo says no
			next = append(next, w.remove(i))
			continue
		}
		ran := w
		ran.runs++
		if ran.crashes < modelCrashes { // dies while the function runs
			died := ran
			died.crashes++
			next = append(next, died)
		}
		verdicts := []verdict{settle, tryAgain}
		if c.tries+1 >= modelAttempts {
			verdicts = []verdict{settle, bury}
		}
		for _, v := range verdicts {
			now := ran
			steps := r.plan(v)
			for k, s := range steps {
				now = now.after(r, s, v, c)
				if now.crashes < modelCrashes { // dies after the step
					died := now
					died.crashes++
					next = append(next, died)
				}
				if k+1 < len(steps) && !now.slow.there {
					paused := now
					paused.slow = straggler{true, c, v, k + 1}
					next = append(next, paused)
				}
			}
			next = append(next, now)
		}
	}
	return next
}

func (w world) after(r rules, s step, v verdict, c copy_) world {
	switch s {
	case storeRecord:
		if v == tryAgain && w.recState != "" && r.overtaken(c.tries+1, w.recState, w.recTries) {
			return w
		}
		w.recTries = c.tries + 1
		w.recState = map[verdict]State{settle: Done, bury: Failed, tryAgain: Waiting}[v]
	case storeDead:
		w.dead = true
	case storeCallback:
		w.callbacks = min(1, w.callbacks+1)
	case storeLater:
		w = w.add(copy_{tries: c.tries + 1, later: true})
	case acknowledge:
		at := slices.Index(w.copies[:w.n], c)
		if at >= 0 {
			w = w.remove(at)
		}
	}
	return w
}

// explore returns the first violation that can be reached, and how many worlds
// there are.
func explore(r rules) (violation string, worlds int) {
	start := world{}.add(copy_{})
	seen := map[world]bool{start: true}
	queue := []world{start}
	for len(queue) > 0 {
		w := queue[0]
		queue = queue[1:]
		if v := w.violation(); v != "" {
			return fmt.Sprintf("%s in %+v", v, w), len(seen)
		}
		for _, n := range w.successors(r) {
			if !seen[n] {
				seen[n] = true
				queue = append(queue, n)
			}
		}
	}
	return "", len(seen)
}

func realPlan(v verdict) []step { return plan(v, false, true, true) }

func TestNoCrashLosesACall(t *testing.T) {
	violation, worlds := explore(workersRules())
	if violation != "" {
		t.Error(violation)
	}
	if worlds < 100 {
		t.Errorf("only %d worlds were explored: the model is broken", worlds)
	}
	t.Logf("%d worlds", worlds)
}

// TestTheModelCatchesBrokenPlans holds the model to its purpose: each of these
// is a mistake that could be made in plan, and would lose something.
func TestTheModelCatchesBrokenPlans(t *testing.T) {
	move := func(s step, to int) planner {
		return func(v verdict) []step {
			steps := realPlan(v)
			if i := slices.Index(steps, s); i >= 0 {
				steps = slices.Insert(slices.Delete(steps, i, i+1), min(to, len(steps)-1), s)
			}
			return steps
		}
	}
	drop := func(s step) planner {
		return func(v verdict) []step {
			return slices.DeleteFunc(realPlan(v), func(other step) bool { return other == s })
		}
	}
	for name, broken := range map[string]planner{
		"the acknowledgement comes first":                   move(acknowledge, 0),
		"the record counts a try before the next is stored": move(storeRecord, 0),
		"no dead letter":             drop(storeDead),
		"no callback":                drop(storeCallback),
		"the next try is not stored": drop(storeLater),
		"the record is not stored":   drop(storeRecord),
		"the callback is sent after the call is acknowledged": func(v verdict) []step {
			steps := slices.DeleteFunc(realPlan(v), func(s step) bool { return s == storeCallback })
			if v == tryAgain {
				return steps
			}
			return append(steps, storeCallback)
		},
	} {
		t.Run(name, func(t *testing.T) {
			if violation, _ := explore(rules{broken, overtaken}); violation == "" {
				t.Error("the model finds nothing wrong with it")
			}
		})
	}
	t.Run("a record of a try is stored whatever has come after it", func(t *testing.T) {
		if violation, _ := explore(rules{realPlan, func(int, State, int) bool { return false }}); violation == "" {
			t.Error("the model finds nothing wrong with it")
		}
	})
}
