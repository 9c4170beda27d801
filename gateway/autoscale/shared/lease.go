package shared

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
)

// The lease of who decides: a key in a bucket.
const (
	bucket = "graphene-gateways"
	key    = "leader"
)

const (
	// term is for how long a lease is good that is not renewed.
	term = 1200 * time.Millisecond
	// renewal is the time from one renewal to the next.
	renewal = 300 * time.Millisecond
	// attempt is the time between two attempts to get a lease that another has.
	attempt = 200 * time.Millisecond
	// patience bounds one request.
	patience = 500 * time.Millisecond
	// unknown is for how long nobody decides when it is not known who should.
	unknown = 2 * time.Second
)

// A lease is this gateway's view of who decides.
type lease struct {
	conn     *nats.Conn
	id       string
	replicas int
	log      *slog.Logger
	again    chan struct{} // asks for an attempt now; holds one

	mu    sync.Mutex
	until time.Time // it is ours until then
	known time.Time // when it was last known whose it is
	alone bool      // the log has said that it is not known
}

func newLease(o Options, id string) *lease {
	return &lease{
		conn: o.Conn, id: id, replicas: cmp.Or(o.Replicas, 1), log: o.Log,
		again: make(chan struct{}, 1),
		known: time.Now(),
	}
}

// leading reports whether this gateway decides at now. Its clock is its own:
// the time of a renewal is that before it was asked for, so a lease ends here
// before it ends at the server.
func (l *lease) leading(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return now.Before(l.until) || now.Sub(l.known) > unknown
}

// retry asks for an attempt to get the lease.
func (l *lease) retry() {
	select {
	case l.again <- struct{}{}:
	default:
	}
}

// run gets the lease when it is free and keeps it, until ctx ends. Then it
// gives it back.
func (l *lease) run(ctx context.Context) error {
	var kv jetstream.KeyValue
	var revision uint64 // of our lease; 0: it is not ours
	for {
		began := time.Now()
		next, err := l.step(ctx, &kv, revision)
		if ctx.Err() != nil {
			revision = next
			break
		}
		if err != nil {
			kv = nil // the bucket may be gone: it is not kept on a disk
		}
		l.note(began, revision > 0, next > 0, err)
		revision = next
		pause := attempt
		if revision > 0 {
			pause = renewal
		}
		select {
		case <-ctx.Done():
		case <-l.again:
		case <-time.After(pause - min(pause, time.Since(began))):
		}
	}
	l.mu.Lock()
	l.until, l.known = time.Time{}, time.Now()
	l.mu.Unlock()
	if revision == 0 || kv == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	if err := kv.Delete(ctx, key, jetstream.LastRevision(revision)); err != nil {
		l.log.Debug("the lease of who decides runs out by itself", "err", err)
	}
	return nil
}

// step takes the lease, or renews it if revision is that of ours. It returns
// the lease's revision if it is ours then, and 0 if another has it, which is no
// error. With an error nothing has changed, as far as is known.
func (l *lease) step(ctx context.Context, kv *jetstream.KeyValue, revision uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if !l.conn.IsConnected() {
		return revision, nats.ErrDisconnected
	}
	if *kv == nil {
		opened, err := l.open(ctx)
		if err != nil {
			return revision, err
		}
		*kv = opened
	}
	var next uint64
	var err error
	if revision > 0 {
		next, err = (*kv).Update(ctx, key, []byte(l.id), revision)
	} else {
		next, err = (*kv).Create(ctx, key, []byte(l.id))
	}
	switch {
	case err == nil:
		return next, nil
	case errors.Is(err, jetstream.ErrKeyExists):
		return 0, nil
	}
	return revision, err
}

func (l *lease) open(ctx context.Context) (jetstream.KeyValue, error) {
	js, err := jetstream.New(l.conn)
	if err != nil {
		return nil, fmt.Errorf("use JetStream: %w", err)
	}
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "which gateway decides about replicas", TTL: term,
		Storage: jetstream.MemoryStorage, Replicas: l.replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("open the bucket %s: %w", bucket, err)
	}
	return kv, nil
}

// note takes in what a step that began then has found out.
func (l *lease) note(began time.Time, was, is bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if !l.alone && time.Since(l.known) > unknown {
			l.alone = true
			l.log.Warn("it is not known which gateway decides about replicas: each adds them by what it sees itself, none takes any away", "err", err)
		}
		return
	}
	l.known, l.alone = time.Now(), false
	if is {
		l.until = began.Add(term)
	} else {
		l.until = time.Time{}
	}
	switch {
	case is && !was:
		l.log.Info("this gateway decides about replicas", "gateway", l.id)
	case was && !is:
		l.log.Info("another gateway decides about replicas", "gateway", l.id)
	}
}
