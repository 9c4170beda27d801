package provider

import (
	"container/list"
	"context"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/graphene-faas/graphene/internal/function"
)

// maxTombstones is how many removed functions are remembered for readers that
// come back. A reader that was away for longer starts over.
const maxTombstones = 1024

// A hub keeps the latest event of every function and object and tells any
// number of readers. It holds no queue per reader: a reader that is slow, or
// that was away, gets the latest state of each that changed meanwhile, once.
type hub struct {
	epoch string

	mu       sync.Mutex
	revision int64
	order    *list.List // of function.Event, by revision; the latest of each subject only
	places   map[subject]*list.Element
	removed  int           // how many of them are removals
	floor    int64         // removals up to here may be forgotten
	unsynced int           // sources that have not reported everything that exists
	changed  chan struct{} // closed, and replaced, at every change
}

// A subject is what an event is about: a function, or an object of some kind.
type subject struct {
	function     function.Ref
	object, name string
}

// about returns what e is about, and whether that is gone.
func about(e function.Event) (s subject, gone bool) {
	switch {
	case e.Endpoints != nil:
		return subject{function: e.Endpoints.Ref}, false
	case e.Removed != nil:
		return subject{function: *e.Removed}, true
	}
	return subject{object: e.Object.Kind, name: e.Object.Name}, e.Object.Content == nil
}

// newHub returns a hub that a number of sources report to.
func newHub(sources int) *hub {
	return &hub{
		unsynced: sources,
		epoch:    rand.Text(),
		order:    list.New(),
		places:   map[subject]*list.Element{},
		changed:  make(chan struct{}),
	}
}

// publish takes an event from a source. It never waits for a reader.
func (h *hub) publish(e function.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if e.Synced {
		h.unsynced--
	} else if !h.put(e) {
		return
	}
	close(h.changed)
	h.changed = make(chan struct{})
}

// put keeps an event, and reports whether it says anything new.
func (h *hub) put(e function.Event) bool {
	s, gone := about(e)
	at, known := h.places[s]
	if gone {
		if !known {
			return false
		}
		if _, already := about(at.Value.(function.Event)); already {
			return false
		}
	}
	if known {
		h.drop(at)
	}
	h.revision++
	e.Epoch, e.Revision = h.epoch, h.revision
	h.places[s] = h.order.PushBack(e)
	if gone {
		h.removed++
		h.forget()
	}
	return true
}

func (h *hub) drop(at *list.Element) {
	e := at.Value.(function.Event)
	h.order.Remove(at)
	if _, gone := about(e); gone {
		h.removed--
	}
}

// forget drops the oldest removal when there are too many.
func (h *hub) forget() {
	for at := h.order.Front(); h.removed > maxTombstones; {
		next := at.Next()
		e := at.Value.(function.Event)
		if s, gone := about(e); gone {
			h.floor = e.Revision
			delete(h.places, s)
			h.drop(at)
		}
		at = next
	}
}

// endpoints returns what is known of one function.
func (h *hub) endpoints(ref function.Ref) (function.Endpoints, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, known := h.places[subject{function: ref}]
	if !known {
		return function.Endpoints{}, false
	}
	e := at.Value.(function.Event)
	if e.Endpoints == nil {
		return function.Endpoints{}, false
	}
	return *e.Endpoints, true
}

// stream calls send with the events after revision of epoch, or with all there
// are if those are not known any more, and from then on with changes, until
// ctx ends or send fails. An event with Synced comes once, when what there was
// at first has been sent.
func (h *hub) stream(ctx context.Context, epoch string, revision int64, send func([]function.Event) error) error {
	h.mu.Lock()
	reset := epoch != h.epoch || revision < h.floor || revision > h.revision
	h.mu.Unlock()
	if reset {
		revision = 0
	}
	for first := true; ; {
		h.mu.Lock()
		if revision < h.floor && revision > 0 {
			h.mu.Unlock()
			return fmt.Errorf("reader is behind by more removals than are remembered")
		}
		events := h.after(revision)
		revision = h.revision
		if first && h.unsynced <= 0 {
			first = false
			events = append(events, function.Event{Epoch: h.epoch, Revision: revision, Synced: true, Reset: reset})
		}
		changed := h.changed
		h.mu.Unlock()

		if len(events) > 0 {
			if err := send(events); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// after returns the events that came after revision, oldest first.
func (h *hub) after(revision int64) []function.Event {
	at := h.order.Back()
	for at != nil && at.Value.(function.Event).Revision > revision {
		at = at.Prev()
	}
	if at == nil {
		at = h.order.Front()
	} else {
		at = at.Next()
	}
	var events []function.Event
	for ; at != nil; at = at.Next() {
		e := at.Value.(function.Event)
		if _, gone := about(e); gone && revision == 0 {
			continue // who knows nothing has nothing to forget
		}
		events = append(events, e)
	}
	return events
}
