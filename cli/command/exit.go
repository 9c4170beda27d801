package command

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"

	"github.com/graphene-faas/graphene/internal/fault"
)

// An Outcome is a way for the program to end.
type Outcome struct {
	Code  int
	Doc   string       // one line
	Kinds []fault.Kind // errors that end it so
}

// Outcomes is the one table from kinds of errors to exit codes.
func Outcomes() []Outcome {
	return []Outcome{
		{Code: 0, Doc: "it is done"},
		{Code: 1, Doc: "it went wrong in another way than those below", Kinds: []fault.Kind{fault.Internal, fault.Unsupported}},
		{Code: 2, Doc: "the command line, a file that it names, or the request made of them is wrong", Kinds: []fault.Kind{fault.Invalid, fault.Unprocessable, fault.TooLarge}},
		{Code: 3, Doc: "something that is needed does not exist: a function, a secret, a file, a tool", Kinds: []fault.Kind{fault.NotFound, fault.Gone}},
		{Code: 4, Doc: "not allowed: there is no login, it is wrong, or it does not suffice", Kinds: []fault.Kind{fault.Unauthenticated, fault.Denied}},
		{Code: 5, Doc: "not now: the gateway or the function cannot be reached, is busy, or takes too long", Kinds: []fault.Kind{fault.Unavailable, fault.Busy, fault.Timeout, fault.Storage}},
		{Code: 6, Doc: "it exists already, or is over already", Kinds: []fault.Kind{fault.Exists}},
		{Code: 7, Doc: "the function was deployed and does not start; the version before it goes on serving"},
		{Code: 130, Doc: "it was interrupted"},
	}
}

// Exit codes that are not found by an error's kind.
const (
	ExitNotReady    = 7
	ExitInterrupted = 130
)

// ExitError ends the program with a code of its own.
type ExitError struct {
	Code int
	Err  error // nil: everything has been said
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}
func (e *ExitError) Unwrap() error { return e.Err }

// usageError is of the command line itself.
type usageError struct{ err error }

func (e *usageError) Error() string        { return e.err.Error() }
func (e *usageError) Unwrap() error        { return e.err }
func (e *usageError) Is(target error) bool { return target == fault.Invalid }

// Usagef returns an error of the command line: its kind is fault.Invalid, and
// the person is pointed to the command's help.
func Usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// IsUsage reports whether err is of the command line itself.
func IsUsage(err error) bool {
	_, ok := errors.AsType[*usageError](err)
	return ok
}

// ExitCode returns the code that err ends the program with.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*ExitError](err); ok {
		return exit.Code
	}
	if errors.Is(err, context.Canceled) {
		return ExitInterrupted
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return 5
	}
	for _, o := range Outcomes() {
		for _, k := range o.Kinds {
			if k != fault.Internal && errors.Is(err, k) {
				return o.Code
			}
		}
	}
	return 1
}

// Message returns what a person is told about err, in lines of which all but
// the first are indented; "" if everything has been said. gateway is the
// address that was spoken to, "" if none.
func Message(err error, gateway string) string {
	if exit, ok := errors.AsType[*ExitError](err); ok && exit.Err == nil {
		return ""
	}
	if errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "\n  ")
	if hint := hint(err, gateway); hint != "" {
		text += "\n  " + hint
	}
	return text
}

// hint says what to do next, where the error's own text cannot know.
func hint(err error, gateway string) string {
	switch {
	case errors.Is(err, fault.Unauthenticated) && gateway != "" && !strings.Contains(err.Error(), "graphene login"):
		return fmt.Sprintf("log in with \"graphene login --gateway %s\", or give --token", gateway)
	case IsUntrusted(err):
		return "have this machine trust its authority, for one command by SSL_CERT_FILE=FILE, or do without by --tls-no-verify"
	case errors.Is(err, fault.Busy):
		return "try again in a moment"
	case errors.Is(err, context.DeadlineExceeded):
		return "it took too long; allow more time with --timeout where the command has it"
	}
	return ""
}

// IsUntrusted reports whether the gateway's certificate was not accepted.
func IsUntrusted(err error) bool {
	_, ok := errors.AsType[*tls.CertificateVerificationError](err)
	return ok
}
