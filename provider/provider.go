// Package provider is the REST API through which functions are deployed,
// scaled, removed and looked at, over whatever runs them.
//
// A [Runtime] does the work: provider/local with processes of this machine,
// provider/kube in a cluster. This package knows the wire: paths, status
// codes, which text a bad request gets, and the stream of endpoints that
// tells gateways where functions live. The API is that of OpenFaaS; what goes
// over it are the types of github.com/openfaas/faas-provider.
//
// Start with [New]; mount [Server.Handler], and keep [Server.Run] running. The
// handler authenticates nobody: whoever mounts it on a network puts that in
// front.
package provider

import (
	"context"
	"log/slog"
	"net/http"

	"github.com/gorilla/mux"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"
	"golang.org/x/sync/errgroup"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/web"
)

// A Runtime runs functions somewhere. Implementations are safe for concurrent
// use. Every method that names a function returns fault.NotFound if it is not
// deployed, except Deploy; package runtimetest holds the rest of the contract.
type Runtime interface {
	// Deploy makes the function spec describes, or replaces it, and returns
	// once that is certain to be tried and will not be forgotten. A version
	// that cannot start leaves the one before it serving. The spec has been
	// checked. Concurrent deploys of one function happen one after the other.
	Deploy(ctx context.Context, spec types.FunctionDeployment) error

	// Remove forgets the function at once; its replicas finish what they are doing.
	Remove(ctx context.Context, ref function.Ref) error

	// Scale sets the number of replicas there should be; 0 puts the function to sleep.
	Scale(ctx context.Context, ref function.Ref, replicas int) error

	// List returns the functions of a namespace in the order of their names.
	List(ctx context.Context, namespace string) ([]types.FunctionStatus, error)

	// Status returns one function.
	Status(ctx context.Context, ref function.Ref) (types.FunctionStatus, error)

	// Usage measures what the function's replicas use together.
	Usage(ctx context.Context, ref function.Ref) (types.FunctionUsage, error)

	// Watch reports where functions live until ctx ends, and then returns nil:
	// an event with Endpoints for each function there is, one with Synced, and
	// from then on one for each change, before the call that caused it
	// returns. Epoch and Revision of the events are not used. Events of one
	// function are reported in order; report does not block and may be called
	// by several goroutines.
	Watch(ctx context.Context, report func(function.Event)) error
}

// Secrets keeps what functions must not have in their images. Values go in and
// come out only as files of functions. Names have been checked.
type Secrets interface {
	// ListSecrets returns names without values, in order.
	ListSecrets(ctx context.Context, namespace string) ([]types.Secret, error)
	// CreateSecret returns fault.Exists if there is one of that name.
	CreateSecret(ctx context.Context, s types.Secret) error
	// UpdateSecret returns fault.NotFound if there is none of that name.
	// Functions that use it see the new value without being deployed again.
	UpdateSecret(ctx context.Context, s types.Secret) error
	// DeleteSecret returns fault.NotFound if there is none of that name.
	DeleteSecret(ctx context.Context, namespace, name string) error
}

// Logs finds what functions have printed.
type Logs interface {
	// Query returns messages in the order they were printed. The channel is
	// closed after the last one; when r.Follow is set, after the function is
	// removed or ctx has ended. Whoever stops receiving earlier ends ctx. It
	// returns fault.NotFound if the function is not deployed.
	Query(ctx context.Context, r logs.Request) (<-chan logs.Message, error)
}

// Namespaces keeps the places that functions and secrets belong to.
type Namespaces interface {
	// ListNamespaces returns their names in order, [function.DefaultNamespace] included.
	ListNamespaces(ctx context.Context) ([]string, error)
	// Namespace returns fault.NotFound if there is none of that name.
	Namespace(ctx context.Context, name string) (types.FunctionNamespace, error)
	// CreateNamespace returns fault.Exists if there is one of that name.
	CreateNamespace(ctx context.Context, n types.FunctionNamespace) error
	// UpdateNamespace replaces labels and annotations, or returns fault.NotFound.
	UpdateNamespace(ctx context.Context, n types.FunctionNamespace) error
	// DeleteNamespace returns fault.NotFound if there is none of that name and
	// fault.Invalid if it is in use.
	DeleteNamespace(ctx context.Context, name string) error
}

// A SecretFinder is implemented by Secrets that let functions use more than
// ListSecrets shows.
type SecretFinder interface {
	// FindSecrets returns those of names that functions of a namespace cannot use.
	FindSecrets(ctx context.Context, namespace string, names []string) (missing []string, err error)
}

// APIKeys keeps what is known of API keys; never the keys themselves.
type APIKeys interface {
	// APIKeys returns them all, in the order of their IDs.
	APIKeys(ctx context.Context) ([]iam.APIKey, error)
	// CreateAPIKey returns fault.Exists if there is one of that ID.
	CreateAPIKey(ctx context.Context, k iam.APIKey) error
	// DeleteAPIKey returns fault.NotFound if there is none of that ID.
	DeleteAPIKey(ctx context.Context, id string) error
}

// SigningKeys keeps the keys by which gateways sign the platform's own tokens.
type SigningKeys interface {
	// RotateSigningKeys has a new key made, which gateways learn of by
	// themselves, and returns its ID. It returns fault.Exists while the last
	// one does not sign yet.
	RotateSigningKeys(ctx context.Context) (id string, err error)
}

// Objects are what gateways must know besides functions.
type Objects interface {
	// WatchObjects reports them until ctx ends, and then returns nil: an event
	// with Object for each there is, one with Synced, and from then on one for
	// each change, as soon as it is known here. Otherwise it is as Watch of a
	// [Runtime].
	WatchObjects(ctx context.Context, report func(function.Event)) error
}

// A LoadTaker is a runtime that wants to know which replicas are busy, so that
// it removes others first.
type LoadTaker interface {
	// ReportLoad takes the calls that one gateway has in flight, by function
	// and replica. It replaces what that gateway reported before.
	ReportLoad(gateway string, inFlight map[function.Ref]map[string]int)
}

// Options say what a provider consists of.
type Options struct {
	Runtime     Runtime
	Secrets     Secrets            // nil: there are none, and the API says so
	Logs        Logs               // nil: logs are not supported
	Namespaces  Namespaces         // nil: only the default one
	Load        LoadTaker          // nil: nobody wants to know
	APIKeys     APIKeys            // nil: there are none, and the API says so
	SigningKeys SigningKeys        // nil: somebody else makes new ones, and the API says so
	Objects     Objects            // nil: gateways need know nothing else
	Info        types.ProviderInfo // what /system/info answers
	MaxBody     int64              // longest request body in bytes; 0 is 1 MiB
	Log         *slog.Logger
}

// A Server is a provider.
type Server struct {
	Options
	hub *hub
}

// New returns a provider over o.Runtime.
func New(o Options) *Server {
	if o.MaxBody == 0 {
		o.MaxBody = 1 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	sources := 1
	if o.Objects != nil {
		sources++
	}
	return &Server{Options: o, hub: newHub(sources)}
}

// Run keeps the stream of endpoints true until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.Runtime.Watch(ctx, s.hub.publish) })
	if s.Objects != nil {
		group.Go(func() error { return s.Objects.WatchObjects(ctx, s.hub.publish) })
	}
	return group.Wait()
}

// Handler returns the API: /system/…, /endpoints, /load and /healthz.
func (s *Server) Handler() http.Handler {
	const name = "{name:[-a-zA-Z_0-9.]+}"
	r := mux.NewRouter().SkipClean(true)
	handle := func(method, path string, h web.HandlerFunc) {
		r.Handle(path, web.Handler(s.Log, h)).Methods(method)
	}
	handle("GET", "/system/functions", s.listFunctions)
	handle("POST", "/system/functions", s.createFunction)
	handle("PUT", "/system/functions", s.updateFunction)
	handle("DELETE", "/system/functions", s.deleteFunction)
	handle("GET", "/system/function/"+name, s.functionStatus)
	handle("POST", "/system/scale-function/"+name, s.scaleFunction)

	handle("GET", "/system/secrets", s.listSecrets)
	handle("POST", "/system/secrets", s.createSecret)
	handle("PUT", "/system/secrets", s.updateSecret)
	handle("DELETE", "/system/secrets", s.deleteSecret)

	handle("GET", "/system/logs", s.streamLogs)
	handle("GET", "/system/info", s.info)

	handle("GET", "/system/namespaces", s.listNamespaces)
	handle("POST", "/system/namespace/", s.createNamespace)
	handle("GET", "/system/namespace/"+name, s.namespace)
	// The plural is what OpenFaaS's documentation shows for these two.
	for _, path := range []string{"/system/namespace/" + name, "/system/namespaces/" + name} {
		handle("PUT", path, s.updateNamespace)
		handle("DELETE", path, s.deleteNamespace)
	}

	handle("GET", "/system/api-keys", s.listAPIKeys)
	handle("POST", "/system/api-keys", s.createAPIKey)
	handle("DELETE", "/system/api-keys/"+name, s.deleteAPIKey)
	handle("POST", "/system/signing-keys", s.rotateSigningKeys)

	handle("GET", "/endpoints", s.streamEndpoints)
	handle("POST", "/load", s.reportLoad)
	r.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }).Methods("GET", "HEAD")
	return r
}

func (s *Server) info(w http.ResponseWriter, _ *http.Request) error {
	web.WriteJSON(w, http.StatusOK, s.Info)
	return nil
}

// namespaceOf returns the first namespace that is named, in the order in which
// a more deliberate place to name it wins, or the default.
func namespaceOf(r *http.Request, named ...string) string {
	for _, n := range append(named, r.URL.Query().Get("namespace")) {
		if n != "" {
			return n
		}
	}
	return function.DefaultNamespace
}

// unsupported is what an installation answers for what it was built without.
func unsupported() error {
	return fault.Unsupported.Errorf("Feature not implemented in this version of OpenFaaS")
}
