package invoke

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// A Watcher keeps a [Table] equal to what the provider says. While the provider
// is away the table stays as it was, so that calls go on.
type Watcher struct {
	// Client reaches the provider. It must not bound the time of a request:
	// the stream has no end.
	Client *http.Client
	// URL is the provider's.
	URL   *url.URL
	Table *Table
	// Objects is told of everything that is no function; nil is nobody.
	Objects Objects
	Log     *slog.Logger

	objects map[objectKey]bool // that Objects knows; Run's own
}

// Objects is told what the provider says besides functions. It is called from
// one goroutine at a time.
type Objects interface {
	// SetObject takes an object as it is from now on; one without content is
	// gone.
	SetObject(function.Object)
	// ObjectsSynced says that everything there is has been told once.
	ObjectsSynced()
}

type objectKey struct{ kind, name string }

// Pauses between attempts to reach the provider. They grow while it is away.
const (
	firstRetry = 50 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Run follows the provider's stream until ctx ends, and returns nil then. When
// the stream breaks it asks for what it missed.
func (w *Watcher) Run(ctx context.Context) error {
	var at position
	pause := firstRetry
	for {
		before := at
		err := w.follow(ctx, &at)
		if ctx.Err() != nil {
			return nil
		}
		if at != before {
			pause = firstRetry
		}
		w.Log.Warn("lost the provider's stream", "err", err, "again_in", pause)
		select {
		case <-time.After(pause + rand.N(pause)/2):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, lastRetry)
	}
}

// A position is how far a stream was read. The zero position is its beginning.
type position struct {
	epoch    string
	revision int64
}

// follow reads the stream from at, and moves at, until the stream breaks.
func (w *Watcher) follow(ctx context.Context, at *position) error {
	body, err := w.open(ctx, *at)
	if err != nil {
		return err
	}
	defer body.Close()

	lines := json.NewDecoder(body)
	listed, objects := map[function.Ref]bool{}, map[objectKey]bool{}
	for synced := false; ; {
		var e function.Event
		if err := lines.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the provider ended it")
			}
			return fmt.Errorf("read endpoints: %w", err)
		}
		switch {
		case e.Endpoints != nil:
			w.Table.Set(*e.Endpoints)
			if !synced {
				listed[e.Endpoints.Ref] = true
			}
		case e.Removed != nil:
			w.Table.Remove(*e.Removed)
			delete(listed, *e.Removed)
		case e.Object != nil:
			w.setObject(*e.Object)
			if !synced {
				objects[objectKey{e.Object.Kind, e.Object.Name}] = true
			}
		case e.Synced:
			if e.Reset {
				w.forget(listed)
				w.forgetObjects(objects)
			}
			if w.Objects != nil {
				w.Objects.ObjectsSynced()
			}
			w.Table.Synced()
			synced, listed, objects = true, nil, nil
		}
		if synced {
			// Not earlier: a listing that broke off in the middle must be
			// asked for again as a whole.
			*at = position{e.Epoch, e.Revision}
		}
	}
}

func (w *Watcher) open(ctx context.Context, at position) (io.ReadCloser, error) {
	u := w.URL.JoinPath("endpoints")
	if at.epoch != "" {
		u.RawQuery = url.Values{"epoch": {at.epoch}, "revision": {strconv.FormatInt(at.revision, 10)}}.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("ask for endpoints: %w", err)
	}
	res, err := w.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask for endpoints: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		res.Body.Close()
		return nil, fmt.Errorf("ask for endpoints: the provider answers %s", res.Status)
	}
	return res.Body, nil
}

// forget removes every function that a complete listing did not name.
func (w *Watcher) forget(listed map[function.Ref]bool) {
	for e := range w.Table.All() {
		if !listed[e.Ref] {
			w.Table.Remove(e.Ref)
		}
	}
}

func (w *Watcher) setObject(o function.Object) {
	if w.Objects == nil {
		return
	}
	key := objectKey{o.Kind, o.Name}
	if w.objects == nil {
		w.objects = map[objectKey]bool{}
	}
	if w.objects[key] = true; o.Content == nil {
		delete(w.objects, key)
	}
	w.Objects.SetObject(o)
}

// forgetObjects does the same for objects.
func (w *Watcher) forgetObjects(listed map[objectKey]bool) {
	for key := range w.objects {
		if !listed[key] {
			w.setObject(function.Object{Kind: key.kind, Name: key.name})
		}
	}
}
