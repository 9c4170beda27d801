package web

import "context"

// Headers of the wire contract.
const (
	HeaderCallID    = "X-Call-Id"           // names one call, for logs and look-ups
	HeaderStartTime = "X-Start-Time"        // nanoseconds since 1970, when the gateway took the call
	HeaderInternal  = "X-Openfaas-Internal" // which part of the platform made this error; never a function's own
)

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
