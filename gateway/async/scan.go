package async

import (
	"context"
	"errors"
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
