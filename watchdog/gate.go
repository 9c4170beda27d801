package watchdog

import (
	"context"
	"sync"
)

// A gate counts running calls, refuses those over its limit, and can be waited
// for until none is left. The zero value is open and has no limit.
type gate struct {
	limit int

	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n falls to zero; nil while nobody waits
}

// enter reports whether one more call may run. Each true is answered by leave.
func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.limit > 0 && g.n >= g.limit {
		return false
	}
	g.n++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.n--
	if g.n == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

func (g *gate) running() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

// awaitIdle returns when no call is running, or when ctx ends.
func (g *gate) awaitIdle(ctx context.Context) {
	g.mu.Lock()
	if g.n == 0 {
		g.mu.Unlock()
		return
	}
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	g.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}
