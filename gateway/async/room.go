package async

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/internal/fault"
)

// How the bytes of a queue are divided. Streams of what waits, and those of
// what callers have not been told yet, take nothing more when they are full: a
// call that cannot move on stays where it is, and says why. Of results the
// oldest go.
type shares struct {
	calls, bodies, later                                      int64 // of Options.MaxBytes
	records, done, results, answers, dead, callbacks, batches int64 // of Options.KeepBytes
}

func (o Options) shares() shares {
	return shares{
		calls: o.MaxBytes / 2, bodies: o.MaxBytes / 4, later: o.MaxBytes / 4,
		records: o.KeepBytes / 8, done: o.KeepBytes / 8, results: o.KeepBytes / 4, answers: o.KeepBytes / 4,
		dead: o.KeepBytes / 8, callbacks: o.KeepBytes / 16, batches: o.KeepBytes / 16,
	}
}

// overhead is more than a message takes in a stream besides what it holds.
const overhead = 1 << 10

// roomForResults makes room for need bytes of results: it drops those of the
// oldest batch that has ended. It reports whether there is more room now.
func (q *Queue) roomForResults(ctx context.Context, need int) (bool, error) {
	q.clearing.Lock()
	defer q.clearing.Unlock()
	full, err := q.results.Info(ctx, jetstream.WithSubjectFilter(resultsSubject+">"))
	if err != nil {
		return false, unavailable(err)
	}
	if full.State.Bytes+uint64(need)+overhead < uint64(q.o.shares().results) {
		return true, nil // somebody else has made room
	}
	kept := map[string]bool{}
	for s := range full.State.Subjects {
		id, _, _ := strings.Cut(strings.TrimPrefix(s, resultsSubject), ".")
		kept[id] = true
	}
	var all []*Batch
	for id := range kept {
		b, err := q.batch(ctx, id)
		switch {
		case isNotFound(err):
			b = &Batch{ID: id, Complete: true} // nobody can ask for it
		case err != nil:
			return false, err
		}
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b *Batch) int { return a.Submitted.Compare(b.Submitted) })
	for _, b := range all {
		if b.Function != "" {
			if b, err = q.Batch(ctx, b.ID); err != nil {
				return false, err
			}
		}
		if !b.Ended() {
			continue
		}
		if b.Function != "" {
			b.Dropped = new(time.Now().UTC())
			if err := q.saveBatch(ctx, b); err != nil {
				return false, err
			}
		}
		if err := q.results.Purge(ctx, jetstream.WithPurgeSubject(resultsSubject+b.ID+".>")); err != nil {
			return false, unavailable(fmt.Errorf("drop the results of batch %s: %w", b.ID, err))
		}
		q.o.Log.Warn("the results of a batch are dropped, to make room for others", "batch", b.ID)
		return true, nil
	}
	return false, nil
}

// roomForAnswers drops the oldest large answers while they take more than four
// fifths of their room.
func (q *Queue) roomForAnswers(ctx context.Context) error {
	q.clearing.Lock()
	defer q.clearing.Unlock()
	most := uint64(q.o.shares().answers) / 5 * 4
	stream, err := q.js.Stream(ctx, "OBJ_"+responsesBucket)
	if err != nil {
		return unavailable(err)
	}
	for {
		info, err := stream.Info(ctx)
		if err != nil {
			return unavailable(err)
		}
		if info.State.Bytes <= most {
			return nil
		}
		oldest, _, err := q.ahead(ctx, "OBJ_"+responsesBucket, objectMeta(responsesBucket, "*"), 1, 10)
		if err != nil {
			return unavailable(err)
		}
		if len(oldest) == 0 {
			return nil // only parts of what is being stored
		}
		for _, m := range oldest {
			if err := q.dropObject(ctx, stream, responsesBucket, m); err != nil {
				return err
			}
		}
	}
}

// objectMeta and objectParts return the subjects of the object store where the
// description of an object is, and its parts.
func objectMeta(bucket, name string) string  { return "$O." + bucket + ".M." + name }
func objectParts(bucket, nuid string) string { return "$O." + bucket + ".C." + nuid }

// dropObject removes the object that m describes without a trace, where Delete
// of the object store leaves a mark. If the description has changed or is gone,
// it does nothing.
func (q *Queue) dropObject(ctx context.Context, stream jetstream.Stream, bucket string, m message) error {
	var o jetstream.ObjectInfo
	if err := json.Unmarshal(m.data, &o); err != nil {
		return fmt.Errorf("read what the object store has: %w", err)
	}
	// The description first: without it nobody finds the parts.
	if err := stream.DeleteMsg(ctx, m.seq); err != nil {
		if _, look := stream.GetMsg(ctx, m.seq); errors.Is(look, jetstream.ErrMsgNotFound) {
			return nil
		}
		return unavailable(err)
	}
	if o.NUID == "" {
		return nil
	}
	if err := stream.Purge(ctx, jetstream.WithPurgeSubject(objectParts(bucket, o.NUID))); err != nil {
		return unavailable(err)
	}
	return nil
}

// A call that has run and whose outcome does not fit anywhere is held: it stays
// in the calls stream, and its record has the outcome until it does. These are
// the outcomes.
const (
	heldSettle = "settle"
	heldAgain  = "again"
	heldBury   = "bury"
)

// hold keeps d, which came to c, because of why. Its error leaves d in the
// queue without an outcome: it is run again.
func (w *Worker) hold(ctx context.Context, d *delivery, v verdict, c *Call, body []byte, why error) error {
	held := *c
	held.State, held.Ended = Waiting, nil
	held.Held = strings.TrimPrefix(why.Error(), fault.Busy.Error()+": ")
	held.Outcome = map[verdict]string{settle: heldSettle, tryAgain: heldAgain, bury: heldBury}[v]
	wait := w.o.Hold
	if v == tryAgain {
		wait = max(0, min(wait, time.Until(*c.Next)))
	} else {
		held.Next = new(time.Now().Add(wait).UTC())
	}
	if err := w.q.putRecord(ctx, &held, body, anyRecord); err != nil {
		return errors.Join(why, err)
	}
	w.log.Warn("a call has run, and what it came to does not fit; it waits until it does", "call", d.ID, "function", d.Ref.String(), "err", why)
	if err := d.msg.NakWithDelay(wait); err != nil {
		return fmt.Errorf("hold call %s: %w", d.ID, err)
	}
	return nil
}

// resume carries on with d, which was held as c says. It reports whether d is
// to be run, as its next try.
func (w *Worker) resume(ctx context.Context, d *delivery, c *Call, body []byte) (run bool, err error) {
	d.Tries = c.Tries
	policy := w.o.Policy.with(d.Request.Annotations)
	v := map[string]verdict{heldSettle: settle, heldAgain: tryAgain, heldBury: bury}[c.Outcome]
	c.Held, c.Outcome = "", ""
	now := time.Now().UTC()
	switch v {
	case settle:
		c.State, c.Ended, c.Next = Done, &now, nil
	case bury:
		c.State, c.Ended, c.Next = Failed, &now, nil
	case tryAgain:
		if c.Next == nil || !c.Next.After(now) {
			return true, nil
		}
	}
	return false, w.carryOut(ctx, d, v, c, body, policy)
}
