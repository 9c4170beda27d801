package async

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// electionWait is how long to wait before a stream that has no leader is asked
// again; a cluster that lost a server chooses one within a few seconds.
const electionWait = 100 * time.Millisecond

// withName sets the name of m: of several messages with one name the broker keeps
// one, as long as it remembers.
func withName(m *nats.Msg, name string) *nats.Msg {
	m.Header.Set(jetstream.MsgIDHeader, name)
	return m
}

// store returns m's place in its stream as soon as the broker has stored it.
// It is jetstream's PublishMsg at about half the processor time, and it waits
// for a stream that has no leader at the moment, as long as ctx and timeout
// allow.
func (q *Queue) store(ctx context.Context, m *nats.Msg) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		answer, err := q.nc.RequestMsgWithContext(ctx, m)
		if err == nil {
			return readAck(answer.Data)
		}
		if !errors.Is(err, nats.ErrNoResponders) {
			return 0, err
		}
		select {
		case <-time.After(electionWait):
		case <-ctx.Done():
			return 0, err
		}
	}
}

// A pipe stores messages that are on their way together. It is not safe for
// concurrent use.
type pipe struct {
	q     *Queue
	inbox string
	acks  *nats.Subscription
	round int // tells the acknowledgements of one call of store from those of another
}

// newPipe returns a pipe. Its owner closes it.
func (q *Queue) newPipe() (*pipe, error) {
	inbox := q.nc.NewRespInbox() + "."
	acks, err := q.nc.SubscribeSync(inbox + "*")
	if err != nil {
		return nil, unavailable(fmt.Errorf("listen for acknowledgements: %w", err))
	}
	return &pipe{q: q, inbox: inbox, acks: acks}, nil
}

func (p *pipe) close() { _ = p.acks.Unsubscribe() } // the connection may be gone

// A stored is what became of a message: its place in its stream, or why it has
// none.
type stored struct {
	seq uint64
	err error
}

// errUnheard says that a message may have been stored or not.
var errUnheard = fmt.Errorf("the broker has not acknowledged: %w", context.DeadlineExceeded)

// store stores all, and waits for a stream that has no leader at the moment,
// as long as ctx and timeout allow.
func (p *pipe) store(ctx context.Context, all []*nats.Msg) []stored {
	ctx, cancel := context.WithTimeout(ctx, 2*timeout)
	defer cancel()
	result := make([]stored, len(all))
	left := make([]int, len(all))
	for i := range left {
		left[i] = i
	}
	for {
		p.send(ctx, all, left, result)
		left = slices.DeleteFunc(left, func(i int) bool { return !errors.Is(result[i].err, nats.ErrNoResponders) })
		if len(left) == 0 {
			return result
		}
		select {
		case <-time.After(electionWait):
		case <-ctx.Done():
			return result
		}
	}
}

// send sends those of all that are listed, and enters what became of them.
func (p *pipe) send(ctx context.Context, all []*nats.Msg, listed []int, result []stored) {
	p.round++
	base := p.round << 20
	for _, i := range listed {
		all[i].Reply = p.inbox + strconv.Itoa(base+i)
		if result[i].err = p.q.nc.PublishMsg(all[i]); result[i].err == nil {
			result[i].err = errUnheard
		}
	}
	for range listed {
		ack, err := p.acks.NextMsgWithContext(ctx)
		for err == nil && !p.current(ack) {
			ack, err = p.acks.NextMsgWithContext(ctx)
		}
		if err != nil {
			return
		}
		n, _ := strconv.Atoi(ack.Subject[len(p.inbox):])
		r := &result[n-base]
		if r.seq, r.err = readAck(ack.Data); len(ack.Data) == 0 {
			r.err = nats.ErrNoResponders // the stream has no leader, or is gone
		}
	}
}

// current reports whether ack answers the round that is on its way.
func (p *pipe) current(ack *nats.Msg) bool {
	n, err := strconv.Atoi(ack.Subject[len(p.inbox):])
	return err == nil && n>>20 == p.round
}

var (
	ackStart = []byte(`{"stream":"`)
	ackPlace = []byte(`"seq":`)
)

// readAck reads the broker's acknowledgement of a message: its place in the
// stream, or the error, a *jetstream.APIError.
func readAck(text []byte) (uint64, error) {
	if at := bytes.Index(text, ackPlace); at > 0 && bytes.HasPrefix(text, ackStart) {
		digits := text[at+len(ackPlace):]
		if end := bytes.IndexAny(digits, ",}"); end > 0 {
			if seq, err := strconv.ParseUint(string(digits[:end]), 10, 64); err == nil && seq > 0 {
				return seq, nil
			}
		}
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		jetstream.PubAck
	}
	switch err := json.Unmarshal(text, &ack); {
	case err != nil:
		return 0, fmt.Errorf("read the broker's acknowledgement: %w", err)
	case ack.Error != nil:
		return 0, ack.Error
	case ack.Sequence == 0:
		return 0, fmt.Errorf("the broker acknowledges with %.100q", text)
	}
	return ack.Sequence, nil
}

// isConflict reports whether the broker refused a message because the subject's
// last one was not the expected one.
func isConflict(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
