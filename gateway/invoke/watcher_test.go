package invoke

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
)

// A stream is what a fake provider says on one connection: it writes the
// events it is given and ends when the channel is closed.
type stream struct {
	query  url.Values
	events chan function.Event
}

// startWatcher runs a watcher for table against a fake provider, and returns
// the streams it opens.
func startWatcher(t *testing.T, table *Table) <-chan stream {
	t.Helper()
	return startWatcherOf(t, table, nil)
}

// startWatcherOf does so for objects too.
func startWatcherOf(t *testing.T, table *Table, objects Objects) <-chan stream {
	t.Helper()
	streams := make(chan stream)
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/endpoints" {
			http.NotFound(w, r)
			return
		}
		s := stream{query: r.URL.Query(), events: make(chan function.Event)}
		rc := http.NewResponseController(w)
		_ = rc.Flush()
		select {
		case streams <- s:
		case <-r.Context().Done():
			return
		}
		out := json.NewEncoder(w)
		for {
			select {
			case e, ok := <-s.events:
				if !ok {
					return
				}
				_ = out.Encode(e)
				_ = rc.Flush()
			case <-r.Context().Done():
				return
			}
		}
	}))
	t.Cleanup(provider.Close)
	base, err := url.Parse(provider.URL)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := &Watcher{Client: client(t), URL: base, Table: table, Objects: objects, Log: testkit.Log(t)}
	var run sync.WaitGroup
	run.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		run.Wait()
	})
	return streams
}

// A witness reports what happens to a table, so that tests can wait for it.
type witness chan string

func (w witness) options() TableOptions {
	return TableOptions{
		Counters: func(ref function.Ref) Counters { w <- "+" + ref.Name; return noCounters{} },
		Removed:  func(ref function.Ref) { w <- "-" + ref.Name },
	}
}

func (w witness) expect(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for range want {
		got = append(got, <-w)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("(-want +got)\n%s", diff)
	}
}

func named(epoch string, revision int64, name string) function.Event {
	return function.Event{Epoch: epoch, Revision: revision, Endpoints: &function.Endpoints{Ref: function.Ref{Name: name, Namespace: "fn"}}}
}

func TestTheTableFollowsTheStream(t *testing.T) {
	seen := make(witness)
	table := NewTable(seen.options())
	streams := startWatcher(t, table)

	s := <-streams
	if len(s.query) != 0 {
		t.Errorf("the first stream is asked for with %v", s.query)
	}
	s.events <- named("e1", 1, "a")
	seen.expect(t, "+a")
	if table.Ready() {
		t.Error("ready before the listing is complete")
	}
	s.events <- named("e1", 2, "b")
	seen.expect(t, "+b")
	s.events <- function.Event{Epoch: "e1", Revision: 2, Synced: true, Reset: true}
	<-table.synced
	s.events <- named("e1", 3, "c")
	seen.expect(t, "+c")
	s.events <- function.Event{Epoch: "e1", Revision: 4, Removed: &function.Ref{Name: "a", Namespace: "fn"}}
	seen.expect(t, "-a")
}

func TestABrokenStreamGoesOnWhereItBroke(t *testing.T) {
	seen := make(witness)
	table := NewTable(seen.options())
	streams := startWatcher(t, table)

	s := <-streams
	s.events <- named("e1", 1, "a")
	seen.expect(t, "+a")
	close(s.events) // in the middle of the listing

	s = <-streams
	if len(s.query) != 0 {
		t.Errorf("a listing that broke off is continued with %v", s.query)
	}
	s.events <- named("e1", 1, "a")
	s.events <- named("e1", 2, "b")
	seen.expect(t, "+b")
	s.events <- function.Event{Epoch: "e1", Revision: 2, Synced: true, Reset: true}
	s.events <- named("e1", 3, "c")
	seen.expect(t, "+c")
	close(s.events)

	s = <-streams
	if diff := cmp.Diff(url.Values{"epoch": {"e1"}, "revision": {"3"}}, s.query); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	s.events <- named("e1", 4, "d")
	seen.expect(t, "+d")
	s.events <- function.Event{Epoch: "e1", Revision: 4, Synced: true} // changes only: the others stay
	s.events <- named("e1", 5, "e")
	seen.expect(t, "+e")
	s.events <- function.Event{Epoch: "e1", Revision: 6, Removed: &function.Ref{Name: "e", Namespace: "fn"}}
	seen.expect(t, "-e")
	var held []string
	for e := range table.All() {
		held = append(held, e.Name)
	}
	slices.Sort(held)
	if diff := cmp.Diff([]string{"a", "b", "c", "d"}, held); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestARestartedProviderTakesOverWithoutAGap(t *testing.T) {
	seen := make(witness)
	table := NewTable(seen.options())
	streams := startWatcher(t, table)

	s := <-streams
	for i, name := range []string{"a", "b", "c"} {
		s.events <- named("e1", int64(i), name)
		seen.expect(t, "+"+name)
	}
	s.events <- function.Event{Epoch: "e1", Revision: 3, Synced: true, Reset: true}
	<-table.synced
	close(s.events)

	s = <-streams
	s.events <- named("e2", 1, "b")
	s.events <- named("e2", 2, "d")
	seen.expect(t, "+d")
	for _, name := range []string{"a.fn", "b.fn", "c.fn"} {
		if _, err := table.find(t.Context(), name); err != nil {
			t.Errorf("%s is lost while the new provider lists: %v", name, err)
		}
	}
	go func() { s.events <- function.Event{Epoch: "e2", Revision: 2, Synced: true, Reset: true} }()
	seen.expect(t, "-a", "-c")
	for name, want := range map[string]bool{"a.fn": false, "b.fn": true, "c.fn": false, "d.fn": true} {
		if _, err := table.find(t.Context(), name); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// told is what a listener to objects has heard.
type told chan string

func (h told) SetObject(o function.Object) { h <- o.Kind + " " + o.Name + " " + string(o.Content) }
func (h told) ObjectsSynced()              { h <- "synced" }

func TestObjectsAreHandedOnAndThoseThatACompleteListingDoesNotNameAreGone(t *testing.T) {
	heard := make(told)
	streams := startWatcherOf(t, NewTable(TableOptions{}), heard)
	object := func(revision int64, name, content string) function.Event {
		o := &function.Object{Kind: "Key", Name: name}
		if content != "" {
			o.Content = json.RawMessage(content)
		}
		return function.Event{Epoch: "e", Revision: revision, Object: o}
	}
	expect := func(want ...string) {
		t.Helper()
		for _, w := range want {
			if got := <-heard; got != w {
				t.Errorf("heard %q, want %q", got, w)
			}
		}
	}
	s := <-streams
	s.events <- object(1, "a", "1")
	expect("Key a 1")
	s.events <- object(2, "b", "1")
	expect("Key b 1")
	s.events <- function.Event{Epoch: "e", Revision: 2, Synced: true, Reset: true}
	expect("synced")
	s.events <- object(3, "c", `"x"`)
	expect(`Key c "x"`)
	s.events <- object(4, "c", "")
	expect("Key c ")
	close(s.events)

	s = <-streams
	s.events <- object(1, "b", "2")
	expect("Key b 2")
	s.events <- function.Event{Epoch: "f", Revision: 1, Synced: true, Reset: true}
	expect("Key a ", "synced")
}
