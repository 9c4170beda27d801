package provider

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/function"
)

func ref(name string) function.Ref {
	return function.Ref{Name: name, Namespace: function.DefaultNamespace}
}

func lives(name string, desired int) function.Event {
	return function.Event{Endpoints: &function.Endpoints{Ref: ref(name), Desired: desired}}
}

func gone(name string) function.Event { return function.Event{Removed: new(ref(name))} }

// show is an event in short.
func show(e function.Event) string {
	switch {
	case e.Synced && e.Reset:
		return "synced, all"
	case e.Synced:
		return "synced"
	case e.Removed != nil:
		return "-" + e.Removed.Name
	case e.Object != nil && e.Object.Content == nil:
		return e.Object.Name + ":gone"
	case e.Object != nil:
		return e.Object.Name + ":" + string(e.Object.Content)
	}
	return fmt.Sprint(e.Endpoints.Name, "=", e.Endpoints.Desired)
}

// listener reads a hub's stream inside a synctest bubble.
type listener struct {
	t    *testing.T
	seen []function.Event
	hold chan struct{} // when set, sending waits for it
	end  error
}

func listen(t *testing.T, ctx context.Context, h *hub, epoch string, revision int64) *listener {
	l := &listener{t: t}
	go func() {
		l.end = h.stream(ctx, epoch, revision, func(events []function.Event) error {
			if l.hold != nil {
				<-l.hold
			}
			l.seen = append(l.seen, events...)
			return nil
		})
	}()
	return l
}

// expect checks what has come since the last time.
func (l *listener) expect(want ...string) {
	l.t.Helper()
	synctest.Wait()
	var got []string
	for _, e := range l.seen {
		got = append(got, show(e))
	}
	l.seen = nil
	if diff := cmp.Diff(want, got); diff != "" {
		l.t.Errorf("events (-want +got)\n%s", diff)
	}
}

func TestAReaderGetsEverythingAndThenChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := newHub(1)
		early := listen(t, ctx, h, "", 0)
		h.publish(lives("a", 1))
		early.expect("a=1") // but not synced: there may be more
		h.publish(lives("b", 1))
		h.publish(function.Event{Synced: true})
		early.expect("b=1", "synced, all")
		late := listen(t, ctx, h, "", 0)
		late.expect("a=1", "b=1", "synced, all")
		h.publish(lives("a", 2))
		h.publish(gone("b"))
		h.publish(gone("b"))
		h.publish(gone("never was"))
		early.expect("a=2", "-b")
		late.expect("a=2", "-b")
		listen(t, ctx, h, "", 0).expect("a=2", "synced, all")
		cancel()
		synctest.Wait()
		if !errors.Is(early.end, context.Canceled) {
			t.Errorf("the stream ended with %v", early.end)
		}
	})
}

func TestASlowReaderGetsTheLatestOfEachFunction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h := newHub(1)
		h.publish(function.Event{Synced: true})
		l := listen(t, ctx, h, "", 0)
		l.expect("synced, all")
		l.hold = make(chan struct{})
		h.publish(lives("a", 1))
		synctest.Wait() // it hangs on this one
		for i := range 1000 {
			h.publish(lives("a", i))
			h.publish(lives("b", i))
		}
		h.publish(gone("b"))
		close(l.hold)
		l.expect("a=1", "a=999", "-b")
	})
}

func TestAReaderThatComesBackGetsWhatItMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h := newHub(1)
		for _, name := range []string{"a", "b", "c"} {
			h.publish(lives(name, 1))
		}
		h.publish(function.Event{Synced: true})
		left := h.revision
		h.publish(lives("b", 2))
		h.publish(gone("c"))
		listen(t, ctx, h, h.epoch, left).expect("b=2", "-c", "synced")
		listen(t, ctx, h, h.epoch, h.revision).expect("synced")
		listen(t, ctx, h, "another epoch", left).expect("a=1", "b=2", "synced, all")
		listen(t, ctx, h, h.epoch, h.revision+1).expect("a=1", "b=2", "synced, all") // of an epoch that never was
	})
}

func TestRemovalsAreForgottenInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h := newHub(1)
		h.publish(lives("stays", 1))
		h.publish(function.Event{Synced: true})
		left := h.revision
		for i := range maxTombstones + 10 {
			name := fmt.Sprint("f", i)
			h.publish(lives(name, 1))
			h.publish(gone(name))
		}
		if h.order.Len() != maxTombstones+1 || len(h.places) != maxTombstones+1 {
			t.Errorf("%d events of %d functions are remembered", h.order.Len(), len(h.places))
		}
		listen(t, ctx, h, h.epoch, left).expect("stays=1", "synced, all")
	})
}

func TestRevisionsGrowWithinAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h := newHub(1)
		h.publish(lives("a", 1))
		h.publish(lives("b", 1))
		h.publish(function.Event{Synced: true})
		l := listen(t, ctx, h, "", 0)
		synctest.Wait()
		h.publish(lives("a", 2))
		synctest.Wait()
		last := int64(0)
		for _, e := range l.seen {
			if e.Epoch != h.epoch || e.Revision < last {
				t.Errorf("%s has epoch %q and revision %d after %d", show(e), e.Epoch, e.Revision, last)
			}
			last = e.Revision
		}
		if e, ok := h.endpoints(ref("a")); !ok || e.Desired != 2 {
			t.Errorf("endpoints of a are %+v, %t", e, ok)
		}
	})
}

func object(name, content string) function.Event {
	o := &function.Object{Kind: "Key", Name: name}
	if content != "" {
		o.Content = []byte(content)
	}
	return function.Event{Object: o}
}

func TestObjectsAreToldBesideFunctionsAndForgottenWhenTheyAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		h := newHub(2)
		h.publish(lives("f", 1))
		h.publish(function.Event{Synced: true})
		h.publish(object("f", "1"))
		early := listen(t, ctx, h, "", 0)
		early.expect("f=1", "f:1") // but not synced: there is another source
		h.publish(function.Event{Synced: true})
		early.expect("synced, all")
		for _, e := range []function.Event{object("f", "2"), object("none", ""), object("f", ""), object("f", ""), gone("f")} {
			h.publish(e)
			synctest.Wait()
		}
		early.expect("f:2", "f:gone", "-f")
		listen(t, ctx, h, "", 0).expect("synced, all")
	})
}
