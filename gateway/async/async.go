// Package async runs calls later: it accepts a call durably, runs it when the
// function has room, tries again what failed, keeps the result, and tells
// whoever asked to be told.
//
// Everything lives in NATS JetStream. A call that was accepted is a message of
// the calls stream, a work queue, and that stream is the only truth about what
// is still to be done: a message leaves it when the call's result is stored,
// when it is put off to a later try, or when it has become a dead letter, and
// each of these is durable before the message is acknowledged. So a crash at
// any point repeats work and never loses it. What a call came to is a record,
// bounded in number and age.
//
//	calls      GRAPHENE_CALLS      what is to be run, a subject per queue and function
//	later      GRAPHENE_LATER      what waits for its next try
//	records    GRAPHENE_RECORDS    state and result of calls, one message each
//	done       GRAPHENE_DONE       the same of calls that went well at once, several in a message
//	dead       GRAPHENE_DEAD       calls that failed for good, with their bodies
//	callbacks  GRAPHENE_CALLBACKS  results on their way to those who want to be told
//	batches    GRAPHENE_BATCHES    how far a batch was accepted, and where its calls are
//	results    GRAPHENE_RESULTS    results of batches, in the order they came
//
// Bodies too large for a message lie in two object stores and travel by name.
//
// [Open] makes the streams and returns a [Queue], which submits and answers
// questions; a [Worker] runs the calls; [NewAPI] is the HTTP side of both. Where
// the broker may be away when a program starts, [Connect], [New] and
// [Queue.Run] do the same without waiting for it.
package async

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// DefaultQueue is the queue of functions that name none.
const DefaultQueue = "faas-request"

// Names of streams and buckets.
const (
	callsStream     = "GRAPHENE_CALLS"
	laterStream     = "GRAPHENE_LATER"
	recordsStream   = "GRAPHENE_RECORDS"
	doneStream      = "GRAPHENE_DONE"
	deadStream      = "GRAPHENE_DEAD"
	callbacksStream = "GRAPHENE_CALLBACKS"
	batchesStream   = "GRAPHENE_BATCHES"
	resultsStream   = "GRAPHENE_RESULTS"

	requestsBucket  = "graphene-requests"
	responsesBucket = "graphene-responses"
)

// Subjects begin with these.
const (
	callsSubject     = "graphene.call."     // QUEUE.NAMESPACE.NAME
	laterSubject     = "graphene.later."    // the same, or callback.NAMESPACE.NAME
	recordsSubject   = "graphene.record."   // ID
	doneSubject      = "graphene.done."     // BLOCK.UNIQUE
	deadSubject      = "graphene.dead."     // NAMESPACE.NAME.ID
	callbacksSubject = "graphene.callback." // NAMESPACE.NAME
	batchesSubject   = "graphene.batch."    // ID, or ID.WINDOW
	resultsSubject   = "graphene.result."   // BATCH.OUTCOME

	hintSubject   = "graphene.hint"   // core message: a subject of the calls stream has a message
	cancelSubject = "graphene.cancel" // core request: is this call running? Stop it.
	askSubject    = "graphene.ask"    // core request: is this call running?
)

// Options tune a [Queue]. Zero values mean the default in the field's comment.
type Options struct {
	// Existing leaves the streams as they are, and makes none: it is for those
	// who only use what the gateway has made.
	Existing bool
	// Replicas is how many servers of a cluster hold each stream; 0 is 1.
	Replicas int
	// MaxBacklog is how many calls of one function may wait; 0 is 1,048,576.
	MaxBacklog int64
	// MaxBytes is how much calls that wait may take, with their bodies; 0 is
	// 10 GiB. KeepBytes is how much may be kept of calls that have ended:
	// results, dead letters, callbacks on their way; 0 is 8 GiB.
	MaxBytes, KeepBytes int64
	// MaxBody bounds the body of one call, in bytes; 0 is 100 MB.
	MaxBody int64
	// InlineBody is how large a body may be that travels inside its message,
	// in bytes; larger ones go to the object store. 0 is 256 KiB.
	InlineBody int
	// MaxRecords and ResultAge bound how many results are kept, and for how
	// long; 0 is 200,000 and 24 hours.
	MaxRecords int64
	ResultAge  time.Duration
	// DeadAge is how long dead letters are kept; 0 is 14 days.
	DeadAge time.Duration
	// Room is asked before a call is accepted whether the store has space left
	// for it; its error, of kind fault.Unavailable, goes to the caller. Nil:
	// there always is.
	Room func() error
	// Meter counts; nil counts nothing.
	Meter Meter
	Log   *slog.Logger
}

// A Meter counts what the queue does. It is safe for concurrent use.
type Meter interface {
	// Submitted counts a call that was accepted.
	Submitted(queue string)
	// Processed counts a call that left the queue for good.
	Processed(queue string)
	// Running tells by how much the number of calls that run has changed.
	Running(queue string, ref function.Ref, delta int)
}

type noMeter struct{}

func (noMeter) Submitted(string)                  {}
func (noMeter) Processed(string)                  {}
func (noMeter) Running(string, function.Ref, int) {}

const (
	timeout    = 5 * time.Second        // of one exchange with the broker
	reopenWait = 500 * time.Millisecond // before the streams are looked for again
)

// A Queue accepts calls and knows what became of them. It is safe for
// concurrent use.
type Queue struct {
	o  Options
	nc *nats.Conn
	js jetstream.JetStream

	// Set before opened is closed.
	calls, later, records, done, dead, callbacks, batches, results jetstream.Stream
	requests, responses                                            jetstream.ObjectStore

	opening sync.Mutex // held while the streams are made
	opened  chan struct{}
	indexes *indexes
	counted backlog

	clearing sync.Mutex // held while room is made
}

// Open is [New], and returns once the queue is open. Errors are
// fault.Unavailable if the broker cannot be reached.
func Open(ctx context.Context, nc *nats.Conn, o Options) (*Queue, error) {
	q, err := New(nc, o)
	if err != nil {
		return nil, err
	}
	return q, q.open(ctx)
}

// New returns a queue whose broker may be away. Until [Queue.Run] has found the
// broker, everything it is asked for fails with fault.Unavailable.
func New(nc *nats.Conn, o Options) (*Queue, error) {
	o.Replicas = cmp.Or(o.Replicas, 1)
	o.MaxBacklog = cmp.Or(o.MaxBacklog, 1<<20)
	o.MaxBytes = cmp.Or(o.MaxBytes, 10<<30)
	o.KeepBytes = cmp.Or(o.KeepBytes, 8<<30)
	o.MaxBody = cmp.Or(o.MaxBody, 100_000_000)
	o.InlineBody = cmp.Or(o.InlineBody, 256<<10)
	o.MaxRecords = cmp.Or(o.MaxRecords, 200_000)
	o.ResultAge = cmp.Or(o.ResultAge, 24*time.Hour)
	o.DeadAge = cmp.Or(o.DeadAge, 14*24*time.Hour)
	if o.Room == nil {
		o.Room = func() error { return nil }
	}
	if o.Meter == nil {
		o.Meter = noMeter{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(timeout))
	if err != nil {
		return nil, fmt.Errorf("open the queue: %w", err)
	}
	return &Queue{o: o, nc: nc, js: js, opened: make(chan struct{}), indexes: newIndexes()}, nil
}

// Opened returns a channel that is closed once the queue is open.
func (q *Queue) Opened() <-chan struct{} { return q.opened }

// ready returns nil once the queue is open, before that fault.Unavailable.
func (q *Queue) ready() error {
	select {
	case <-q.opened:
		return nil
	default:
		return fault.Unavailable.Errorf("the queue is unavailable: NATS has not answered yet")
	}
}

// Run opens the queue as soon as the broker is there, and looks after it until
// ctx ends: a broker that comes back without its files gets its streams again.
// It returns nil.
func (q *Queue) Run(ctx context.Context) error {
	connected := q.nc.StatusChanged(nats.CONNECTED)
	defer q.nc.RemoveStatusListener(connected)
	said := false
	for {
		var again <-chan time.Time // nil: not before the next connection
		if q.nc.IsConnected() {
			switch err := q.open(ctx); {
			case ctx.Err() != nil:
				return nil
			case err == nil:
				said = false
			case !said:
				said = true
				q.o.Log.Warn("the queue cannot be opened; trying again", "err", err)
				fallthrough
			default:
				again = time.After(reopenWait)
			}
		}
		select {
		case <-connected:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// open makes the streams where they are missing, and adjusts those there are
// to the options. It may be called again.
func (q *Queue) open(ctx context.Context) error {
	q.opening.Lock()
	defer q.opening.Unlock()
	o, share := q.o, q.o.shares()
	first := q.ready() != nil
	for _, s := range []struct {
		stream *jetstream.Stream
		config jetstream.StreamConfig
	}{
		{&q.calls, jetstream.StreamConfig{
			Name: callsStream, Subjects: []string{callsSubject + ">"},
			Retention: jetstream.WorkQueuePolicy,
			Discard:   jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: o.MaxBacklog, MaxBytes: share.calls,
		}},
		{&q.later, jetstream.StreamConfig{
			Name: laterStream, Subjects: []string{laterSubject + ">"}, Retention: jetstream.WorkQueuePolicy,
			Discard: jetstream.DiscardNew, MaxBytes: share.later,
		}},
		{&q.records, jetstream.StreamConfig{
			Name: recordsStream, Subjects: []string{recordsSubject + ">"},
			MaxMsgsPerSubject: 1, MaxMsgs: o.MaxRecords, MaxAge: o.ResultAge, MaxBytes: share.records,
		}},
		{&q.done, jetstream.StreamConfig{
			Name: doneStream, Subjects: []string{doneSubject + ">"}, MaxMsgs: o.MaxRecords, MaxAge: o.ResultAge, MaxBytes: share.done,
		}},
		{&q.dead, jetstream.StreamConfig{
			Name: deadStream, Subjects: []string{deadSubject + ">"}, MaxMsgsPerSubject: 1, MaxAge: o.DeadAge,
			Discard: jetstream.DiscardNew, MaxBytes: share.dead,
		}},
		{&q.callbacks, jetstream.StreamConfig{
			Name: callbacksStream, Subjects: []string{callbacksSubject + ">"}, Retention: jetstream.WorkQueuePolicy,
			Discard: jetstream.DiscardNew, MaxBytes: share.callbacks,
		}},
		{&q.batches, jetstream.StreamConfig{
			Name: batchesStream, Subjects: []string{batchesSubject + ">"}, MaxMsgsPerSubject: 1, MaxAge: o.DeadAge,
			Discard: jetstream.DiscardNew, MaxBytes: share.batches,
		}},
		{&q.results, jetstream.StreamConfig{
			Name: resultsStream, Subjects: []string{resultsSubject + ">"}, MaxAge: o.DeadAge,
			Discard: jetstream.DiscardNew, MaxBytes: share.results,
		}},
	} {
		s.config.Storage = jetstream.FileStorage
		s.config.Replicas = o.Replicas
		s.config.AllowDirect = true
		handle, err := q.openStream(ctx, s.config)
		if err != nil {
			return unavailable(fmt.Errorf("open stream %s: %w", s.config.Name, err))
		}
		if first { // a handle is only a name, so the first one stays good
			*s.stream = handle
		}
	}
	for _, b := range []struct {
		bucket *jetstream.ObjectStore
		config jetstream.ObjectStoreConfig
	}{
		{&q.requests, jetstream.ObjectStoreConfig{Bucket: requestsBucket, MaxBytes: share.bodies}},
		{&q.responses, jetstream.ObjectStoreConfig{Bucket: responsesBucket, TTL: o.ResultAge, MaxBytes: share.answers}},
	} {
		b.config.Replicas = o.Replicas
		handle, err := q.openBucket(ctx, b.config)
		if err != nil {
			return unavailable(fmt.Errorf("open object store %s: %w", b.config.Bucket, err))
		}
		if first {
			*b.bucket = handle
		}
	}
	if first {
		close(q.opened)
	}
	return nil
}

// openStream returns a stream, which it makes or adjusts if need be. A stream
// that cannot be adjusted serves as it is: a platform must also start on a disk
// that is full.
func (q *Queue) openStream(ctx context.Context, want jetstream.StreamConfig) (jetstream.Stream, error) {
	there, err := q.js.Stream(ctx, want.Name)
	if err != nil && (q.o.Existing || !errors.Is(err, jetstream.ErrStreamNotFound)) {
		return nil, err
	}
	if err == nil {
		had := there.CachedInfo().Config
		if q.o.Existing || had.MaxMsgsPerSubject == unlimited(want.MaxMsgsPerSubject) && had.MaxMsgs == unlimited(want.MaxMsgs) &&
			had.MaxBytes == unlimited(want.MaxBytes) && had.MaxAge == want.MaxAge && had.Discard == want.Discard && had.Replicas == want.Replicas {
			return there, nil
		}
	}
	s, err := q.js.CreateOrUpdateStream(ctx, want)
	if err != nil && there != nil {
		q.o.Log.Warn("a stream keeps its old limits", "stream", want.Name, "err", err)
		return there, nil
	}
	return s, err
}

// unlimited is how the broker writes the limit n.
func unlimited(n int64) int64 {
	if n == 0 {
		return -1
	}
	return n
}

// openBucket is openStream for an object store.
func (q *Queue) openBucket(ctx context.Context, want jetstream.ObjectStoreConfig) (jetstream.ObjectStore, error) {
	there, err := q.js.ObjectStore(ctx, want.Bucket)
	if err != nil && (q.o.Existing || !errors.Is(err, jetstream.ErrBucketNotFound)) {
		return nil, err
	}
	if err == nil {
		if had, err := there.Status(ctx); q.o.Existing || err == nil && had.TTL() == want.TTL && had.Replicas() == want.Replicas && bucketBytes(had) == want.MaxBytes {
			return there, nil
		}
	}
	b, err := q.js.CreateOrUpdateObjectStore(ctx, want)
	if err != nil && there != nil {
		q.o.Log.Warn("an object store keeps its old limits", "bucket", want.Bucket, "err", err)
		return there, nil
	}
	return b, err
}

// bucketBytes returns how many bytes a bucket may hold.
func bucketBytes(s jetstream.ObjectStoreStatus) int64 {
	if s, ok := s.(*jetstream.ObjectBucketStatus); ok {
		return s.StreamInfo().Config.MaxBytes
	}
	return -1
}

// subject returns what follows the prefix of a call's subject. Names are DNS
// labels, so none holds a dot.
func subject(queue string, ref function.Ref) string {
	return queue + "." + ref.Namespace + "." + ref.Name
}

// unavailable makes an error of the broker one that a caller understands.
func unavailable(err error) error {
	return fault.Unavailable.Errorf("the queue is unavailable: %w", err)
}

// Codes of the broker's errors for a stream that is full.
const (
	errStoreFailed = 10077 // the store refused the message, for the reason in its text
	errNoResources = 10047 // the server has no space left
	errNoStorage   = 10023
)

// refused explains why the broker did not take a message; nil it leaves alone.
func refused(err error) error {
	if err == nil {
		return nil
	}
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		switch {
		case api.ErrorCode == errStoreFailed && isFull(api.Description):
			return &web.Retry{After: 10 * time.Second, Err: fault.Busy.Errorf("the backlog is full: %s", api.Description)}
		case api.ErrorCode == errNoResources, api.ErrorCode == errNoStorage, api.ErrorCode == errStoreFailed:
			return fault.Unavailable.Errorf("the queue has no space left: %w", err)
		}
	}
	return unavailable(err)
}

// full says of what there is too much, where err, which the broker gave, says
// only that. Other errors it leaves alone.
func full(what string, err error) error {
	if !errors.Is(err, fault.Busy) {
		return err
	}
	return fault.Busy.Errorf("there is no room for more %s", what)
}

// isFull tells the texts of a stream's limits from those of a broken store.
func isFull(description string) bool {
	switch description {
	case "maximum messages per subject exceeded", "maximum bytes exceeded", "maximum messages exceeded":
		return true
	}
	return false
}
