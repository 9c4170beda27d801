package gateway

import (
	"errors"

	"github.com/gorilla/mux"

	"github.com/graphene-faas/graphene/internal/function"
)

// Walk calls f with every route that callers can reach.
func (g *Gateway) Walk(f mux.WalkFunc) error {
	return errors.Join(g.routes().Walk(f), g.systemRoutes().Walk(f))
}

// Knows reports whether calls of ref find a replica.
func (g *Gateway) Knows(ref function.Ref) bool {
	for e := range g.table.All() {
		if e.Ref == ref {
			return len(e.Replicas) > 0
		}
	}
	return false
}
