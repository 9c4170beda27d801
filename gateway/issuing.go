package gateway

import (
	"context"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/web"
)

// Where the platform is an issuer of tokens itself, to clients of OpenFaaS and
// to functions that look at tokens.
const (
	tokenPath     = "/oauth/token"
	discoveryPath = "/.well-known/openid-configuration"
	jwksPath      = "/.well-known/jwks.json"
)

const (
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeJWT       = "urn:ietf:params:oauth:token-type:jwt"
	scopeFunction = "function"
	// maxExchange bounds a request for a token, in bytes.
	maxExchange = 64 << 10
	// jwksAge is for how long others may keep the keys; new ones are published
	// longer than that before they sign.
	jwksAge = "public, max-age=60"
)

// subjectTypes are the kinds of tokens that are exchanged: all mean a JWT, as
// different issuers name it.
var subjectTypes = []string{
	"urn:ietf:params:oauth:token-type:id_token", "urn:ietf:params:oauth:token-type:access_token", typeJWT,
}

// issuingRoutes adds what the platform answers as an issuer.
func (g *Gateway) issuingRoutes(r *mux.Router) {
	if g.o.Keys == nil {
		return
	}
	open := func(h http.HandlerFunc) http.Handler {
		return web.IdentifyCalls(g.accessLog(web.Always(slog.LevelDebug), web.Bound(g.o.ReadTimeout, g.o.WriteTimeout, h)))
	}
	r.Path(discoveryPath).Methods("GET", "HEAD").Handler(open(g.answerDiscovery))
	r.Path(jwksPath).Methods("GET", "HEAD").Handler(open(g.answerKeys))
	if g.o.Tokens != nil {
		exchange := web.Bound(g.o.ReadTimeout, g.o.WriteTimeout, http.HandlerFunc(g.exchange))
		r.Path(tokenPath).Methods("POST").Handler(g.throttled(web.IdentifyCalls(g.accessLog(web.Changes, web.Recover(g.o.Log, exchange)))))
	}
}

// discovery is what OpenID Connect has issuers say of themselves, as far as it
// applies: nobody logs in here.
type discovery struct {
	Issuer        string   `json:"issuer"`
	JWKSURI       string   `json:"jwks_uri"`
	TokenEndpoint string   `json:"token_endpoint,omitempty"`
	GrantTypes    []string `json:"grant_types_supported,omitempty"`
	ResponseTypes []string `json:"response_types_supported"`
	SubjectTypes  []string `json:"subject_types_supported"`
	Algorithms    []string `json:"id_token_signing_alg_values_supported"`
}

// answerDiscovery says who the issuer is, and where its keys are: where the
// question came to, if that is another address than callers outside use.
// Functions ask inside, and cannot reach the outside everywhere.
func (g *Gateway) answerDiscovery(w http.ResponseWriter, r *http.Request) {
	base := g.o.publicURL()
	d := discovery{
		Issuer: base, JWKSURI: base + jwksPath,
		ResponseTypes: []string{"id_token"}, SubjectTypes: []string{"public"}, Algorithms: []string{"ES256"},
	}
	if r.TLS == nil && r.Host != "" && r.Host != g.o.PublicURL.Host {
		d.JWKSURI = "http://" + r.Host + jwksPath
	}
	if g.o.Tokens != nil {
		d.TokenEndpoint, d.GrantTypes = base+tokenPath, []string{grantExchange}
	}
	web.WriteJSON(w, http.StatusOK, d)
}

func (g *Gateway) answerKeys(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", jwksAge)
	_, _ = w.Write(g.o.Keys.JWKS()) // a reader that went away needs no answer
}

// An issued token, as RFC 8693 has it answered.
type issued struct {
	AccessToken string `json:"access_token"`
	IssuedType  string `json:"issued_token_type"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int    `json:"expires_in"` // seconds
	Scope       string `json:"scope,omitempty"`
}

// refusedToken is why there is none, as OAuth 2 has it answered.
type refusedToken struct {
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

// exchange makes one of the platform's own tokens for the bearer of a token it
// believes: one for the API, or, with the scope "function", one for functions.
func (g *Gateway) exchange(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	answer, err := g.exchanged(w, r)
	if err == nil {
		web.WriteJSON(w, http.StatusOK, answer)
		return
	}
	status, refused := http.StatusBadRequest, refusedToken{Code: "invalid_request", Description: err.Error()}
	var oauth *oauthError
	switch {
	case errors.As(err, &oauth):
		refused.Code = oauth.code
	case errors.Is(err, fault.Denied):
		refused.Code = "invalid_target"
	case errors.Is(err, fault.Invalid), errors.Is(err, fault.Unauthenticated):
	case errors.Is(err, fault.Unavailable):
		status, refused.Code = http.StatusServiceUnavailable, "temporarily_unavailable"
		w.Header().Set("Retry-After", "1")
	default:
		web.WriteError(w, r, g.o.Log, err)
		return
	}
	web.Annotate(r.Context(), slog.String("reason", refused.Description))
	web.WriteJSON(w, status, refused)
}

// An oauthError is one with a code of its own in OAuth 2.
type oauthError struct {
	code string
	error
}

func (g *Gateway) exchanged(w http.ResponseWriter, r *http.Request) (issued, error) {
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-www-form-urlencoded" {
		return issued{}, fault.Invalid.Errorf("the body must be a form: Content-Type: application/x-www-form-urlencoded")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxExchange)
	if err := r.ParseForm(); err != nil {
		return issued{}, fault.Invalid.Errorf("the form cannot be read, or has more than %d bytes", maxExchange)
	}
	form := r.PostForm
	for _, once := range []string{"grant_type", "subject_token", "subject_token_type", "scope"} {
		if len(form[once]) > 1 {
			return issued{}, fault.Invalid.Errorf("%s is given more than once", once)
		}
	}
	if grant := form.Get("grant_type"); grant != grantExchange {
		return issued{}, &oauthError{"unsupported_grant_type", fault.Invalid.Errorf("grant_type must be %s", grantExchange)}
	}
	if kind := form.Get("subject_token_type"); kind != "" && !containsFold(subjectTypes, kind) {
		return issued{}, fault.Invalid.Errorf("subject_token_type must be %s", subjectTypes[0])
	}
	for _, unused := range []string{"actor_token", "resource"} {
		if form.Has(unused) {
			return issued{}, fault.Invalid.Errorf("%s has no meaning here", unused)
		}
	}
	caller, err := g.verify(r.Context(), form.Get("subject_token"))
	if err != nil {
		return issued{}, err
	}
	ctx := auth.WithCaller(r.Context(), caller)
	web.Annotate(ctx, slog.String("caller", caller.String()))
	var scope string
	var token auth.Issued
	if containsFold(strings.Fields(form.Get("scope")), scopeFunction) {
		scope = scopeFunction
		token, err = g.functionToken(ctx, caller, form["audience"])
	} else {
		token, err = g.o.Tokens.APIToken(caller, time.Now())
	}
	if err != nil {
		return issued{}, err
	}
	return issued{AccessToken: token.Token, IssuedType: typeJWT, TokenType: "Bearer", ExpiresIn: int(token.Expires.Seconds()), Scope: scope}, nil
}

// functionToken makes a token for functions that the caller may call.
func (g *Gateway) functionToken(ctx context.Context, caller auth.Caller, audience []string) (auth.Issued, error) {
	if len(audience) == 0 || len(audience) > auth.MaxAudience {
		return auth.Issued{}, fault.Invalid.Errorf("a function token is for 1 to %d functions, named by audience=NAMESPACE:FUNCTION", auth.MaxAudience)
	}
	var functions []function.Ref
	for _, text := range audience {
		namespace, name, ok := strings.Cut(text, ":")
		ref := function.Ref{Namespace: namespace, Name: name}
		if !ok || ref.Validate() != nil {
			return auth.Issued{}, fault.Invalid.Errorf("audience is %q, want NAMESPACE:FUNCTION", text)
		}
		if err := g.may(ctx, string(iam.FunctionInvoke), ref.Namespace, ref.Name); err != nil {
			return auth.Issued{}, err
		}
		functions = append(functions, ref)
	}
	return g.o.Tokens.FunctionToken(caller, functions, time.Now())
}

func containsFold(list []string, text string) bool {
	for _, s := range list {
		if strings.EqualFold(s, text) {
			return true
		}
	}
	return false
}
