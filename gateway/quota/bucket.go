package quota

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/internal/fault"
)

const (
	bucketName = "GRAPHENE_USAGE"
	// keepDays is how long usage can be asked for.
	keepDays = maxDays * 24 * time.Hour
	// maxBucket bounds what usage takes on disk, which NATS sets aside at once.
	maxBucket = 128 << 20
)

// A Bucket is a [Store] in a key-value bucket of NATS. It opens the bucket when
// it is first used.
type Bucket struct {
	js       jetstream.JetStream
	replicas int

	mu sync.Mutex
	kv jetstream.KeyValue
}

// NewBucket returns a store on nc, kept by so many servers.
func NewBucket(nc *nats.Conn, replicas int) (*Bucket, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("use the bucket of usage: %w", err)
	}
	return &Bucket{js: js, replicas: max(1, replicas)}, nil
}

func (b *Bucket) open(ctx context.Context) (jetstream.KeyValue, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.kv != nil {
		return b.kv, nil
	}
	kv, err := b.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: bucketName, Description: "what callers used of the platform", TTL: keepDays, MaxBytes: maxBucket, Replicas: b.replicas,
	})
	if err != nil {
		return nil, fault.Unavailable.Errorf("open the bucket of usage: %w", err)
	}
	b.kv = kv
	return kv, nil
}

// key says where an entry is: budgets and reports apart, each by its period.
func (e Entry) key() string {
	kind := "report"
	if e.Limit != "" {
		kind = "budget"
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", e.Limit, e.Caller, e.Function))
	return kind + "." + e.Period + "." + e.Writer + "." + base64.RawURLEncoding.EncodeToString(sum[:16])
}

// Put implements [Store].
func (b *Bucket) Put(ctx context.Context, e Entry) error {
	kv, err := b.open(ctx)
	if err != nil {
		return err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("store usage: %w", err)
	}
	if _, err := kv.Put(ctx, e.key(), text); err != nil {
		return fault.Unavailable.Errorf("store usage: %w", err)
	}
	return nil
}

// Budgets implements [Store].
func (b *Bucket) Budgets(ctx context.Context, periods []string, seen func(Entry)) error {
	kv, err := b.open(ctx)
	if err != nil {
		return err
	}
	filters := make([]string, len(periods))
	for i, p := range periods {
		filters[i] = "budget." + p + ".>"
	}
	w, err := kv.WatchFiltered(ctx, filters, jetstream.IgnoreDeletes())
	if err != nil {
		return fault.Unavailable.Errorf("watch budgets: %w", err)
	}
	defer func() { _ = w.Stop() }() // it ends with its connection otherwise
	return each(ctx, w, false, seen)
}

// Report implements [Store].
func (b *Bucket) Report(ctx context.Context, day string, seen func(Entry)) error {
	kv, err := b.open(ctx)
	if err != nil {
		return err
	}
	w, err := kv.WatchFiltered(ctx, []string{"report." + day + ".>"}, jetstream.IgnoreDeletes())
	if err != nil {
		return fault.Unavailable.Errorf("read usage: %w", err)
	}
	defer func() { _ = w.Stop() }() // it ends with its connection otherwise
	return each(ctx, w, true, seen)
}

// each reads entries from w: those there are, or until ctx ends.
func each(ctx context.Context, w jetstream.KeyWatcher, once bool, seen func(Entry)) error {
	for {
		select {
		case v, ok := <-w.Updates():
			switch {
			case !ok:
				return fault.Unavailable.Errorf("the bucket of usage went away")
			case v == nil && once:
				return nil
			case v == nil:
				continue
			}
			var e Entry
			if err := json.Unmarshal(v.Value(), &e); err != nil {
				return fmt.Errorf("read usage at %s: %w", v.Key(), err)
			}
			seen(e)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return fault.Unavailable.Errorf("read usage: %w", ctx.Err())
		}
	}
}
