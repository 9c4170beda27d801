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

// A hub keeps the latest event of every function and tells any number of
// readers. It holds no queue per reader: a reader that is slow, or that was
// away, gets the latest state of each function that changed meanwhile, once.
type hub struct {
	epoch string

	mu       sync.Mutex
	revision int64
	order    *list.List // of function.Event, by revision; the latest of each function only
	places   map[function.Ref]*list.Element
	removed  int           // how many of them are removals
	floor    int64         // removals up to here may be forgotten
	synced   bool          // everything that exists has been reported
	changed  chan struct{} // closed, and replaced, at every change
}

func newHub() *hub {
	return &hub{
		epoch:   rand.Text(),
		order:   list.New(),
		places:  map[function.Ref]*list.Element{},
		changed: make(chan struct{}),
	}
}

// publish takes an event from the runtime. It never waits for a reader.
func (h *hub) publish(e function.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case e.Synced:
		h.synced = true
	case e.Endpoints != nil:
		h.put(e.Endpoints.Ref, e)
	case e.Removed != nil:
		if at, known := h.places[*e.Removed]; !known || at.Value.(function.Event).Removed != nil {
			return
		}
		h.put(*e.Removed, e)
		h.removed++
		h.forget()
	}
	close(h.changed)
	h.changed = make(chan struct{})
}

func (h *hub) put(ref function.Ref, e function.Event) {
	if at, known := h.places[ref]; known {
		h.drop(at)
	}
	h.revision++
	e.Epoch, e.Revision = h.epoch, h.revision
	h.places[ref] = h.order.PushBack(e)
}

func (h *hub) drop(at *list.Element) {
	e := at.Value.(function.Event)
	h.order.Remove(at)
	if e.Removed != nil {
		h.removed--
	}
}

// forget drops the oldest removal when there are too many.
func (h *hub) forget() {
	for at := h.order.Front(); h.removed > maxTombstones; {
		next := at.Next()
		if e := at.Value.(function.Event); e.Removed != nil {
			h.floor = e.Revision
			delete(h.places, *e.Removed)
			h.drop(at)
		}
		at = next
	}
}

// endpoints returns what is known of one function.
func (h *hub) endpoints(ref function.Ref) (function.Endpoints, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, known := h.places[ref]
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
		if first && h.synced {
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
		if revision == 0 && e.Removed != nil {
			continue // who knows nothing has nothing to forget
		}
		events = append(events, e)
	}
	return events
}
