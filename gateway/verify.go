package gateway

import (
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/web"
)

// verifyPath is where proxies ask about requests that others will answer.
const verifyPath = "/auth/verify"

// Headers in which a proxy says which request it asks about, and those in
// which it learns who sent it, named as other programs of this kind name them.
const (
	headerOriginalURI    = "X-Original-Uri"
	headerOriginalMethod = "X-Original-Method"
	headerForwardedVerb  = "X-Forwarded-Method"

	headerUser   = "X-Auth-Request-User"
	headerEmail  = "X-Auth-Request-Email"
	headerGroups = "X-Auth-Request-Groups"
	headerRoles  = "X-Auth-Request-Roles"
	headerIssuer = "X-Auth-Request-Issuer"
)

// answerVerify answers whether a request that a proxy holds may pass, by the
// credentials that came with it: 200 with who sent it, 401, or 403. Without
// more, every caller who is known may pass; the parameter role, which may be
// there several times, asks for one of the roles. What is asked for is noted
// and decides nothing: proxies and applications read paths in their own ways.
func (g *Gateway) answerVerify(w http.ResponseWriter, r *http.Request) error {
	method, path := asked(r)
	web.Annotate(r.Context(), slog.String("from", r.RemoteAddr), slog.String("asked_method", method), slog.String("asked_path", path))
	if method != "" {
		original := *r // what a session may do for a page of another site depends on the method
		original.Method, r = method, &original
	}
	caller, err := g.authenticate(r)
	if err == nil && caller == (auth.Caller{}) {
		err = auth.ErrNone
	}
	if errors.Is(err, fault.Unauthenticated) {
		return &web.Challenge{Want: wantToken, Err: err}
	}
	if err != nil {
		return err
	}
	web.Annotate(r.Context(), slog.String("caller", caller.String()))
	if caller.OnlyCalls() {
		return fault.Denied.Errorf("a function token is for functions")
	}
	if wanted := r.URL.Query()["role"]; len(wanted) > 0 && !caller.Admin &&
		!slices.ContainsFunc(caller.Roles(), func(role string) bool { return slices.Contains(wanted, role) }) {
		web.Annotate(r.Context(), slog.Bool("allowed", false))
		return fault.Denied.Errorf("%s has none of the roles that are asked for: %s", caller.Subject, strings.Join(wanted, ", "))
	}
	h := w.Header()
	tell(h, headerUser, caller.Subject)
	tell(h, headerIssuer, caller.Issuer)
	tell(h, headerEmail, caller.Claim("email")...)
	tell(h, headerGroups, caller.Claim("groups")...)
	tell(h, headerRoles, caller.Roles()...)
	return nil
}

// asked returns what the request that a proxy holds asks for. Where the proxy
// does not say, it is "".
func asked(r *http.Request) (method, path string) {
	method = r.Header.Get(headerOriginalMethod)
	if method == "" {
		method = r.Header.Get(headerForwardedVerb)
	}
	uri := r.Header.Get(headerOriginalURI)
	if uri == "" {
		uri = r.Header.Get(web.HeaderForwardedURI)
	}
	u, err := url.ParseRequestURI(uri)
	if err != nil {
		return method, ""
	}
	return method, u.Path
}

// tell sets a header that becomes part of another request: nothing in it may
// end the line or be taken for another value.
func tell(h http.Header, name string, values ...string) {
	clean := func(c rune) rune {
		if c < ' ' || c == 0x7f || c == ',' {
			return '_'
		}
		return c
	}
	var all []string
	for _, v := range values {
		if v = strings.Map(clean, v); v != "" {
			all = append(all, v)
		}
	}
	if len(all) > 0 {
		h.Set(name, strings.Join(all, ","))
	}
}
