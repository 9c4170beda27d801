package gateway

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/graphene-faas/graphene/gateway/autoscale"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/internal/function"
)

// Peers are the other gateways in front of the same functions, as autoscale
// sees them. Run keeps them going until ctx ends.
type Peers interface {
	autoscale.Peers
	Run(ctx context.Context, l autoscale.Listener) error
}

// counted shows the route table to the autoscaler.
type counted struct{ *invoke.Table }

func (c counted) Reading(ref function.Ref) (autoscale.Reading, bool) {
	d, ok := c.Demand(ref)
	return autoscale.Reading(d), ok
}

// A waker has the autoscaler decide with how many replicas a function wakes.
type waker struct{ g *Gateway }

func (w waker) Scale(ctx context.Context, ref function.Ref, replicas int) error {
	return w.g.scaler.Wake(ctx, ref, replicas)
}

// newScaler makes what scales functions, and reads the backlogs it needs.
func (g *Gateway) newScaler() {
	g.cores = &invoke.Usage{Table: g.table, Provider: g.api.CPU, Log: g.o.Log}
	o := autoscale.Options{
		Defaults:  g.o.Scaling,
		Off:       g.o.ScalingOff,
		Functions: counted{g.table},
		Scaler:    g.api,
		Sources:   autoscale.Sources{CPU: g.cores.CPU},
		Log:       g.o.Log,
	}
	if g.o.Peers != nil {
		o.Peers = g.o.Peers
	}
	if g.o.Queue != nil {
		g.backlog = newBacklog(g.o.Queue.Backlog, g.o.Log)
		o.Sources.Backlog = g.backlog.of
	}
	g.scaler = autoscale.New(o)
}

// target is what e is scaled by, and the load that one replica is for.
func (g *Gateway) target(e function.Endpoints) (function.ScaleType, float64) {
	slots := e.Settings.MaxInflight
	for _, r := range e.Replicas {
		if r.Ready {
			slots = r.Slots
		}
	}
	p := autoscale.NewPolicy(e.Scale, g.o.Scaling)
	return p.Type, p.TargetFor(slots)
}

// explain is what the management API tells about ref's number of replicas.
func (g *Gateway) explain(ref function.Ref) (any, bool) { return g.scaler.Explain(ref) }

// alert passes on what an alert says about ref.
func (g *Gateway) alert(ctx context.Context, ref function.Ref, firing bool) error {
	return g.scaler.Alert(ctx, ref, firing)
}

// runScaling scales functions until ctx ends.
func (g *Gateway) runScaling(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.scaler.Run(ctx) })
	group.Go(func() error { return g.cores.Run(ctx) })
	if g.o.Peers != nil {
		group.Go(func() error { return g.o.Peers.Run(ctx, g.scaler) })
	}
	if g.backlog != nil {
		group.Go(func() error { return g.backlog.run(ctx) })
	}
	return group.Wait()
}

// A backlog remembers how many asynchronous calls each function has to come,
// so that whoever asks does not wait for the queue.
type backlog struct {
	read func(context.Context) (map[function.Ref]int, error)
	log  *slog.Logger
	wake chan struct{} // asks for a reading now; holds one

	mu  sync.Mutex
	at  time.Time // of all
	all map[function.Ref]int
}

// Times of backlogs.
const (
	backlogPause = time.Second     // between two readings, while somebody asks
	backlogAge   = 3 * time.Second // of a reading that is still good
)

func newBacklog(read func(context.Context) (map[function.Ref]int, error), log *slog.Logger) *backlog {
	return &backlog{read: read, log: log, wake: make(chan struct{}, 1)}
}

// of returns ref's. It reports false if that was not read lately; then it will
// be.
func (b *backlog) of(ref function.Ref) (int, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return b.all[ref], time.Since(b.at) < backlogAge
}

// run reads until ctx ends, as often as somebody asks.
func (b *backlog) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-b.wake:
		}
		began := time.Now()
		all, err := b.read(ctx)
		if err != nil {
			b.log.Debug("the backlog of asynchronous calls is not known", "err", err)
		} else {
			b.mu.Lock()
			b.all, b.at = all, began
			b.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backlogPause):
		}
	}
}
