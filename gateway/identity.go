package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"

	"github.com/graphene-faas/graphene/gateway/api"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/web"
)

// What callers nobody knows are asked for, as OpenFaaS does, to the letter:
// browsers, registry clients and faas-cli read it.
const (
	wantLogin = `Basic realm="Restricted"`
	wantToken = `Bearer realm=IAM function invoke`
)

// authenticators are those who are asked who sent a request, in this order.
func (g *Gateway) authenticators() auth.Chain {
	chain := auth.Chain{&g.apiKeys}
	if g.o.Tokens != nil {
		chain = append(chain, g.o.Tokens, browsers{g.sessions, g.o.Tokens})
	}
	return append(chain, g.o.Authenticator)
}

// authenticate finds out who sent r.
func (g *Gateway) authenticate(r *http.Request) (auth.Caller, error) { return g.who.Authenticate(r) }

// verify finds out whose a token or API key is that a request brings elsewhere
// than in its headers.
func (g *Gateway) verify(ctx context.Context, raw string) (auth.Caller, error) {
	if auth.IsAPIKey(raw) {
		return g.apiKeys.Verify(raw)
	}
	return g.o.Tokens.Verify(ctx, raw)
}

// A listener hands on what the provider says about identity.
type listener struct{ *Gateway }

// SetObject implements [invoke.Objects].
func (l listener) SetObject(o function.Object) {
	l.apiKeys.SetObject(o)
	if l.o.Tokens != nil {
		l.o.Tokens.SetObject(o)
	}
}

// ObjectsSynced implements [invoke.Objects].
func (l listener) ObjectsSynced() {
	l.apiKeys.ObjectsSynced()
	if l.o.Tokens != nil {
		l.o.Tokens.ObjectsSynced()
	}
}

// makeAPIKey makes a key for the caller that ctx belongs to, who can give away
// only what is theirs.
func (g *Gateway) makeAPIKey(ctx context.Context, k *api.NewAPIKey) error {
	caller := auth.CallerOf(ctx)
	if !auth.Covers(caller, k.Statement()) {
		return fault.Denied.Errorf("%s may not give away more than they may do themselves", caller.Subject)
	}
	k.CreatedBy = caller.String()
	k.Key, k.ID, k.Hash = auth.NewAPIKey()
	web.Annotate(ctx, slog.String("api_key", k.ID))
	return nil
}

// guarded finds out who the caller is before anything else happens, and logs
// the request. A browser that remembers a password sends it along whichever
// page made the request, so requests that change something must not come from
// pages of other origins.
func (g *Gateway) guarded(next http.Handler) http.Handler {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		web.Annotate(r.Context(), slog.String("from", r.RemoteAddr))
		caller, err := g.authenticate(r)
		switch {
		case err != nil && !errors.Is(err, fault.Unauthenticated):
			web.WriteError(w, r, g.o.Log, err) // it could not be found out
			return
		case err == nil && caller == auth.Caller{}:
			err = auth.ErrNone
		}
		if err != nil {
			w.Header().Set("WWW-Authenticate", wantLogin)
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, err.Error()) // a caller that went away needs no answer
			return
		}
		web.Annotate(r.Context(), slog.String("caller", caller.String()))
		next.ServeHTTP(w, r.WithContext(auth.WithCaller(r.Context(), caller)))
	})
	sameOrigin := http.NewCrossOriginProtection().Handler(h)
	return web.IdentifyCalls(g.accessLog(web.Changes, web.Recover(g.o.Log, sameOrigin)))
}

// may decides whether the caller of a request to the management API may do
// something, and has the request's line in the log say so: what was asked for,
// and which rule decided.
func (g *Gateway) may(ctx context.Context, action, namespace, name string) error {
	d := auth.Decide(auth.CallerOf(ctx), iam.Action(action), iam.Resource{Namespace: namespace, Name: name})
	attrs := []slog.Attr{slog.String("action", string(d.Action)), slog.String("resource", d.Resource.String()), slog.Bool("allowed", d.Err() == nil)}
	if d.Rule != "" {
		attrs = append(attrs, slog.String("rule", d.Rule))
	}
	web.Annotate(ctx, attrs...)
	return d.Err()
}

// admit decides whether r may call a function. The credentials of the platform
// itself are not for the function to see; tokens are, as functions may want to
// know who calls them.
func (g *Gateway) admit(r *http.Request, ref function.Ref, annotations map[string]string) error {
	if function.Public(annotations) {
		return nil
	}
	if g.fromQueue(r) {
		return nil // it was allowed when it was accepted
	}
	s := g.senderOf(r)
	caller, err := s.caller, s.err
	if err == nil {
		web.Annotate(r.Context(), slog.String("caller", caller.String()))
		err = auth.May(caller, iam.FunctionInvoke, iam.Resource{Namespace: ref.Namespace, Name: ref.Name})
	}
	if caller.Admin {
		r.Header.Del("Authorization")
	}
	auth.HideAPIKey(r)
	return g.refused(r.Context(), r.RemoteAddr, caller, ref, err)
}

// refused notes in the log that somebody was kept from calling a function, if
// err says so, and returns err for the caller.
func (g *Gateway) refused(ctx context.Context, from string, caller auth.Caller, ref function.Ref, err error) error {
	if err == nil {
		return nil
	}
	if s, ok := ctx.Value(senderKey{}).(*sender); ok {
		s.refused = true
	}
	g.audited.LogAttrs(ctx, slog.LevelInfo, "call refused", slog.String("caller", caller.String()), slog.String("from", from),
		slog.String("action", string(iam.FunctionInvoke)), slog.String("resource", iam.Resource{Namespace: ref.Namespace, Name: ref.Name}.String()),
		slog.String("call_id", web.CallID(ctx)), slog.String("reason", err.Error()))
	if errors.Is(err, fault.Unauthenticated) {
		return &web.Challenge{Want: wantToken, Err: err}
	}
	return err
}

// fromQueue reports whether r is a call that the queue worker makes. It proves
// itself beside the Authorization that the call carries for the function.
func (g *Gateway) fromQueue(r *http.Request) bool {
	proof := r.Header["Proxy-Authorization"]
	if len(proof) == 0 || r.Header.Get(invoke.HeaderQueued) == "" {
		return false
	}
	caller, err := g.o.Authenticator.Authenticate(&http.Request{Header: http.Header{"Authorization": proof}})
	return err == nil && caller.Admin
}

// A sender is who sent a request, or why that is not known.
type sender struct {
	caller  auth.Caller
	from    string
	err     error
	refused bool // the sender may not do what was asked for
}

type senderKey struct{}

// senderOf finds out who sent r, unless that is known. With nobody to ask it is
// nobody.
func (g *Gateway) senderOf(r *http.Request) *sender {
	if s, ok := r.Context().Value(senderKey{}).(*sender); ok {
		return s
	}
	s := &sender{from: r.RemoteAddr}
	if g.o.Tokens != nil {
		s.caller, s.err = g.authenticate(r)
	}
	return s
}

// identify returns r with a note of who sent it, for those who ask later.
func (g *Gateway) identify(r *http.Request) (*http.Request, *sender) {
	s := g.senderOf(r)
	return r.WithContext(context.WithValue(r.Context(), senderKey{}, s)), s
}

// identified finds out who sends requests about calls that run later. Which
// function they are about, and whether that needs a caller, shows later.
func (g *Gateway) identified(next http.Handler) http.Handler {
	if g.o.Tokens == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, s := g.identify(r)
		if s.caller.Admin {
			r.Header.Del("Authorization") // which is kept with the call, and given to the function
		}
		auth.HideAPIKey(r)
		next.ServeHTTP(w, r)
	})
}

// mayInvoke decides whether the sender of a request may call a function later,
// or ask what became of its calls.
func (g *Gateway) mayInvoke(ctx context.Context, ref function.Ref) error {
	if g.o.Tokens == nil {
		return nil
	}
	if e, err := g.table.Find(ctx, ref.String()); err == nil && function.Public(e.Annotations) {
		return nil
	}
	return g.mayInvokeGuarded(ctx, ref)
}

func (g *Gateway) mayInvokeGuarded(ctx context.Context, ref function.Ref) error {
	s, ok := ctx.Value(senderKey{}).(*sender)
	if !ok {
		return auth.ErrNone
	}
	err := s.err
	if err == nil {
		err = auth.May(s.caller, iam.FunctionInvoke, iam.Resource{Namespace: ref.Namespace, Name: ref.Name})
	}
	return g.refused(ctx, s.from, s.caller, ref, err)
}

// find finds the function of a call that is to run later. Names show only to
// those who could call them.
func (g *Gateway) find(ctx context.Context, name string) (function.Endpoints, error) {
	e, err := g.table.Find(ctx, name)
	if g.o.Tokens == nil || !errors.Is(err, fault.NotFound) {
		return e, err
	}
	ref, bad := function.ParseRef(name, g.o.Namespace)
	if bad != nil {
		ref = function.Ref{}
	}
	if denied := g.mayInvokeGuarded(ctx, ref); denied != nil {
		return e, denied
	}
	return e, err
}

// callerName names who sent a request, "" if that is not known.
func callerName(ctx context.Context) string {
	s, ok := ctx.Value(senderKey{}).(*sender)
	if !ok {
		return ""
	}
	return s.caller.String()
}

// answerCanI answers whether the caller may do something, and why: to those who
// write policies, and to those who wonder.
func (g *Gateway) answerCanI(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	namespace, name, _ := strings.Cut(query.Get("resource"), ":")
	if name == "*" {
		name = ""
	}
	if namespace == "*" {
		namespace = ""
	}
	d := auth.Decide(auth.CallerOf(r.Context()), iam.Action(query.Get("action")), iam.Resource{Namespace: namespace, Name: name})
	answer := canI{Caller: d.Caller.String(), Action: string(d.Action), Resource: d.Resource.String(), Allowed: d.Err() == nil, Reason: d.Rule}
	if err := d.Err(); err != nil {
		answer.Reason = err.Error()
	}
	if d.Action == iam.FunctionInvoke && !answer.Allowed {
		e, err := g.table.Find(r.Context(), name+"."+namespace)
		switch {
		case g.o.Tokens == nil:
			answer.Allowed, answer.Reason = true, "no issuer is configured, so functions are open to everybody"
		case err == nil && function.Public(e.Annotations):
			answer.Allowed, answer.Reason = true, "the function is public"
		}
	}
	web.WriteJSON(w, http.StatusOK, answer)
	return nil
}

// canI is the answer to whether a caller may do something.
type canI struct {
	Caller   string `json:"caller"`
	Action   string `json:"action"`
	Resource string `json:"resource"`
	Allowed  bool   `json:"allowed"`
	Reason   string `json:"reason"` // the rule that allows it, or the right that is missing
}
