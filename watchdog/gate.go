package watchdog

import (
	"context"
	"sync"
	"sync/atomic"
)

// A gate counts running calls, refuses those over its limit, and can be waited
// for until none is left. The zero value is open and has no limit.
type gate struct {
	limit int
	n     atomic.Int64

	mu      sync.Mutex
	awaited atomic.Bool   // somebody waits for idle
	idle    chan struct{} // closed when n falls to zero; nil while nobody waits
}

// enter reports whether one more call may run. Each true is answered by leave.
func (g *gate) enter() bool {
	if g.limit == 0 {
		g.n.Add(1)
		return true
	}
	for {
		n := g.n.Load()
		if n >= int64(g.limit) {
			return false
		}
		if g.n.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (g *gate) leave() {
	if g.n.Add(-1) > 0 || !g.awaited.Load() {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.idle != nil {
		close(g.idle)
		g.idle = nil
		g.awaited.Store(false)
	}
}

func (g *gate) running() int { return int(g.n.Load()) }

// awaitIdle returns when no call is running, or when ctx ends.
func (g *gate) awaitIdle(ctx context.Context) {
	g.mu.Lock()
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	// Said before the count is looked at: the last call to leave either has
	// left by then or sees that it is awaited.
	g.awaited.Store(true)
	g.mu.Unlock()
	if g.running() == 0 {
		return
	}
	select {
	case <-idle:
	case <-ctx.Done():
	}
}
