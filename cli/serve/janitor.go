package serve

import (
	"context"
	"log/slog"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/provider"
)

// collectEvery bounds how long garbage lies in the registry of a platform
// from which no function is ever removed.
const collectEvery = 6 * time.Hour

// A janitor is a runtime that has the registry cleaned at its start, after
// functions are removed, and now and then. It never makes a caller wait.
type janitor struct {
	provider.Runtime
	registry *registry
	log      *slog.Logger
	wanted   chan struct{} // holds at most one request to clean
}

func newJanitor(r provider.Runtime, reg *registry, log *slog.Logger) *janitor {
	j := &janitor{Runtime: r, registry: reg, log: log, wanted: make(chan struct{}, 1)}
	j.wanted <- struct{}{}
	return j
}

// Remove removes the function and asks for a cleaning.
func (j *janitor) Remove(ctx context.Context, ref function.Ref) error {
	err := j.Runtime.Remove(ctx, ref)
	if err == nil {
		select {
		case j.wanted <- struct{}{}:
		default: // one is coming already
		}
	}
	return err
}

// run cleans when that is asked for, until ctx ends.
func (j *janitor) run(ctx context.Context) error {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-j.wanted:
		case <-tick.C:
		}
		freed, err := j.registry.collectGarbage(ctx)
		if err != nil && ctx.Err() == nil {
			j.log.Warn("the registry could not be cleaned", "err", err)
		} else if freed > 0 {
			j.log.Info("registry cleaned", "freed_bytes", freed)
		}
	}
}
