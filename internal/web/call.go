package web

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net/http"

	"github.com/google/uuid"
)

// Headers of the wire contract.
const (
	HeaderCallID    = "X-Call-Id"           // names one call, for logs and look-ups
	HeaderStartTime = "X-Start-Time"        // nanoseconds since 1970, when the gateway took the call
	HeaderInternal  = "X-Openfaas-Internal" // which part of the platform made this error; never a function's own
)

// maxCallID is the longest id taken over from a caller.
const maxCallID = 128

type callIDKey struct{}

// WithCallID returns a context in which [CallID] returns id.
func WithCallID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, callIDKey{}, id)
}

// CallID returns the id of the call that ctx belongs to, or "".
func CallID(ctx context.Context) string {
	id, _ := ctx.Value(callIDKey{}).(string)
	return id
}

// NewCallID returns an id that nobody else has. It must be unique, not secret,
// so it comes from the process's own generator, which takes neither a lock nor
// a system call.
func NewCallID() string {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], rand.Uint64())
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())
	id[6] = id[6]&0x0f | 0x40 // version 4, random
	id[8] = id[8]&0x3f | 0x80 // the variant all versions share
	return id.String()
}

// ValidCallID reports whether an id that came from outside may be used: at
// most 128 printable ASCII characters, none of them a space.
func ValidCallID(id string) bool {
	if id == "" || len(id) > maxCallID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

// IdentifyCalls gives every request a call id: the caller's own where that is
// valid, else a new one. The id is in the request's context, in its header
// and in the answer's.
func IdentifyCalls(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get(HeaderCallID)
		if !ValidCallID(id) {
			id = NewCallID()
			r.Header.Set(HeaderCallID, id)
		}
		w.Header().Set(HeaderCallID, id)
		next.ServeHTTP(w, r.WithContext(WithCallID(r.Context(), id)))
	})
}
