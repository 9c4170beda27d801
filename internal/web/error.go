// Package web is the plumbing that every HTTP server of the platform shares:
// handlers that return errors, strict decoding with limits, call ids, serving
// with a drain, and calling a handler of the same process as if it were
// remote. It knows nothing of functions.
//
// Start with [Handler] for a handler that returns an error, and [Serve] for
// the life of a listener.
package web

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
)

// StatusClientClosedRequest is what the log shows for a request whose caller
// went away before the answer. It is never sent: nobody is there to read it.
const StatusClientClosedRequest = 499

// internalText is all that a caller learns of an error nobody foresaw.
const internalText = "internal error; the platform's log has the details"

// statuses is the one table between kinds of errors and HTTP statuses, read
// in both directions.
var statuses = []struct {
	kind   fault.Kind
	status int
}{
	{fault.Invalid, http.StatusBadRequest},
	{fault.Unauthenticated, http.StatusUnauthorized},
	{fault.Denied, http.StatusForbidden},
	{fault.NotFound, http.StatusNotFound},
	{fault.Gone, http.StatusGone},
	{fault.Exists, http.StatusConflict},
	{fault.TooLarge, http.StatusRequestEntityTooLarge},
	{fault.Unprocessable, http.StatusUnprocessableEntity},
	{fault.Busy, http.StatusTooManyRequests},
	{fault.Internal, http.StatusInternalServerError},
	{fault.Unsupported, http.StatusNotImplemented},
	{fault.Unavailable, http.StatusServiceUnavailable},
	{fault.Timeout, http.StatusGatewayTimeout},
	{fault.Storage, http.StatusInsufficientStorage},
}

// Status returns the HTTP status for err's kind.
func Status(err error) int {
	kind := fault.KindOf(err)
	for _, s := range statuses {
		if s.kind == kind {
			return s.status
		}
	}
	return http.StatusInternalServerError
}

// Kind returns the kind that status stands for. Of the statuses outside the
// table, those a proxy makes are what they mean; the others are fault.Invalid
// below 500 and fault.Internal from there.
func Kind(status int) fault.Kind {
	switch status {
	case http.StatusBadGateway:
		return fault.Unavailable
	case http.StatusRequestTimeout:
		return fault.Timeout
	}
	for _, s := range statuses {
		if s.status == status {
			return s.kind
		}
	}
	if status < 500 {
		return fault.Invalid
	}
	return fault.Internal
}

// HandlerFunc is an HTTP handler that can fail. It either writes an answer
// and returns nil, or returns an error and has written nothing.
type HandlerFunc func(w http.ResponseWriter, r *http.Request) error

// Handler runs h and writes the error it returns, in plain text, with the
// status of the error's kind. The text of an internal error goes to log only.
func Handler(log *slog.Logger, h HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			WriteError(w, r, log, err)
		}
	})
}

// WriteError answers r with err. An error that wraps a [*Retry] gets a
// Retry-After header, one that wraps a [*Challenge] a WWW-Authenticate header.
func WriteError(w http.ResponseWriter, r *http.Request, log *slog.Logger, err error) {
	status := Status(err)
	if r.Context().Err() != nil && errors.Is(err, r.Context().Err()) {
		log.Debug("caller went away", "method", r.Method, "path", r.URL.Path, "err", err)
		status = StatusClientClosedRequest
	}
	text := err.Error()
	if status == http.StatusInternalServerError {
		log.Error("request failed", "method", r.Method, "path", r.URL.Path, "call_id", CallID(r.Context()), "err", err)
		if fault.KindOf(err) == fault.Internal {
			text = internalText
		}
	}
	if retry, ok := errors.AsType[*Retry](err); ok {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(retry.After.Round(time.Second)/time.Second))))
	}
	if wanted, ok := errors.AsType[*Challenge](err); ok {
		w.Header().Set("WWW-Authenticate", wanted.Want)
	}
	http.Error(w, text, status)
}

// Challenge marks an error of kind fault.Unauthenticated with the credentials
// that are wanted, as HTTP writes them.
type Challenge struct {
	Want string
	Err  error
}

func (e *Challenge) Error() string { return e.Err.Error() }
func (e *Challenge) Unwrap() error { return e.Err }

// Retry marks an error that is worth trying again after a while.
type Retry struct {
	After time.Duration
	Err   error
}

func (e *Retry) Error() string { return e.Err.Error() }
func (e *Retry) Unwrap() error { return e.Err }
