package async

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// storeAll is store for many messages that are on their way together. It
// returns the error of each; those of which nothing was heard in time may have
// been stored.
func (q *Queue) storeAll(ctx context.Context, all []*nats.Msg) []error {
	ctx, cancel := context.WithTimeout(ctx, 2*timeout)
	defer cancel()
	failed := make([]error, len(all))
	fail := func(err error) []error {
		for i := range failed {
			failed[i] = err
		}
		return failed
	}
	inbox := q.nc.NewRespInbox() + "."
	acks, err := q.nc.SubscribeSync(inbox + "*")
	if err != nil {
		return fail(err)
	}
	defer func() { _ = acks.Unsubscribe() }() // the connection may be gone
	unheard := fmt.Errorf("the broker has not acknowledged: %w", context.DeadlineExceeded)
	for i, m := range all {
		m.Reply = inbox + strconv.Itoa(i)
		if failed[i] = q.nc.PublishMsg(m); failed[i] == nil {
			failed[i] = unheard
		}
	}
	for range all {
		ack, err := acks.NextMsgWithContext(ctx)
		if err != nil {
			break
		}
		i, err := strconv.Atoi(ack.Subject[len(inbox):])
		if err != nil || i >= len(failed) {
			continue
		}
		if _, failed[i] = readAck(ack.Data); len(ack.Data) == 0 {
			failed[i] = nats.ErrNoResponders // the stream has no leader, or is gone
		}
	}
	return failed
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
