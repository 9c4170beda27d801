package async

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/function"
)

// fillQueue submits n calls of fn0, fn1 … by turns.
func (r *rig) fillQueue(n, functions int) {
	r.t.Helper()
	var submitting sync.WaitGroup
	for i := range 16 {
		submitting.Go(func() {
			for at := i; at < n; at += 16 {
				name := fmt.Sprint("fn", at%functions)
				if _, err := r.Submit(r.t.Context(), Submission{
					Function: function.Ref{Name: name, Namespace: "lab"},
					Request:  types.QueueRequest{Method: "POST", Function: name + ".lab", Header: http.Header{}},
					Body:     strings.NewReader("x"), Length: 1,
				}); err != nil {
					r.t.Error(err)
					return
				}
			}
		})
	}
	submitting.Wait()
}

// listAll returns the ids of all calls that f picks, page by page, and the
// states they were in.
func (r *rig) listAll(f Filter) (ids []string, states map[State]int) {
	r.t.Helper()
	states = map[State]int{}
	for {
		page, err := r.List(r.t.Context(), f)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(page.Calls) > f.Limit {
			r.t.Fatalf("a page has %d calls, more than its limit of %d", len(page.Calls), f.Limit)
		}
		for _, c := range page.Calls {
			ids = append(ids, c.ID)
			states[c.State]++
		}
		if page.Next == "" {
			return ids, states
		}
		f.Cursor = page.Next
	}
}

func TestPagesListEveryCallOnceHoweverManyThereAre(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if strings.Contains(req.URL.Path, "fn3") {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	const calls = 3000
	r.fillQueue(calls, 5)
	stop := r.work(func(o *WorkerOptions) { o.Policy.Attempts = 1 })
	eventually(t, "the queue is empty", func() bool { n, err := r.backlog(t.Context()); return err == nil && len(n) == 0 })
	stop()
	r.fillQueue(calls, 5) // these wait, many in each millisecond
	for _, limit := range []int{30, 1000} {
		t.Run(fmt.Sprint("by ", limit), func(t *testing.T) {
			ids, states := r.listAll(Filter{Limit: limit})
			if diff := cmp.Diff(map[State]int{Queued: calls, Done: calls * 4 / 5, Failed: calls / 5}, states); diff != "" {
				t.Error(diff)
			}
			slices.Sort(ids)
			if n := len(slices.Compact(ids)); n != 2*calls {
				t.Errorf("%d different calls are listed, not %d", n, 2*calls)
			}
		})
	}
	for _, f := range []Filter{
		{Function: "fn3.lab", State: Queued}, {Function: "fn3.lab", State: Failed}, {Function: "fn1.lab", State: Done},
	} {
		f.Limit = 100
		if ids, _ := r.listAll(f); len(ids) != calls/5 {
			t.Errorf("%v: %d calls, want %d", f, len(ids), calls/5)
		}
	}
}

func TestAPageIsFoundAmongPlacesThatAreEmpty(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) {})
	r.fillQueue(2000, 2)
	first, err := r.calls.GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	for seq := uint64(2); seq <= 1990; seq++ {
		if err := r.calls.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
	}
	ids, _ := r.listAll(Filter{Limit: 3})
	if want := 2000 - 1990 + 1; len(ids) != want {
		t.Errorf("%d calls are listed, want %d", len(ids), want)
	}
	j, err := decode(strings.TrimPrefix(first.Subject, callsSubject), first.Header, first.Data, first.Sequence)
	if err != nil || !slices.Contains(ids, j.ID) {
		t.Errorf("the first call is not listed: %v", err)
	}
}

func TestACallThatRunsIsListedAsRunning(t *testing.T) {
	begun, release := make(chan struct{}, 1), make(chan struct{})
	r := newRig(t, func(http.ResponseWriter, *http.Request) {
		begun <- struct{}{}
		<-release
	})
	r.work()
	id := r.submit("fn", "x")
	<-begun
	defer close(release)
	for _, query := range []string{"", "state=running"} {
		if a := r.do("GET", "/system/calls?"+query, ""); !strings.Contains(a.body, id) || !strings.Contains(a.body, `"state":"running"`) {
			t.Errorf("%s: %s", query, a.body)
		}
	}
}

func TestACursorNobodyGaveIsRefused(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) {})
	for _, cursor := range []string{"1", "x", "1-2-3-4", "1-2-3-4-5-6", "1-2-3-4-5.0", "1-2-3-4-5.x", "-----", "1-2-3-4-zzzzzzzzzzzzzzzz"} {
		if a := r.do("GET", "/system/calls?cursor="+url.QueryEscape(cursor), ""); a.status != 400 {
			t.Errorf("%q: %d %s", cursor, a.status, a.body)
		}
	}
	if a := r.do("GET", "/system/calls?cursor=5-5-5-5.3-5", ""); a.status != 200 {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestAnItemOfALargeBatchIsCancelledWithoutReadingTheOthers(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) {})
	const items, wanted = 3000, 2900
	// Another call in between, and an upload that breaks off within a window.
	r.submit("fn", "x")
	a := r.do("POST", BatchesPath+"fn", strings.Repeat("{}\n", 1000)+"{\n", "Idempotency-Key", "k")
	if a.status != 400 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	a = r.do("POST", BatchesPath+"fn", strings.Repeat("{}\n", items), "Idempotency-Key", "k")
	if a.status != 202 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	batch := a.header.Get("X-Batch-Id")
	for _, index := range []int{0, 255, 256, 999, 1000, 1001, wanted, items - 1} {
		id := itemID(batch, index)
		place, err := r.itemPlace(t.Context(), batch, index)
		if err != nil {
			t.Fatal(err)
		}
		m, err := r.calls.GetMsg(t.Context(), place)
		if err != nil || m.Header.Get(headerCall) != id {
			t.Errorf("at place %d of item %d: %v", place, index, err)
			continue
		}
		begun := r.nc.Stats().OutMsgs
		if a := r.do("DELETE", CallsPath+id, ""); a.status != 202 {
			t.Errorf("cancel item %d: %d %s", index, a.status, a.body)
		}
		if asked := r.nc.Stats().OutMsgs - begun; asked > 30 {
			t.Errorf("cancelling item %d took %d messages", index, asked)
		}
		if _, err := r.calls.GetMsg(t.Context(), place); err == nil {
			t.Errorf("item %d is still in the queue", index)
		}
	}
}

func TestTimesOfAListing(t *testing.T) {
	r := newRig(t, func(http.ResponseWriter, *http.Request) {})
	old := r.submit("fn", "x")
	nextMillisecond()
	between := time.Now().UTC()
	nextMillisecond()
	recent := r.submit("fn", "x")
	for query, want := range map[string]string{"since": recent, "until": old} {
		a := r.do("GET", "/system/calls?"+query+"="+url.QueryEscape(between.Format(time.RFC3339Nano)), "")
		if strings.Count(a.body, `"id"`) != 1 || !strings.Contains(a.body, want) {
			t.Errorf("%s: %s", query, a.body)
		}
	}
}

func FuzzBundle(f *testing.F) {
	f.Add(ending{record: []byte(`{"id":"x"}`), answer: []byte("y\n")}.bundle(nil))
	f.Add([]byte("9999999999999999999 {}\n"))
	f.Add([]byte("-1 \n"))
	f.Add([]byte("3 {}\nab"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		var back []byte
		err := eachEnding(payload, func(record, answer []byte) bool {
			back = ending{record: record, answer: answer}.bundle(back)
			return true
		})
		if err == nil && len(back) > len(payload) {
			t.Fatalf("%q is read as %q", payload, back)
		}
	})
}
