package async

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// states counts the calls there are by state, those that are held apart.
func (r *rig) states() map[State]int {
	r.t.Helper()
	states := map[State]int{}
	f := Filter{Limit: 1000}
	for {
		page, err := r.List(r.t.Context(), f)
		if err != nil {
			r.t.Fatal(err)
		}
		for _, c := range page.Calls {
			if c.Held != "" {
				states["held"]++
				continue
			}
			states[c.State]++
		}
		if f.Cursor = page.Next; f.Cursor == "" {
			return states
		}
	}
}

func quickHold(o *WorkerOptions) { o.Hold = 20 * time.Millisecond }

func TestACallWhoseDeadLetterDoesNotFitWaitsAndIsNotRunAgain(t *testing.T) {
	runs := atomic.Int64{}
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		runs.Add(1)
		w.WriteHeader(500)
	}, func(o *Options) { o.KeepBytes = 8 * 40 << 10 })
	const calls = 40
	for range calls {
		r.submit("fn", strings.Repeat("x", 700))
	}
	r.work(quickHold, func(o *WorkerOptions) { o.Policy.Attempts = 1 })
	eventually(t, "every call has run, and some are held", func() bool {
		s := r.states()
		return runs.Load() == calls && s["held"] > 0 && s["held"]+s[Failed] == calls
	})
	eventually(t, "it is said why they wait", func() bool { // each is looked at again now and then
		return strings.Contains(r.do("GET", "/system/calls?state=waiting", "").body, "no room for more dead letters")
	})
	purged := 0
	eventually(t, "all have become dead letters, and were purged", func() bool {
		n, err := r.PurgeAll(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		purged += n
		return purged == calls
	})
	if n := runs.Load(); n != calls {
		t.Errorf("%d calls ran %d times", calls, n)
	}
	eventually(t, "the queue is empty", func() bool { n, err := r.backlog(t.Context()); return err == nil && len(n) == 0 })
}

func TestACallThatCannotBePutOffIsTriedAgainNonetheless(t *testing.T) {
	runs := atomic.Int64{}
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		runs.Add(1)
		w.WriteHeader(500)
	}, func(o *Options) { o.MaxBytes = 480 << 10 }) // of which a quarter is for later
	const calls = 60
	for range calls {
		r.submit("fn", strings.Repeat("x", 2000))
	}
	r.work(quickHold, func(o *WorkerOptions) {
		o.Policy.MinWait, o.Policy.MaxWait = 400*time.Millisecond, 400*time.Millisecond
	})
	eventually(t, "some calls are held", func() bool { return r.states()["held"] > 0 })
	eventually(t, "all have failed", func() bool { return r.states()[Failed] == calls })
	if n := runs.Load(); n != int64(calls*r.quick.Attempts) {
		t.Errorf("%d calls of %d tries ran %d times", calls, r.quick.Attempts, n)
	}
}

func TestResultsOfTheOldestBatchMakeRoom(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "%q", strings.Repeat("y", 1000)) },
		func(o *Options) { o.KeepBytes = 4 * 64 << 10 })
	r.work(quickHold)
	batch := func() string {
		a := r.do("POST", BatchesPath+"fn", strings.Repeat("{}\n", 40))
		if a.status != 202 {
			t.Fatalf("%d %s", a.status, a.body)
		}
		id := a.header.Get("X-Batch-Id")
		eventually(t, "the batch ends", func() bool {
			b, err := r.Batch(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			return b.Ended()
		})
		return id
	}
	first, second := batch(), batch()
	b, err := r.Batch(t.Context(), first)
	if err != nil || b.Dropped == nil || b.Done != 40 || !b.Ended() {
		t.Errorf("the first batch: %+v, %v", b, err)
	}
	if a := r.do("GET", BatchesPath+first+"/result", ""); a.status != 410 || !strings.Contains(a.body, "queue_keep_bytes") {
		t.Errorf("its result: %d %s", a.status, a.body)
	}
	if a := r.do("GET", BatchesPath+second+"/result", ""); strings.Count(a.body, "\n") != 40 {
		t.Errorf("the second batch has %d results: %d", strings.Count(a.body, "\n"), a.status)
	}
}

func TestABatchLargerThanItsRoomWaitsAndLosesNothing(t *testing.T) {
	runs := atomic.Int64{}
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		runs.Add(1)
		fmt.Fprintf(w, "%q", strings.Repeat("y", 1000))
	}, func(o *Options) { o.KeepBytes = 4 * 32 << 10 })
	const items = 32
	a := r.do("POST", BatchesPath+"fn", strings.Repeat("{}\n", items))
	if a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	r.work(quickHold)
	// An item whose record had to make room for others runs again.
	eventually(t, "every item has run, and some are held", func() bool {
		s := r.states()
		return runs.Load() >= items && s["held"] > 0 && s["held"]+s[Done] == items
	})
	if b, err := r.Batch(t.Context(), a.header.Get("X-Batch-Id")); err != nil || b.Ended() || b.Waiting == 0 {
		t.Errorf("%+v, %v", b, err)
	}
}

func TestOldLargeAnswersMakeRoomForNewOnes(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("z", 300<<10)) },
		func(o *Options) { o.InlineBody, o.KeepBytes = 1<<10, 4*2<<20 })
	r.work(quickHold)
	var ids []string
	for range 12 {
		id := r.submit("fn", "")
		r.await(id)
		ids = append(ids, id)
	}
	var c Call
	if err := json.Unmarshal([]byte(r.do("GET", CallsPath+ids[0], "").body), &c); err != nil || c.State != Done || c.Dropped == "" {
		t.Errorf("the oldest call: %+v, %v", c, err)
	}
	if a := r.do("GET", CallsPath+ids[0]+"/result", ""); a.status != 410 || !strings.Contains(a.body, "queue_keep_bytes") {
		t.Errorf("the oldest result: %d %s", a.status, a.body)
	}
	if a := r.do("GET", CallsPath+ids[11]+"/result", ""); a.status != 200 || len(a.body) != 300<<10 {
		t.Errorf("the newest result: %d, %d bytes", a.status, len(a.body))
	}
}

func TestAnAnswerLargerThanItsRoomIsSaidNotToBeKept(t *testing.T) {
	runs := atomic.Int64{}
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		runs.Add(1)
		fmt.Fprint(w, strings.Repeat("z", 2<<20))
	}, func(o *Options) { o.InlineBody, o.KeepBytes = 1<<10, 4*1<<20 })
	r.work(quickHold)
	id := r.submit("fn", "")
	if c := r.await(id); c.State != Done || c.Dropped == "" {
		t.Errorf("%+v", c)
	}
	if n := runs.Load(); n != 1 {
		t.Errorf("it ran %d times", n)
	}
}

func TestACallWhoseResultMadeRoomIsGoneAndSaysWhy(t *testing.T) {
	r := newRig(t, echo, func(o *Options) { o.MaxRecords = 3 })
	r.work()
	var ids []string
	for range 8 {
		id := r.submit("fn", "x", "X-Call-Id", fmt.Sprintf("mine-%d", len(ids)))
		r.await(id)
		ids = append(ids, id)
	}
	for _, path := range []string{ids[0], ids[0] + "/result", ids[0] + "/result?wait=1s"} {
		if a := r.do("GET", CallsPath+path, ""); a.status != 410 || !strings.Contains(a.body, "queue_max_results") {
			t.Errorf("GET %s = %d %s", path, a.status, a.body)
		}
	}
	if a := r.do("DELETE", CallsPath+ids[0], ""); a.status != 410 {
		t.Errorf("DELETE = %d %s", a.status, a.body)
	}
	if a := r.do("GET", CallsPath+ids[7]+"/result", ""); a.status != 200 {
		t.Errorf("the newest: %d %s", a.status, a.body)
	}
	r.o.ResultAge = 1
	if a := r.do("GET", CallsPath+ids[0], ""); a.status != 410 || !strings.Contains(a.body, "queue_result_age") {
		t.Errorf("the oldest, later: %d %s", a.status, a.body)
	}
	never := newSeed(time.Now()).id(1 << 30)
	future := newSeed(time.Now().Add(time.Hour)).id(1)
	for _, id := range []string{never, future, keyedID(function.Ref{Name: "fn"}, "", "k"), "mine-9", itemID(named("batch"), 3)} {
		if a := r.do("GET", CallsPath+id, ""); a.status != 404 {
			t.Errorf("GET %s, which never was: %d %s", id, a.status, a.body)
		}
	}
}

func TestAResultIsFoundHoweverOftenItsNeighboursWereRunAgain(t *testing.T) {
	r := newRig(t, echo)
	id := r.submit("fn", "hello")
	other := newSeed(time.Now()).id(2)
	tell := func(id, answer string) {
		t.Helper()
		record, err := (&Call{ID: id, State: Done, Status: 200, Size: int64(len(answer))}).encode()
		if err != nil {
			t.Fatal(err)
		}
		messages, _ := bundles([]ending{{subject: block(1), record: record, answer: []byte(answer)}})
		if _, err := r.store(t.Context(), messages[0]); err != nil {
			t.Fatal(err)
		}
	}
	tell(id, "the first time")
	for range 1025 { // one more than the broker looks up together
		tell(other, "again")
	}
	tell(id, "the last time")
	tell(other, "again")
	if a := r.do("GET", CallsPath+id+"/result", ""); a.status != 200 || a.body != "the last time" {
		t.Errorf("%d %q", a.status, a.body)
	}
}

func TestADeadLetterIsKnownWhenItsRecordIsNot(t *testing.T) {
	fails := atomic.Bool{}
	fails.Store(true)
	r := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		if fails.Load() {
			http.Error(w, "not now", 500)
		}
	})
	r.work()
	id := r.submit("fn", "")
	r.await(id)
	if err := r.records.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	c, err := r.Lookup(t.Context(), id)
	if err != nil || c.State != Failed || len(c.Tries) != 3 || c.Status != 500 || c.Dropped == "" {
		t.Errorf("%+v, %v", c, err)
	}
	if a := r.do("GET", CallsPath+id+"/result", ""); a.status != 410 {
		t.Errorf("its result: %d %s", a.status, a.body)
	}
	fails.Store(false)
	if a := r.do("POST", "/system/calls/"+id+"/retry", ""); a.status != 202 {
		t.Fatalf("retry: %d %s", a.status, a.body)
	}
	if c := r.await(id); c.State != Done {
		t.Errorf("retried: %+v", c)
	}
}
