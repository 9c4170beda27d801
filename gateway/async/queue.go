package async

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// askForAll asks workers which calls they run.
const askForAll = "*"

// askTime is how long workers have to say that they run a call.
const askTime = 25 * time.Millisecond

// Lookup returns what is known of a call, by its id or by the id that its
// caller gave it. Errors are fault.NotFound, fault.Unavailable, and fault.Gone
// for a call that is known to have been accepted, and of which nothing is kept.
func (q *Queue) Lookup(ctx context.Context, id string) (*Call, error) {
	c, _, err := q.lookup(ctx, id)
	if err == nil && c.Object != "" {
		if _, err := q.responses.GetInfo(ctx, c.Object); errors.Is(err, jetstream.ErrObjectNotFound) {
			c.Dropped = q.evicted(c.Submitted)
		}
	}
	return c, err
}

func (q *Queue) lookup(ctx context.Context, id string) (*Call, []byte, error) {
	if err := q.ready(); err != nil {
		return nil, nil, err
	}
	if isID(id) {
		c, body, err := q.find(ctx, id)
		if !isNotFound(err) {
			return c, body, err
		}
	}
	m, err := q.records.GetLastMsgForSubject(ctx, recordsSubject+named("alias", id))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, nil, q.missing(ctx, id)
	case err != nil:
		return nil, nil, unavailable(fmt.Errorf("find call %s: %w", id, err))
	}
	target := m.Header.Get(headerAlias)
	c, body, err := q.find(ctx, target)
	if isNotFound(err) {
		err = q.missing(ctx, target)
	}
	return c, body, err
}

// missing returns the error for a call of which nothing is known: fault.Gone if
// its id says that it was accepted, else fault.NotFound.
func (q *Queue) missing(ctx context.Context, id string) error {
	if place, ok := sequence(id); ok && place > 0 {
		info, err := q.calls.Info(ctx)
		if err != nil {
			return unavailable(fmt.Errorf("find call %s: %w", id, err))
		}
		if at := moment(id); place <= info.State.LastSeq && !at.After(time.Now()) {
			return fault.Gone.Errorf("call %s, accepted %s, is not known any more: %s", id, at.Format(time.RFC3339), q.evicted(at))
		}
	}
	return fault.NotFound.Errorf("call %s is not known, or not any more", id)
}

// evicted says why nothing is kept any more of what a call came to that was
// submitted at a time, and which settings bound that.
func (q *Queue) evicted(submitted time.Time) string {
	if time.Since(submitted) > q.o.ResultAge {
		return fmt.Sprintf("results are kept for %s (queue_result_age)", q.o.ResultAge)
	}
	return "newer results needed the room (queue_keep_bytes, queue_max_results)"
}

// find returns the call with this id, and the body of its answer if that is
// not in the object store.
func (q *Queue) find(ctx context.Context, id string) (*Call, []byte, error) {
	c, body, err := q.record(ctx, id)
	if err == nil {
		if !c.State.Ended() && c.Held == "" && q.runs(ctx, id) {
			c.State, c.Next = Running, nil
		}
		return c, body, nil
	}
	if !isNotFound(err) {
		return nil, nil, err
	}
	if batch, index, ok := parseItem(id); ok {
		return q.findItem(ctx, id, batch, index)
	}
	if c, body, err := q.bundled(ctx, id); !isNotFound(err) {
		return c, body, err
	}
	j, err := q.waiting(ctx, id)
	if isNotFound(err) { // it may have ended between the two looks
		if c, body, err := q.record(ctx, id); !isNotFound(err) {
			return c, body, err
		}
		if c, body, err := q.bundled(ctx, id); !isNotFound(err) {
			return c, body, err
		}
		c, err := q.buried(ctx, id)
		return c, nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	c = j.call(Queued)
	if q.runs(ctx, id) {
		c.State = Running
	}
	return c, nil, nil
}

// buried returns a call whose dead letter is all that is kept of it.
func (q *Queue) buried(ctx context.Context, id string) (*Call, error) {
	m, err := q.dead.GetLastMsgForSubject(ctx, deadSubject+"*.*."+id)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fault.NotFound.Errorf("call %s is not known, or not any more", id)
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("find call %s: %w", id, err))
	}
	j, err := readDeadLetter(m.Subject, m.Header, m.Data)
	if err != nil {
		return nil, err
	}
	c := j.failed(m.Time)
	c.Dropped = q.evicted(c.Submitted)
	return c, nil
}

// waiting returns a call without a record from the calls stream.
func (q *Queue) waiting(ctx context.Context, id string) (*job, error) {
	notFound := fault.NotFound.Errorf("call %s is not known, or not any more", id)
	seq, ok := sequence(id)
	if !ok || seq == 0 {
		return nil, notFound
	}
	m, err := q.calls.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, notFound
	}
	if err != nil {
		return nil, unavailable(fmt.Errorf("find call %s: %w", id, err))
	}
	j, err := decode(strings.TrimPrefix(m.Subject, callsSubject), m.Header, m.Data, m.Sequence)
	if err != nil || j.ID != id {
		return nil, notFound
	}
	return j, nil
}

// runs asks the workers whether one of them runs a call.
func (q *Queue) runs(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	_, err := q.nc.RequestWithContext(ctx, askSubject, []byte(id))
	return err == nil
}

// Await is Lookup, but waits as long as ctx allows for a call that has not
// ended. When ctx ends first it returns the call as it is.
func (q *Queue) Await(ctx context.Context, id string) (*Call, error) {
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	c, err := q.Lookup(short, id)
	if err != nil || c.State.Ended() {
		return c, err
	}
	id = c.ID
	stored := make(chan *nats.Msg, 2*blockSize) // never full, which the client would complain of
	subjects := []string{recordsSubject + id}
	if place, ok := sequence(id); ok {
		subjects = append(subjects, block(place)+"*")
	}
	for _, s := range subjects {
		sub, err := q.nc.ChanSubscribe(s, stored)
		if err != nil {
			return nil, unavailable(err)
		}
		defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	}
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		// A subscriber hears of a record before it can be read, so a record may
		// fall between the two; and messages can be lost. The record is looked
		// at again soon, and then from time to time.
		short, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		c, err = q.Lookup(short, id)
		cancel()
		if err != nil || c.State.Ended() || ctx.Err() != nil {
			return c, err
		}
		select {
		case <-stored: // the record itself is read again
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// Result returns the body of a call's answer; the caller closes it. The call
// must have ended. Errors are those of [Queue.Lookup].
func (q *Queue) Result(ctx context.Context, id string) (*Call, io.ReadCloser, error) {
	c, body, err := q.lookup(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	if c.Object == "" {
		return c, io.NopCloser(strings.NewReader(string(body))), nil
	}
	object, err := q.responses.Get(ctx, c.Object)
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, nil, fault.Gone.Errorf("the result of call %s is not kept any more: %s", id, q.evicted(c.Submitted))
	}
	if err != nil {
		return nil, nil, unavailable(fmt.Errorf("read the result of call %s: %w", id, err))
	}
	return c, object, nil
}

// Cancel stops a call, whether it waits or runs. Errors are fault.NotFound,
// and fault.Exists or fault.Gone if it has ended.
func (q *Queue) Cancel(ctx context.Context, id string) error {
	c, err := q.Lookup(ctx, id)
	if err != nil {
		return err
	}
	if c.State.Ended() {
		return fault.Exists.Errorf("call %s is %s", id, c.State)
	}
	now := time.Now().UTC()
	c.State, c.Ended, c.Next = Cancelled, &now, nil
	// A record that has changed meanwhile is that of a call that ended.
	switch err := q.putRecord(ctx, c, nil, c.seq); {
	case errors.Is(err, errConflict):
		return fault.Exists.Errorf("call %s has ended", id)
	case err != nil:
		return err
	}
	// The record of a call that went well at once is not one of its own.
	if _, _, err := q.bundled(ctx, c.ID); err == nil {
		if err := deleteMessage(ctx, q.records, c.seq); err != nil {
			return unavailable(err)
		}
		return fault.Exists.Errorf("call %s has ended", id)
	}
	// From here on the call is not started again. What follows frees its place.
	if err := q.nc.Publish(cancelSubject, []byte(c.ID)); err != nil {
		return unavailable(err)
	}
	_, index, item := parseItem(c.ID)
	if item {
		if err := q.putResult(ctx, c, index, nil); err != nil {
			return err
		}
	}
	seq := c.Message
	switch {
	case len(c.Tries) > 0:
		return nil // its reader finds the record
	case seq != 0:
	case item:
		if seq, err = q.itemPlace(ctx, c.Batch, index); err != nil {
			return err
		}
	default:
		seq, _ = sequence(c.ID)
	}
	if seq == 0 {
		return nil
	}
	m, err := q.calls.GetMsg(ctx, seq)
	if err != nil {
		return nil // it has gone by itself
	}
	if j, err := decode(strings.TrimPrefix(m.Subject, callsSubject), m.Header, m.Data, m.Sequence); err == nil && j.ID == c.ID {
		if err := deleteMessage(ctx, q.calls, seq); err != nil {
			return unavailable(fmt.Errorf("call %s is cancelled, but may be run if the queue is restarted: %w", c.ID, err))
		}
		q.dropBody(ctx, j)
	}
	return nil
}

// deleteMessage removes one message of s. One that is gone already is no
// failure, which the broker says in a way that only a look can tell from one.
func deleteMessage(ctx context.Context, s jetstream.Stream, seq uint64) error {
	err := s.DeleteMsg(ctx, seq)
	if err == nil {
		return nil
	}
	if _, look := s.GetMsg(ctx, seq); errors.Is(look, jetstream.ErrMsgNotFound) {
		return nil
	}
	return err
}

// backlogAge is for how long a count of the backlog is good.
const backlogAge = time.Second

// A backlog is what [Queue.Backlog] counted last.
type backlog struct {
	mu      sync.Mutex
	counted time.Time
	calls   map[function.Ref]int
}

// Backlog counts the calls that wait or run, by function; those that wait for
// their next try are not among them. It is cheap: the broker keeps these
// numbers, and is asked for them at most once a second.
func (q *Queue) Backlog(ctx context.Context) (map[function.Ref]int, error) {
	q.counted.mu.Lock()
	defer q.counted.mu.Unlock()
	if time.Since(q.counted.counted) < backlogAge {
		return maps.Clone(q.counted.calls), nil
	}
	lanes, err := q.backlog(ctx)
	if err != nil {
		return nil, err
	}
	calls := make(map[function.Ref]int, len(lanes))
	for where, n := range lanes {
		_, rest, _ := strings.Cut(where, ".")
		namespace, name, _ := strings.Cut(rest, ".")
		calls[function.Ref{Name: name, Namespace: namespace}] += int(n)
	}
	q.counted.calls, q.counted.counted = calls, time.Now()
	return maps.Clone(calls), nil
}

// backlog counts the calls that wait or run, by QUEUE.NAMESPACE.NAME.
func (q *Queue) backlog(ctx context.Context) (map[string]uint64, error) {
	if err := q.ready(); err != nil {
		return nil, err
	}
	info, err := q.calls.Info(ctx, jetstream.WithSubjectFilter(callsSubject+">"))
	if err != nil {
		return nil, unavailable(err)
	}
	backlog := make(map[string]uint64, len(info.State.Subjects))
	for s, n := range info.State.Subjects {
		backlog[strings.TrimPrefix(s, callsSubject)] = n
	}
	return backlog, nil
}

// A QueueInfo describes one queue.
type QueueInfo struct {
	Name      string            `json:"name"`
	Backlog   uint64            `json:"backlog"`          // calls that wait or run
	Waiting   uint64            `json:"waiting"`          // calls that wait for their next try
	Oldest    *time.Time        `json:"oldest,omitempty"` // when the oldest call of the backlog was submitted
	Functions map[string]uint64 `json:"functions,omitempty"`
}

// Queues describes every queue with calls, and the default one.
func (q *Queue) Queues(ctx context.Context) ([]QueueInfo, error) {
	queues := map[string]*QueueInfo{}
	of := func(name string) *QueueInfo {
		if queues[name] == nil {
			queues[name] = &QueueInfo{Name: name, Functions: map[string]uint64{}}
		}
		return queues[name]
	}
	of(DefaultQueue)
	backlog, err := q.backlog(ctx)
	if err != nil {
		return nil, err
	}
	for where, n := range backlog {
		name, rest, _ := strings.Cut(where, ".")
		namespace, fn, _ := strings.Cut(rest, ".")
		info := of(name)
		info.Backlog += n
		info.Functions[function.Ref{Name: fn, Namespace: namespace}.String()] += n
	}
	later, err := q.later.Info(ctx, jetstream.WithSubjectFilter(laterSubject+">"))
	if err != nil {
		return nil, unavailable(err)
	}
	for where, n := range later.State.Subjects {
		if name, _, _ := strings.Cut(strings.TrimPrefix(where, laterSubject), "."); name != callbackQueue {
			of(name).Waiting += n
		}
	}
	all := make([]QueueInfo, 0, len(queues))
	for _, info := range queues {
		if info.Backlog > 0 {
			if m, err := q.calls.GetMsg(ctx, 0, jetstream.WithGetMsgSubject(callsSubject+info.Name+".>")); err == nil {
				info.Oldest = new(m.Time.UTC())
			}
		}
		all = append(all, *info)
	}
	slices.SortFunc(all, func(a, b QueueInfo) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// Retry puts a dead letter back into the queue, as if it were new. Errors are
// fault.NotFound.
func (q *Queue) Retry(ctx context.Context, id string) error {
	m, err := q.deadLetter(ctx, id)
	if err != nil {
		return err
	}
	return q.retry(ctx, m)
}

// deadLetter returns the dead letter of a call.
func (q *Queue) deadLetter(ctx context.Context, id string) (*jetstream.RawStreamMsg, error) {
	c, err := q.Lookup(ctx, id)
	if err != nil && !isNotFound(err) && !errors.Is(err, fault.Gone) {
		return nil, err
	}
	where := deadSubject + "*.*." + id
	if c != nil {
		where = deadSubject + c.Ref().Namespace + "." + c.Ref().Name + "." + c.ID
	} else if !isID(id) {
		return nil, err
	}
	m, err := q.dead.GetLastMsgForSubject(ctx, where)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, fault.NotFound.Errorf("call %s is not among the dead letters", id)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return m, nil
}

func (q *Queue) retry(ctx context.Context, m *jetstream.RawStreamMsg) error {
	j, err := readDeadLetter(m.Subject, m.Header, m.Data)
	if err != nil {
		return err
	}
	j.Tries = nil
	j.Keyed = true // it has a record from now on, also as an item of a batch
	if err := q.touch(ctx, j.Object); err != nil {
		return err
	}
	// The record first: a worker that finds a failed one leaves the call alone.
	if err := q.putRecord(ctx, j.call(Queued), nil, anyRecord); err != nil {
		return err
	}
	if j.Batch != "" {
		if err := q.forgetFailure(ctx, j); err != nil {
			return err
		}
	}
	if _, err := q.publish(ctx, j, "retry/"+j.ID+"/"+fmt.Sprint(m.Sequence)); err != nil {
		return err
	}
	if err := deleteMessage(ctx, q.dead, m.Sequence); err != nil {
		return unavailable(fmt.Errorf("call %s is retried, but stays among the dead letters: %w", j.ID, err))
	}
	q.o.Meter.Submitted(j.Queue)
	return nil
}

// eachDead calls each for the dead letters of a function, NAME.NAMESPACE or ""
// for all, and returns for how many it returned nil. Its first error ends it.
func (q *Queue) eachDead(ctx context.Context, fn string, each func(*jetstream.RawStreamMsg) error) (int, error) {
	filter := deadSubject + ">"
	if fn != "" {
		ref, err := function.ParseRef(fn, function.DefaultNamespace)
		if err != nil {
			return 0, err
		}
		filter = deadSubject + ref.Namespace + "." + ref.Name + ".>"
	}
	n := 0
	for seq := uint64(1); ; n++ {
		m, err := q.dead.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(filter))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return n, nil
		}
		if err != nil {
			return n, unavailable(err)
		}
		if err := each(m); err != nil {
			return n, err
		}
		seq = m.Sequence + 1
	}
}

// RetryAll puts all dead letters of a function, or with "" of all, back into
// the queue, and returns how many.
func (q *Queue) RetryAll(ctx context.Context, fn string) (int, error) {
	return q.eachDead(ctx, fn, func(m *jetstream.RawStreamMsg) error { return q.retry(ctx, m) })
}

// Purge deletes a dead letter for good.
func (q *Queue) Purge(ctx context.Context, id string) error {
	m, err := q.deadLetter(ctx, id)
	if err != nil {
		return err
	}
	return q.purge(ctx, m)
}

func (q *Queue) purge(ctx context.Context, m *jetstream.RawStreamMsg) error {
	if err := deleteMessage(ctx, q.dead, m.Sequence); err != nil {
		return unavailable(err)
	}
	if object := m.Header.Get(headerBody); object != "" {
		q.dropBody(ctx, &job{Object: object})
	}
	return nil
}

// PurgeAll deletes all dead letters of a function, or with "" of all, and
// returns how many.
func (q *Queue) PurgeAll(ctx context.Context, fn string) (int, error) {
	return q.eachDead(ctx, fn, func(m *jetstream.RawStreamMsg) error { return q.purge(ctx, m) })
}
