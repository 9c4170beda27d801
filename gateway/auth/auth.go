// Package auth finds out who sent a request and decides what they may do.
//
// An [Authenticator] turns a request into a [Caller] or refuses it; [Decide]
// decides, from the caller, an action and a resource alone. Everything is
// refused that nothing allows: a request without a caller may do nothing. The
// rest of the platform sees callers and never credentials.
//
// Start with [EnsureCredentials] and [NewBasic] for the built-in
// administrator, and with [OpenTokens] for the bearers of tokens of trusted
// issuers, whose rights follow from the rules of package iam.
package auth

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
)

// A Caller is who sent a request. The zero Caller is nobody.
type Caller struct {
	// Subject names the caller in logs. It is unique among the callers of one
	// issuer.
	Subject string
	// Issuer is the name of the trusted issuer that vouches for the caller; ""
	// is the platform itself.
	Issuer string
	// Admin callers may do everything.
	Admin bool
	// known is what is known of the others.
	known *known
}

// known is what is known of a caller who is not the administrator. It is not
// changed.
type known struct {
	claims iam.Claims
	rights *iam.Rights
	// expiry is how long own tokens are good that are made for the caller; 0
	// is none are.
	expiry time.Duration
	// until bounds that for a caller who has shown one already; zero is not.
	until time.Time
}

// Roles returns the names of the roles that c has, in order. The administrator
// has none, and needs none.
func (c Caller) Roles() []string {
	if c.known == nil {
		return nil
	}
	return c.known.rights.Roles
}

// Claim returns what the caller's issuer says of them: the values of a claim,
// which is named as in conditions, without "jwt:". It is nil if the issuer says
// nothing of that name.
func (c Caller) Claim(path string) []string {
	if c.known == nil {
		return nil
	}
	return c.known.claims.Values(path)
}

// String returns the caller's name, which is unique.
func (c Caller) String() string {
	if c.Issuer == "" {
		return c.Subject
	}
	return c.Issuer + "/" + c.Subject
}

// An Authenticator finds out who sent a request. Implementations are safe for
// concurrent use.
type Authenticator interface {
	// Authenticate returns who sent r. Without credentials of the kind it
	// understands it returns ErrNone; credentials that are wrong are another
	// error of kind fault.Unauthenticated, whose text goes to the caller and
	// says nothing about what would be right.
	Authenticate(r *http.Request) (Caller, error)
}

// ErrNone says that a request carries no credentials an authenticator
// understands.
var ErrNone = fault.Unauthenticated.Errorf("invalid credentials")

// A Chain asks its members in order. The first that finds credentials of its
// kind decides, whether they are right or wrong. An empty chain knows nobody.
type Chain []Authenticator

// Authenticate implements [Authenticator].
func (c Chain) Authenticate(r *http.Request) (Caller, error) {
	for _, a := range c {
		caller, err := a.Authenticate(r)
		if !errors.Is(err, ErrNone) {
			return caller, err
		}
	}
	return Caller{}, ErrNone
}

// Open takes everybody for the administrator. It is for installations whose
// operator has switched authentication off.
type Open struct{}

// Authenticate implements [Authenticator].
func (Open) Authenticate(*http.Request) (Caller, error) {
	return Caller{Subject: "anonymous", Admin: true}, nil
}

type callerKey struct{}

// WithCaller returns a context in which [CallerOf] returns c.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns who sent the request ctx belongs to; nobody if that was not
// found out.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}
