package async

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A State is where a call stands.
type State string

// The states. A call ends in done, failed or cancelled; a failed one can be
// retried.
const (
	Queued    State = "queued"    // accepted, has not run yet
	Running   State = "running"   // a worker runs it
	Waiting   State = "waiting"   // a try failed, the next has a time
	Done      State = "done"      // the function has answered
	Failed    State = "failed"    // the last try failed: a dead letter
	Cancelled State = "cancelled" // somebody asked for it not to run
)

// Ended reports whether a call in this state will not run any more by itself.
func (s State) Ended() bool { return s == Done || s == Failed || s == Cancelled }

// States lists all states.
func States() []State { return []State{Queued, Running, Waiting, Done, Failed, Cancelled} }

// A Call is what is known about a call, without its bodies.
type Call struct {
	ID        string     `json:"id"`
	Function  string     `json:"function"` // NAME.NAMESPACE
	Queue     string     `json:"queue"`
	State     State      `json:"state"`
	CallID    string     `json:"callId,omitempty"` // what the caller called it
	Batch     string     `json:"batch,omitempty"`
	Index     int        `json:"index,omitempty"` // which document of the batch
	Submitted time.Time  `json:"submitted"`
	Started   *time.Time `json:"started,omitempty"` // of the latest try
	Ended     *time.Time `json:"ended,omitempty"`
	Next      *time.Time `json:"next,omitempty"` // time of the next try
	Tries     []Try      `json:"tries,omitempty"`

	Status       int         `json:"status,omitempty"` // of the function's answer
	Header       http.Header `json:"header,omitempty"`
	Size         int64       `json:"size,omitempty"` // of the answer's body
	Object       string      `json:"object,omitempty"`
	CallbackFail string      `json:"callbackFailed,omitempty"` // why the callback was given up
	// Held says why a call that has run is still in the queue: there is no room
	// for what follows from it. Outcome is what that is.
	Held    string `json:"held,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	// Dropped says why the body of the answer is not kept, or not any more.
	Dropped string `json:"resultDropped,omitempty"`
	// Message is the place in the calls stream of the message that a keyed
	// call is run by; 0 until it is stored.
	Message uint64 `json:"message,omitempty"`
	Keyed   bool   `json:"keyed,omitempty"`

	seq uint64 // of the record
}

// Ref returns the function's name.
func (c *Call) Ref() function.Ref {
	name, namespace, _ := strings.Cut(c.Function, ".")
	return function.Ref{Name: name, Namespace: namespace}
}

// encode returns c as it is stored.
func (c *Call) encode() ([]byte, error) { return json.Marshal(c) }

// errConflict says that a record is not the one it was.
var errConflict = errors.New("the record was changed by somebody else")

// anyRecord stores a record whatever is there.
const anyRecord = ^uint64(0)

// putRecord stores c with the body of its answer. A last other than anyRecord
// is the sequence that the record must have, 0 for none: else errConflict.
func (q *Queue) putRecord(ctx context.Context, c *Call, body []byte, last uint64) error {
	text, err := c.encode()
	if err != nil {
		return fmt.Errorf("write record of call %s: %w", c.ID, err)
	}
	m := &nats.Msg{Subject: recordsSubject + c.ID, Header: nats.Header{headerRecord: {string(text)}}, Data: body}
	if last != anyRecord {
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(last, 10))
	}
	seq, err := q.store(ctx, m)
	switch {
	case isConflict(err):
		return errConflict
	case err != nil:
		return refused(fmt.Errorf("store record of call %s: %w", c.ID, err))
	}
	c.seq = seq
	return nil
}

// putTry stores c, the record of a call whose next try is in the queue already.
// That try may be over by now, and what its worker has stored stays.
func (q *Queue) putTry(ctx context.Context, c *Call) error {
	for last := uint64(0); ; {
		err := q.putRecord(ctx, c, nil, last)
		if !errors.Is(err, errConflict) {
			return err
		}
		there, _, err := q.record(ctx, c.ID)
		switch {
		case isNotFound(err):
			last = 0
		case err != nil:
			return err
		case overtaken(len(c.Tries), there.State, len(there.Tries)):
			return nil
		default:
			last = there.seq
		}
	}
}

// overtaken reports whether a record in this state knows more of a call than
// one that waits for the try after tries.
func overtaken(tries int, there State, triesThere int) bool {
	return there.Ended() || triesThere > tries
}

// record returns the record of a call and the body of its answer. Errors are
// fault.NotFound.
func (q *Queue) record(ctx context.Context, id string) (*Call, []byte, error) {
	m, err := q.records.GetLastMsgForSubject(ctx, recordsSubject+id)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil, fault.NotFound.Errorf("call %s is not known, or not any more", id)
	}
	if err != nil {
		return nil, nil, unavailable(fmt.Errorf("read record of call %s: %w", id, err))
	}
	c, err := readRecord(m.Header, m.Sequence)
	return c, m.Data, err
}

func readRecord(h nats.Header, seq uint64) (*Call, error) {
	c := &Call{}
	if err := json.Unmarshal([]byte(h.Get(headerRecord)), c); err != nil {
		return nil, fmt.Errorf("read a record: %w", err)
	}
	c.seq = seq
	return c, nil
}

// call returns what j would look like in a record.
func (j *job) call(state State) *Call {
	c := &Call{
		ID: j.ID, Function: j.Ref.String(), Queue: j.Queue, State: state, Batch: j.Batch,
		Index: j.Index, Submitted: j.Submitted, Tries: j.Tries, Keyed: j.Keyed,
	}
	if id := j.Request.Header.Get("X-Call-Id"); id != j.ID {
		c.CallID = id
	}
	return c
}
