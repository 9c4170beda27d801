// Package api is the management API: everything under /system.
//
// The provider knows the functions; this package stands in front of it. It
// finds out which namespace and function a request is about, asks whether the
// caller may do that, passes the request on with the namespace spelled out, and
// hands back the provider's answer as it is. To listings it adds what only the
// gateway knows, and the streams of logs it passes on line by line.
//
// Start with [New]; [API.Routes] is the table of everything there is.
package api

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// Options are what an [API] is made of.
type Options struct {
	// Provider carries requests to the provider, whose address is ProviderURL.
	// Both are needed.
	Provider    http.RoundTripper
	ProviderURL *url.URL
	// May decides whether the caller that ctx belongs to may do action, an
	// action of OpenFaaS policies, to a function or, with an empty name, to a
	// namespace; an empty namespace is the platform. Its error goes to the
	// caller. Needed.
	May func(ctx context.Context, action, namespace, name string) error
	// Invocations returns how often a function was called; nil is never.
	Invocations func(function.Ref) float64
	// Scaling returns what is to be told about a function's number of replicas;
	// it reports false if there is no such function. Nil knows none.
	Scaling func(function.Ref) (any, bool)
	// Alert scales a function as an alert that fires, or is resolved, asks for;
	// nil knows no function.
	Alert func(ctx context.Context, ref function.Ref, firing bool) error
	// MakeAPIKey completes a key that the caller ctx belongs to has asked for
	// by its secret, ID, hash and maker, or refuses it; nil makes none.
	MakeAPIKey func(ctx context.Context, k *NewAPIKey) error
	// APIKeyUsed returns when a key was seen last; nil does not know.
	APIKeyUsed func(id string) time.Time
	// SigningKeys tells of the keys that sign the platform's own tokens; nil has
	// none.
	SigningKeys func() any
	// Version is the gateway's own.
	Version types.VersionInfo
	// Target says what functions must be built for; nil says nothing.
	Target func(context.Context) (function.Target, error)
	// Builds says how their images are made; the zero value says nothing.
	Builds function.Builds
	// Namespace is where functions are that name none; "" is
	// function.DefaultNamespace.
	Namespace string
	// MaxBody bounds requests, in bytes; 0 is 1 MiB.
	MaxBody int64
	// Timeout bounds what the provider may take to answer, streams of logs
	// excepted; 0 is a minute.
	Timeout time.Duration
	Log     *slog.Logger // nil logs nothing
}

// API answers the requests of one gateway. It is safe for concurrent use.
type API struct {
	o Options
}

// New returns an API. It starts nothing.
func New(o Options) *API {
	o.Namespace = cmp.Or(o.Namespace, function.DefaultNamespace)
	o.MaxBody = cmp.Or(o.MaxBody, 1<<20)
	o.Timeout = cmp.Or(o.Timeout, time.Minute)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Invocations == nil {
		o.Invocations = func(function.Ref) float64 { return 0 }
	}
	if o.Scaling == nil {
		o.Scaling = func(function.Ref) (any, bool) { return nil, false }
	}
	if o.Alert == nil {
		o.Alert = func(_ context.Context, ref function.Ref, _ bool) error {
			return fault.NotFound.Errorf("function %s is not deployed", ref)
		}
	}
	if o.MakeAPIKey == nil {
		o.MakeAPIKey = noAPIKeys
	}
	if o.APIKeyUsed == nil {
		o.APIKeyUsed = func(string) time.Time { return time.Time{} }
	}
	return &API{o: o}
}

// A Route is one operation. Path is a pattern of gorilla/mux, and Handle must
// be reached through such a router with that pattern.
type Route struct {
	Method string
	Path   string
	Action string // what the caller must be allowed, in the words of OpenFaaS policies
	Handle web.HandlerFunc
}

// Routes lists every operation. Whoever mounts them finds out first who the
// caller is; whether the caller may is asked here, once it is known what about.
func (a *API) Routes() []Route {
	const name, namespace = "/{name}", "/{namespace}"
	route := func(method, path, action string, find finder, answer answerer) Route {
		return Route{method, path, action, a.handle(action, find, answer)}
	}
	return []Route{
		route("GET", "/system/functions", "Function:List", a.inNamespace, a.listFunctions),
		route("POST", "/system/functions", "Function:Create", a.inBody, a.pass),
		route("PUT", "/system/functions", "Function:Update", a.inBody, a.pass),
		route("DELETE", "/system/functions", "Function:Delete", a.inBody, a.pass),
		route("GET", "/system/function"+name, "Function:Get", a.inPath, a.pass),
		route("GET", "/system/function"+name+"/scaling", "Function:Get", a.named, a.scaling),
		route("POST", "/system/scale-function"+name, "Function:Scale", a.inPath, a.scale),
		// Alerts name their functions, and each is asked for by itself.
		{"POST", "/system/alert", "Function:Scale", a.alert},
		route("GET", "/system/logs", "Function:Logs", a.loggedFunction, a.logs),

		route("GET", "/system/secrets", "Secret:List", a.inNamespace, a.pass),
		route("POST", "/system/secrets", "Secret:Create", a.secretInBody, a.pass),
		route("PUT", "/system/secrets", "Secret:Update", a.secretInBody, a.pass),
		route("DELETE", "/system/secrets", "Secret:Delete", a.secretInBody, a.pass),

		route("GET", "/system/namespaces", "Namespace:List", a.everything, a.pass),
		// Clients create a namespace under an empty name, with the slash.
		route("POST", "/system/namespace/", "Namespace:Create", a.namespaceInBody, a.pass),
		route("GET", "/system/namespace"+namespace, "Namespace:Get", a.namespaceInPath, a.pass),
		route("PUT", "/system/namespace"+namespace, "Namespace:Update", a.namespaceInPath, a.pass),
		route("DELETE", "/system/namespace"+namespace, "Namespace:Delete", a.namespaceInPath, a.pass),
		// Some documentation of OpenFaaS spells these two in the plural.
		route("PUT", "/system/namespaces"+namespace, "Namespace:Update", a.namespaceInPath, a.pass),
		route("DELETE", "/system/namespaces"+namespace, "Namespace:Delete", a.namespaceInPath, a.pass),

		route("GET", "/system/api-keys", "Key:List", a.everything, a.listAPIKeys),
		route("POST", "/system/api-keys", "Key:Create", a.wholeBody, a.createAPIKey),
		route("DELETE", "/system/api-keys/{id}", "Key:Delete", a.keyInPath, a.pass),
		route("GET", "/system/signing-keys", "Key:List", a.everything, a.listSigningKeys),
		route("POST", "/system/signing-keys", "Key:Rotate", a.everything, a.pass),

		route("GET", "/system/info", "System:Info", a.everything, a.info),
		route("GET", "/system/telemetry", "System:Info", a.everything, a.pass),
	}
}

// An answerer answers a request that is understood and allowed.
type answerer func(w http.ResponseWriter, r *http.Request, s subject) error

func (a *API) handle(action string, find finder, answer answerer) web.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		s, err := find(w, r)
		if err != nil {
			return err
		}
		if err := a.o.May(r.Context(), action, s.namespace, s.name); err != nil {
			return err
		}
		return answer(w, r, s)
	}
}
