package signin

import (
	"context"
	"errors"
	"time"

	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/internal/fault"
)

// margin is how long before its end a token is replaced: a command may take
// its time, and clocks differ.
const margin = time.Minute

// Current returns the login that is kept for a gateway, prolonged if it is
// about to end; ok is false if there is none. Of several commands that find it
// so, one prolongs it and the others wait. A login that has ended is an error
// of kind fault.Unauthenticated, which says how to log in again.
func Current(ctx context.Context, file logins.File, gateway string, w World) (l logins.Login, ok bool, err error) {
	l, ok, err = file.Lookup(gateway)
	if err != nil || !ok || !ending(l, time.Now()) {
		return l, ok, err
	}
	err = file.Update(ctx, gateway, func(now logins.Login) (logins.Login, error) {
		l = now
		if !ending(now, time.Now()) {
			return now, nil // somebody else was faster
		}
		s, _ := Of(now)
		if err := s.Prolong(ctx, w); err != nil {
			return now, err
		}
		l = s.Login()
		return l, nil
	})
	if err == nil {
		return l, true, nil
	}
	if s, _ := Of(l); time.Now().Before(s.Expiry) && !errors.Is(err, context.Canceled) {
		return l, true, nil // it is still good, and may be prolonged the next time
	}
	if errors.Is(err, fault.Denied) {
		return l, false, fault.Unauthenticated.Errorf("the login to %s has ended (%w); begin a new one with \"graphene login --gateway %s\"", gateway, err, gateway)
	}
	return l, false, err
}

// ending reports whether a login has to be prolonged.
func ending(l logins.Login, now time.Time) bool {
	s, ok := Of(l)
	return ok && !s.Expiry.IsZero() && now.Add(margin).After(s.Expiry)
}
