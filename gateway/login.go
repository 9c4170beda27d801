package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/session"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/openid"
	"github.com/graphene-faas/graphene/internal/web"
)

const (
	// loginConfigPath is where programs find out how people log in.
	loginConfigPath = "/auth/config"
	// mePath is where callers find out who they are.
	mePath = "/auth/me"
)

// newSessions returns the sessions of browsers; nil without issuers or keys.
func (g *Gateway) newSessions() *session.Sessions {
	if g.o.Tokens == nil || g.o.Keys == nil {
		return nil
	}
	public := g.o.PublicURL
	if public != nil && loopback(public.Hostname()) {
		public = nil // where this machine listens is not where others reach it
	}
	return session.New(session.Options{
		Issuers: g.webIssuers,
		Verify: func(ctx context.Context, token string) error {
			_, err := g.o.Tokens.Verify(ctx, token)
			return err
		},
		Secrets:        func() ([][]byte, error) { return g.o.Keys.Secrets("session cookies") },
		PublicURL:      public,
		Prefix:         g.o.Proxies.Prefix,
		MaxAge:         g.o.SessionMaxAge,
		TrustFunctions: g.o.TrustFunctionPages,
		Log:            g.o.Log,
	})
}

func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

// webIssuers lists the issuers that browsers can log in with.
func (g *Gateway) webIssuers() []session.Issuer {
	var all []session.Issuer
	for _, i := range g.o.Tokens.Issuers() {
		if i.Web == nil {
			continue
		}
		all = append(all, session.Issuer{
			Name: i.Name, URL: i.Iss, Internal: i.IssInternal, Audiences: slices.Clone(i.Aud), CAFile: i.CAFile,
			Client:     openid.Client{ID: i.Web.ID, Scopes: i.Web.Scopes, Parameters: i.Web.Parameters},
			SecretFile: i.Web.SecretFile,
		})
	}
	return all
}

// A browser is known by its session.
type browsers struct {
	sessions *session.Sessions
	tokens   *auth.Tokens
}

// Authenticate implements [auth.Authenticator].
func (b browsers) Authenticate(r *http.Request) (auth.Caller, error) {
	token, err := b.sessions.Token(r)
	if errors.Is(err, session.ErrNone) {
		return auth.Caller{}, auth.ErrNone
	}
	if err != nil {
		return auth.Caller{}, err
	}
	return b.tokens.Verify(r.Context(), token)
}

// loginRoutes adds the routes by which people log in, and find out who they
// are.
func (g *Gateway) loginRoutes(r *mux.Router) {
	open := func(h http.Handler) http.Handler {
		bounded := web.Bound(g.o.ReadTimeout, g.o.WriteTimeout, h)
		return g.throttled(web.IdentifyCalls(g.accessLog(web.Changes, web.Recover(g.o.Log, bounded))))
	}
	if g.o.Tokens != nil {
		r.Path(loginConfigPath).Methods("GET").Handler(open(web.Handler(g.o.Log, g.answerLoginConfig)))
	}
	r.Path(mePath).Methods("GET").Handler(open(g.sessions.Wrap(web.Handler(g.o.Log, g.answerMe))))
	if g.sessions == nil {
		return
	}
	for _, route := range g.sessions.Routes() {
		r.Path(route.Path).Methods(route.Method).Handler(open(g.sessions.Wrap(route.Handle)))
	}
}

// A loginConfig says how people log in.
type loginConfig struct {
	Issuers []loginIssuer `json:"issuers"`
	// TokenExchange tells that tokens of issuers can be exchanged for the
	// platform's own.
	TokenExchange bool `json:"token_exchange,omitempty"`
	// Sessions tells that browsers can log in.
	Sessions bool `json:"sessions,omitempty"`
}

// A loginIssuer is a trusted issuer, and how the command line logs in with it.
type loginIssuer struct {
	Name       string            `json:"name"`
	Issuer     string            `json:"issuer"`
	Audiences  []string          `json:"audiences"`
	ClientID   string            `json:"client_id,omitempty"`
	Scopes     []string          `json:"scopes,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
	// RedirectPort is where browsers come back to, on the machine of whoever
	// logs in; 0 is any port that is free.
	RedirectPort int `json:"redirect_port,omitempty"`
}

func (g *Gateway) answerLoginConfig(w http.ResponseWriter, _ *http.Request) error {
	c := loginConfig{Issuers: []loginIssuer{}, TokenExchange: g.o.Keys != nil, Sessions: g.sessions.Enabled()}
	for _, i := range g.o.Tokens.Issuers() {
		said := loginIssuer{Name: i.Name, Issuer: i.Iss, Audiences: slices.Clone(i.Aud)}
		if i.CLI != nil {
			said.ClientID, said.Scopes, said.Parameters, said.RedirectPort = i.CLI.ID, i.CLI.Scopes, i.CLI.Parameters, i.CLI.RedirectPort
		}
		c.Issuers = append(c.Issuers, said)
	}
	web.WriteJSON(w, http.StatusOK, c)
	return nil
}

// A me is who a caller is.
type me struct {
	Caller  string     `json:"caller"` // unique
	Subject string     `json:"subject"`
	Issuer  string     `json:"issuer,omitempty"`
	Name    string     `json:"name,omitempty"`
	Email   string     `json:"email,omitempty"`
	Groups  []string   `json:"groups,omitempty"`
	Roles   []string   `json:"roles,omitempty"`
	Admin   bool       `json:"admin,omitempty"`
	Expiry  *time.Time `json:"expires_at,omitempty"` // of what proves it
	Session bool       `json:"session,omitempty"`    // it is a browser's session
}

func (g *Gateway) answerMe(w http.ResponseWriter, r *http.Request) error {
	c, err := g.authenticate(r)
	if err == nil && c == (auth.Caller{}) {
		err = auth.ErrNone
	}
	if errors.Is(err, fault.Unauthenticated) {
		return &web.Challenge{Want: wantToken, Err: err} // not a password, which browsers would ask for
	}
	if err != nil {
		return err
	}
	web.Annotate(r.Context(), slog.String("caller", c.String()))
	answer := me{Caller: c.String(), Subject: c.Subject, Issuer: c.Issuer, Admin: c.Admin, Roles: c.Roles(), Groups: c.Claim("groups")}
	for _, claim := range []string{"preferred_username", "name"} {
		if answer.Name == "" {
			answer.Name = strings.Join(c.Claim(claim), " ")
		}
	}
	answer.Email = strings.Join(c.Claim("email"), " ")
	token, err := g.sessions.Token(r)
	answer.Session = err == nil
	if err != nil {
		token, _ = strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	}
	if claims, err := openid.Read(token); err == nil && !claims.Expiry.Time().IsZero() {
		answer.Expiry = new(claims.Expiry.Time())
	}
	w.Header().Set("Cache-Control", "no-store")
	web.WriteJSON(w, http.StatusOK, answer)
	return nil
}
