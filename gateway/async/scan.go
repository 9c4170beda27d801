package async

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// scan calls each for the messages of a stream that config describes and that
// are there now, in their order, until each returns false. In a cluster of
// brokers a consumer that was just made may not answer yet; scan then asks
// again, as long as ctx and timeout allow.
func (q *Queue) scan(ctx context.Context, stream string, config jetstream.OrderedConsumerConfig, each func(jetstream.Msg) bool) error {
	consumer, err := q.js.OrderedConsumer(ctx, stream, config)
	if err != nil {
		return unavailable(err)
	}
	patience := time.NewTimer(timeout)
	defer patience.Stop()
	for {
		n, more, err := fetchNow(consumer, each)
		switch {
		case !more:
			return nil
		case err == nil && (n == 0 || ctx.Err() != nil):
			return ctx.Err()
		case err == nil:
			patience.Reset(timeout)
			continue
		case !errors.Is(err, nats.ErrNoResponders):
			return unavailable(err)
		}
		select {
		case <-time.After(electionWait):
		case <-patience.C:
			return unavailable(err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fetchNow calls each for messages that can be had at once, and says how many
// there were and whether each wants more.
func fetchNow(consumer jetstream.Consumer, each func(jetstream.Msg) bool) (n int, more bool, err error) {
	batch, err := consumer.FetchNoWait(2000)
	if err != nil {
		return 0, true, err
	}
	more = true
	for m := range batch.Messages() { // to the end, for the consumer's sake
		n++
		more = more && each(m)
	}
	return n, more, batch.Error()
}

// A message is one of a stream, as it is stored.
type message struct {
	seq     uint64
	time    time.Time
	subject string
	header  nats.Header
	data    []byte
}

// maxAhead bounds the bytes that one look ahead brings, besides its last
// message.
const maxAhead = 4 << 20

// ahead returns up to n messages of a stream from the place from on, that
// match filter, in their order. It reports whether there may be more. Unlike a
// consumer it can be used on a work queue, and leaves nothing behind.
func (q *Queue) ahead(ctx context.Context, stream, filter string, from uint64, n int) (page []message, more bool, err error) {
	return q.direct(ctx, stream, n, map[string]any{"seq": max(1, from), "next_by_subj": filter})
}

// latest returns the last message of each subject of a stream that matches one
// of filters, up to n of those from the place from on, in their order. It
// reports whether there may be more. At most 1024 subjects can match, else its
// error is errTooMany.
func (q *Queue) latest(ctx context.Context, stream string, filters []string, from uint64, n int) (page []message, more bool, err error) {
	return q.direct(ctx, stream, n, map[string]any{"seq": from, "multi_last": filters})
}

// errTooMany says that more subjects match than the broker looks up together.
var errTooMany = errors.New("too many subjects match")

// direct asks for up to n messages of a stream that match request.
func (q *Queue) direct(ctx context.Context, stream string, n int, what map[string]any) (page []message, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	what["batch"], what["max_bytes"] = n, maxAhead
	request, err := json.Marshal(what)
	if err != nil {
		return nil, false, err
	}
	inbox := q.nc.NewRespInbox()
	answers := make(chan *nats.Msg, n+1) // never full, which would lose some
	sub, err := q.nc.ChanSubscribe(inbox, answers)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	ask := func() error { return q.nc.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, request) }
	if err := ask(); err != nil {
		return nil, false, err
	}
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			one := message{subject: m.Header.Get(jetstream.SubjectHeader), header: m.Header, data: m.Data}
			if one.seq, err = strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64); err != nil {
				return nil, false, fmt.Errorf("read from stream %s: %w", stream, err)
			}
			if one.time, err = time.Parse(time.RFC3339Nano, m.Header.Get(jetstream.TimeStampHeaer)); err != nil {
				return nil, false, fmt.Errorf("read from stream %s: %w", stream, err)
			}
			page = append(page, one)
		case "404": // there is none
			return nil, false, nil
		case "204": // that was all
			return page, m.Header.Get("Nats-Num-Pending") != "0", nil
		case "413":
			return nil, false, errTooMany
		case "503": // the stream has no leader at the moment
			select {
			case <-time.After(electionWait):
			case <-ctx.Done():
				return nil, false, nats.ErrNoResponders
			}
			if err := ask(); err != nil {
				return nil, false, err
			}
		default:
			return nil, false, fmt.Errorf("read from stream %s: the broker answers %s %s", stream, status, m.Header.Get("Description"))
		}
	}
}
