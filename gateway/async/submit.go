package async

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A Submission is a call to be run later.
type Submission struct {
	Function function.Ref
	// Annotations are the function's: com.openfaas.queue and
	// com.openfaas.retry.* count.
	Annotations map[string]string
	// Request is the call as OpenFaaS writes it, without body, annotations and
	// queue name.
	Request types.QueueRequest
	// Body is the call's body, and Length how long it is; -1 is unknown.
	Body   io.Reader
	Length int64
	// Key, if not empty, makes the same call submitted twice by one caller one
	// call.
	Key    string
	Caller string
}

// Submit accepts a call, or says why not; it returns the call's id when the
// call is stored so that no crash of a process loses it. Errors are
// fault.Busy, with a time to retry, where the backlog is full,
// fault.Unavailable where it cannot be stored, fault.TooLarge, and
// fault.Invalid.
func (q *Queue) Submit(ctx context.Context, s Submission) (id string, err error) {
	if err := q.ready(); err != nil {
		return "", err
	}
	if err := q.o.Room(); err != nil {
		return "", err
	}
	queue, err := queueOf(s)
	if err != nil {
		return "", err
	}
	j := &job{Queue: queue, Ref: s.Function, Request: s.Request, Caller: s.Caller, Submitted: time.Now().UTC()}
	if queue != DefaultQueue {
		j.Request.QueueName = queue
	}
	j.Request.Annotations = retryAnnotations(s.Annotations)
	if s.Key != "" {
		return q.submitKeyed(ctx, j, s)
	}
	if err := q.takeBody(ctx, j, s); err != nil {
		return "", err
	}
	j.Seed = newSeed(j.Submitted)
	seq, err := q.publish(ctx, j, "")
	if err != nil {
		q.dropBody(ctx, j)
		return "", err
	}
	id = j.Seed.id(seq)
	if name := s.Request.Header.Get("X-Call-Id"); name != "" {
		q.alias(ctx, name, id)
	}
	q.o.Meter.Submitted(j.Queue)
	return id, nil
}

// submitKeyed makes a call's record before the call itself: whoever makes the
// record owns the key. A crash between the two leaves a record without a
// message, which the next submission with the key completes.
func (q *Queue) submitKeyed(ctx context.Context, j *job, s Submission) (string, error) {
	j.ID, j.Keyed = keyedID(s.Function, s.Caller, s.Key), true
	c := j.call(Queued)
	switch err := q.putRecord(ctx, c, nil, 0); {
	case errors.Is(err, errConflict):
		if c, _, err = q.record(ctx, j.ID); err != nil {
			return "", err
		}
		if c.Message != 0 || c.State != Queued {
			return j.ID, nil // it was accepted before
		}
	case err != nil:
		return "", err
	}
	if err := q.takeBody(ctx, j, s); err != nil {
		return "", err
	}
	seq, err := q.publish(ctx, j, j.ID)
	if err != nil {
		q.dropBody(ctx, j)
		return "", err
	}
	c.Message = seq
	// A conflict means that a worker was quicker, and its record knows more;
	// without the sequence a repeated submission sends a message that the
	// worker recognises.
	if err := q.putRecord(ctx, c, nil, c.seq); err != nil && !errors.Is(err, errConflict) {
		q.o.Log.Warn("a call was accepted but its record is behind", "call", j.ID, "err", err)
	}
	if name := s.Request.Header.Get("X-Call-Id"); name != "" {
		q.alias(ctx, name, j.ID)
	}
	q.o.Meter.Submitted(j.Queue)
	return j.ID, nil
}

// takeBody reads the body into j, or, where it is large, into the object
// store, without holding it in memory.
func (q *Queue) takeBody(ctx context.Context, j *job, s Submission) error {
	if s.Body == nil {
		return nil
	}
	if s.Length > q.o.MaxBody {
		return fault.TooLarge.Errorf("request body exceeds %d bytes", q.o.MaxBody)
	}
	ctx, cancel := context.WithTimeout(ctx, acceptTime/2)
	defer cancel()
	head, err := io.ReadAll(io.LimitReader(s.Body, int64(q.o.InlineBody)+1))
	if err != nil {
		return fault.Invalid.Errorf("read request body: %w", err)
	}
	if len(head) <= q.o.InlineBody {
		j.Request.Body = head
		return nil
	}
	j.Object = nats.NewInbox()[len(nats.InboxPrefix):]
	whole := &bounded{r: io.MultiReader(bytes.NewReader(head), s.Body), left: q.o.MaxBody}
	if _, err := q.requests.Put(ctx, jetstream.ObjectMeta{Name: j.Object}, whole); err != nil {
		q.dropBody(ctx, j)
		switch {
		case whole.left < 0:
			return fault.TooLarge.Errorf("request body exceeds %d bytes", q.o.MaxBody)
		case whole.err != nil:
			return fault.Invalid.Errorf("read request body: %w", whole.err)
		}
		return refused(fmt.Errorf("store request body: %w", err))
	}
	return nil
}

// dropBody deletes j's body, if it lies in the object store.
func (q *Queue) dropBody(ctx context.Context, j *job) {
	if j.Object == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := q.requests.Delete(ctx, j.Object); err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		q.o.Log.Warn("a body without a call is left behind", "object", j.Object, "err", err)
	}
}

// bounded fails once more than left bytes are read, and remembers why.
type bounded struct {
	r    io.Reader
	left int64
	err  error // of r, other than its end
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("too large")
	}
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// publish stores j in the calls stream, and returns its place there. A message
// of the same name that the broker remembers is not stored again.
func (q *Queue) publish(ctx context.Context, j *job, name string) (uint64, error) {
	where := subject(j.Queue, j.Ref)
	m, err := j.encode(callsSubject + where)
	if err != nil {
		return 0, err
	}
	if name != "" {
		withName(m, name)
	}
	seq, err := q.store(ctx, m)
	if err != nil {
		return 0, refused(err)
	}
	q.hint(where)
	return seq, nil
}

// hint tells workers that there is a call. Workers that miss it find out
// themselves a little later.
func (q *Queue) hint(where string) {
	if err := q.nc.Publish(hintSubject, []byte(where)); err != nil {
		q.o.Log.Debug("workers are not told of a call", "err", err)
	}
}

// callbackQueue stands where a queue's name does on callbacks that are put off.
const callbackQueue = "callback"

// alias remembers the id that a caller gave a call, so that the call is found
// by it. Of calls with one id the latest is found.
func (q *Queue) alias(ctx context.Context, name, id string) {
	m := &nats.Msg{Subject: recordsSubject + named("alias", name), Header: nats.Header{headerAlias: {id}}}
	if _, err := q.store(ctx, m); err != nil {
		q.o.Log.Warn("a call cannot be found by the caller's id", "call", id, "err", err)
	}
}

// queueOf returns the queue that the function of s names.
func queueOf(s Submission) (string, error) {
	name := cmp.Or(s.Annotations[function.AnnotationQueue], DefaultQueue)
	if name == callbackQueue {
		return "", fault.Invalid.Errorf("annotation %s is %q, which is taken", function.AnnotationQueue, name)
	}
	for _, c := range name {
		plain := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
		if !plain {
			return "", fault.Invalid.Errorf("annotation %s is %q: want letters, digits, dashes and underscores", function.AnnotationQueue, name)
		}
	}
	return name, nil
}

// retryAnnotations returns those that the worker needs.
func retryAnnotations(all map[string]string) map[string]string {
	var kept map[string]string
	for k, v := range all {
		if strings.HasPrefix(k, function.AnnotationRetry) {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[k] = v
		}
	}
	return kept
}

// parseCallback reads a header X-Callback-Url.
func parseCallback(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fault.Invalid.Errorf("X-Callback-Url is %q, want a URL that begins with http:// or https://", text)
	}
	return u, nil
}

// newTrace returns a traceparent header of a trace of its own.
func newTrace() string {
	s := newSeed(time.Now())
	id := strings.ReplaceAll(named("trace", s.String()), "-", "")
	return "00-" + id + "-" + hex.EncodeToString(s[3:]) + "-01"
}
