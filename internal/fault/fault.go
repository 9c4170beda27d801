// Package fault gives errors a kind: what a caller can do about them.
//
// A kind survives wrapping ([errors.Is] with the kind itself) and the wire:
// package web turns it into an HTTP status, gateway/client turns the status
// back into the kind, and the command line turns it into an exit code.
package fault

import (
	"errors"
	"fmt"
)

// A Kind says what a caller can do about an error. It is itself an error, so
// that errors.Is(err, fault.NotFound) reads as it should.
type Kind string

// The kinds. Their comments say what the caller may do.
const (
	Internal        Kind = "internal error"       // nothing; an operator must look
	NotFound        Kind = "not found"            // name something that exists
	Gone            Kind = "gone"                 // do without: it was here, and is not kept any more
	Invalid         Kind = "invalid"              // correct the request
	Exists          Kind = "already exists"       // choose another name, or update
	Unauthenticated Kind = "unauthenticated"      // say who you are
	Denied          Kind = "denied"               // ask somebody who may
	Busy            Kind = "busy"                 // try again later, as fast as Retry-After says
	Unavailable     Kind = "unavailable"          // try again when the part that failed is back
	Timeout         Kind = "timed out"            // allow more time, or ask for less
	TooLarge        Kind = "too large"            // send less, or raise the limit
	Unprocessable   Kind = "unprocessable"        // correct a parameter's value
	Unsupported     Kind = "not supported"        // do without; this installation cannot
	Storage         Kind = "storage is exhausted" // free disk space
)

// Error makes a Kind usable as the target of errors.Is.
func (k Kind) Error() string { return string(k) }

// Errorf returns an error of kind k. Its text is written for the person who
// made the request; what only an operator should read belongs in the log.
// %w keeps the chain of the wrapped error.
func (k Kind) Errorf(format string, args ...any) error {
	return &kinded{kind: k, err: fmt.Errorf(format, args...)}
}

// KindOf returns the outermost kind in err's chain, or Internal if there is
// none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*kinded](err); ok {
		return e.kind
	}
	if k, ok := errors.AsType[Kind](err); ok {
		return k
	}
	return Internal
}

type kinded struct {
	kind Kind
	err  error
}

func (e *kinded) Error() string        { return e.err.Error() }
func (e *kinded) Unwrap() error        { return e.err }
func (e *kinded) Is(target error) bool { return target == e.kind }
