package gateway

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/web"
)

// welcome is what a browser finds at the root.
const welcome = `Graphene %s answers here.

  list what runs       graphene list
  make a function      graphene new --lang python3-http hello
  build and deploy it  graphene up -f stack.yaml
  call it              curl %s/function/hello

Management is under /system and needs the password that the first start made.
`

// routes is everything that callers can reach.
func (g *Gateway) routes() http.Handler {
	r := newRouter()

	// Open to everybody.
	r.Path("/").Methods("GET", "HEAD").HandlerFunc(g.welcome)
	r.Path("/healthz").Methods("GET", "HEAD").Handler(g.accessLog(slog.LevelDebug, web.Handler(g.o.Log, g.health)))

	// Refused to everybody nobody knows, whether the path exists or not.
	r.PathPrefix("/system/").Handler(g.guarded(g.systemRoutes()))
	if g.o.Registry != nil {
		r.PathPrefix("/v2/").Handler(g.guarded(g.registryRoutes()))
	}
	return r
}

// systemRoutes is the management API.
func (g *Gateway) systemRoutes() http.Handler {
	r := newRouter()
	for _, route := range g.api.Routes() {
		r.Path(route.Path).Methods(route.Method).
			Handler(g.metrics.Route(route.Path, web.Handler(g.o.Log, route.Handle)))
	}
	return web.Bound(g.o.ReadTimeout, g.o.WriteTimeout, r)
}

// registryRoutes is the OCI registry. Images may be large and lines slow, so
// their transfer is not bounded in time.
func (g *Gateway) registryRoutes() http.Handler {
	return web.Handler(g.o.Log, func(w http.ResponseWriter, r *http.Request) error {
		action := auth.FunctionCreate // who may deploy may push what is deployed
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			action = auth.FunctionGet
		}
		if err := auth.May(auth.CallerOf(r.Context()), action, auth.Resource{}); err != nil {
			return err
		}
		g.o.Registry.ServeHTTP(w, r)
		return nil
	})
}

// metricsRoutes is what Prometheus can reach.
func (g *Gateway) metricsRoutes() http.Handler {
	r := newRouter()
	r.Path("/metrics").Methods("GET").Handler(g.metrics.Handler())
	r.Path("/healthz").Methods("GET").HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "OK") // a prober that went away needs no answer
	})
	return r
}

// newRouter returns a router that takes paths as they are: a function may give
// a meaning to "//" and "%2F".
func newRouter() *mux.Router { return mux.NewRouter().SkipClean(true).UseEncodedPath() }

// guarded finds out who the caller is before anything else happens, and logs
// the request.
func (g *Gateway) guarded(next http.Handler) http.Handler {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := g.o.Authenticator.Authenticate(r)
		if err != nil || caller == (auth.Caller{}) {
			refuse(w)
			return
		}
		web.Annotate(r.Context(), slog.String("caller", caller.Subject))
		next.ServeHTTP(w, r.WithContext(auth.WithCaller(r.Context(), caller)))
	})
	return web.IdentifyCalls(g.accessLog(slog.LevelInfo, web.Recover(g.o.Log, h)))
}

// refuse answers as OpenFaaS does, to the letter: browsers, registry clients
// and faas-cli read it.
func refuse(w http.ResponseWriter) {
	w.Header().Set("WWW-Authenticate", `Basic realm="Restricted"`)
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, "invalid credentials") // a caller that went away needs no answer
}

func (g *Gateway) welcome(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, welcome, g.o.Version.Release, "http://"+r.Host)
}

// health says whether the provider is ready, in its words.
func (g *Gateway) health(w http.ResponseWriter, r *http.Request) error {
	return g.api.Health(w, r)
}
