package async

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A body is stored before the message that names it, and deleted after that is
// gone, so a process that dies between the two leaves a body that nobody will
// ever ask for. The sweep finds and deletes them.
const (
	sweepEvery = time.Hour
	// sweepAge is how old a body must be to be looked at. What makes it safe is
	// that a call is accepted well within that time after its body has begun to
	// arrive, and that a try of a call makes its body young again before the
	// call moves to another stream.
	sweepAge = 2 * time.Hour
	// acceptTime bounds how long it takes to accept a call, from the first byte
	// of its body on.
	acceptTime = time.Hour
)

// sweepAll sweeps from time to time, until ctx ends. Of several workers one
// does it each time.
func (w *Worker) sweepAll(ctx context.Context) {
	tick := time.NewTicker(sweepEvery / 4)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		lead, err := w.q.leadSweep(ctx, time.Now())
		if err == nil && lead {
			err = w.q.sweep(ctx, time.Now().Add(-sweepAge))
		}
		if err != nil && ctx.Err() == nil {
			w.log.Warn("cannot look for bodies without a call; trying again", "err", err)
		}
	}
}

// leadSweep reports whether whoever asks is to sweep now.
func (q *Queue) leadSweep(ctx context.Context, now time.Time) (bool, error) {
	subject := recordsSubject + named("sweep")
	last, err := q.records.GetLastMsgForSubject(ctx, subject)
	m := &nats.Msg{Subject: subject, Header: nats.Header{jetstream.ExpectedLastSubjSeqHeader: {"0"}}}
	switch {
	case err == nil && now.Sub(last.Time) < sweepEvery:
		return false, nil
	case err == nil:
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last.Sequence, 10))
	case !errors.Is(err, jetstream.ErrMsgNotFound):
		return false, unavailable(err)
	}
	if _, err := q.store(ctx, m); isConflict(err) {
		return false, nil // another worker was quicker
	} else if err != nil {
		return false, refused(fmt.Errorf("take the lead: %w", err))
	}
	return true, nil
}

// sweep deletes the bodies, and parts of bodies, that nobody has touched since
// before and no call names.
func (q *Queue) sweep(ctx context.Context, before time.Time) error {
	const name = "OBJ_" + requestsBucket
	stream, err := q.js.Stream(ctx, name)
	if err != nil {
		return unavailable(err)
	}
	// The parts first: an upload that ends meanwhile is then known.
	parts, err := stream.Info(ctx, jetstream.WithSubjectFilter(objectParts(requestsBucket, "*")))
	if err != nil {
		return unavailable(err)
	}
	known := map[string]bool{}
	old := map[string]message{}
	err = q.each(ctx, name, objectMeta(requestsBucket, "*"), func(m message) error {
		var o jetstream.ObjectInfo
		if err := json.Unmarshal(m.data, &o); err != nil {
			return fmt.Errorf("read what the object store has: %w", err)
		}
		known[o.NUID] = true
		switch {
		case m.time.After(before):
		case o.Deleted: // a mark that the object store leaves of what it had
			return q.dropObject(ctx, stream, requestsBucket, m)
		default:
			old[o.Name] = m
		}
		return nil
	})
	if err != nil {
		return err
	}
	for subject := range parts.State.Subjects {
		if known[strings.TrimPrefix(subject, objectParts(requestsBucket, ""))] {
			continue
		}
		last, err := stream.GetLastMsgForSubject(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && last.Time.After(before) {
			continue
		}
		if err == nil {
			err = stream.Purge(ctx, jetstream.WithPurgeSubject(subject))
		}
		if err != nil {
			return unavailable(fmt.Errorf("delete a part of a body: %w", err))
		}
	}
	// A call moves from later to calls, from there to later or dead after a
	// try, and from dead to calls by hand; it is in the new place before it
	// leaves the old one. What is read in this order misses only calls that
	// were tried or retried meanwhile, whose bodies are young then.
	for _, s := range []string{laterStream, callsStream, deadStream} {
		if len(old) == 0 {
			return nil
		}
		if err := q.each(ctx, s, ">", func(m message) error {
			delete(old, m.header.Get(headerBody))
			return nil
		}); err != nil {
			return err
		}
	}
	for object, m := range old {
		if err := q.dropObject(ctx, stream, requestsBucket, m); err != nil {
			return err
		}
		q.o.Log.Info("a body without a call is deleted", "object", object, "stored", m.time)
	}
	return nil
}

// each calls do for the messages of a stream that match filter and are there
// now.
func (q *Queue) each(ctx context.Context, stream, filter string, do func(message) error) error {
	s, err := q.js.Stream(ctx, stream)
	if err != nil {
		return unavailable(err)
	}
	last := s.CachedInfo().State.LastSeq
	for from, more := uint64(1), true; more && from <= last; {
		var page []message
		if page, more, err = q.ahead(ctx, stream, filter, from, mostAhead); err != nil {
			return unavailable(fmt.Errorf("read stream %s: %w", stream, err))
		}
		for _, m := range page {
			if err := do(m); err != nil {
				return err
			}
			from = m.seq + 1
		}
	}
	return nil
}

// touch makes the body of a call young, before the call moves.
func (q *Queue) touch(ctx context.Context, object string) error {
	if object == "" {
		return nil
	}
	if err := q.requests.UpdateMeta(ctx, object, jetstream.ObjectMeta{Name: object}); err != nil && !errors.Is(err, jetstream.ErrUpdateMetaDeleted) {
		return refused(fmt.Errorf("keep the body of a call: %w", err))
	}
	return nil
}
