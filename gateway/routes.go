package gateway

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/gorilla/mux"

	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/web"
)

// callsPath is where functions are called.
const callsPath = "/function/"

// canIPath is where callers ask what they may do.
const canIPath = "/system/can-i"

// welcome is what a browser finds at the root.
const welcome = `Graphene %s answers here.

  list what runs       graphene list
  make a function      graphene new --lang python3-http hello
  build and deploy it  graphene up -f stack.yaml
  call it              curl %s/function/hello

Management is under /system and needs the password that the first start made.
`

// routes is everything that callers can reach.
func (g *Gateway) routes() *mux.Router {
	r := newRouter()

	// Open to everybody, but calls of functions only where no issuer is trusted:
	// with one they are admitted one by one. They come first: routes are tried
	// in this order.
	r.PathPrefix(callsPath).Handler(g.sessions.WrapFunctions(g.metered(callsPath, false, g.calls())))
	if g.async != nil {
		for _, prefix := range []string{async.CallsPath, async.BatchesPath} {
			later := g.metered(prefix, true, g.accessLog(web.Always(slog.LevelDebug), web.Recover(g.o.Log, g.identified(g.async))))
			r.PathPrefix(prefix).Handler(g.sessions.WrapFunctions(later))
		}
	}
	g.issuingRoutes(r)
	g.loginRoutes(r)
	r.Path(verifyPath).Handler(g.throttled(web.IdentifyCalls(g.accessLog(web.Changes, g.sessions.Wrap(web.Handler(g.o.Log, g.answerVerify))))))
	r.Path("/").Methods("GET", "HEAD").HandlerFunc(g.welcome)
	r.Path("/healthz").Methods("GET", "HEAD").Handler(g.accessLog(web.Always(slog.LevelDebug), web.Handler(g.o.Log, g.health)))

	// Refused to everybody nobody knows, whether the path exists or not.
	r.PathPrefix("/system/").Handler(g.throttled(g.sessions.Wrap(g.guarded(web.Bound(g.o.ReadTimeout, g.o.WriteTimeout, g.systemRoutes())))))
	if g.o.Registry != nil {
		r.PathPrefix("/v2/").Handler(g.throttled(g.guarded(g.registryRoutes())))
	}
	return r
}

// calls is the way to functions.
func (g *Gateway) calls() http.Handler {
	var h http.Handler = g.proxy
	if limit := g.o.MaxBody; limit > 0 {
		h = limited(limit, g.o.Log, h)
	}
	if g.o.AccessLog {
		h = web.IdentifyCalls(g.accessLog(web.Always(slog.LevelInfo), h))
	}
	return h
}

// limited refuses bodies of more than limit bytes: at once where the length is
// said in advance, else when that much has arrived.
func limited(limit int64, log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength > limit {
			w.Header().Set(web.HeaderInternal, "gateway")
			web.WriteError(w, r, log, fault.TooLarge.Errorf("request body exceeds %d bytes", limit))
			return
		}
		// Not in the server's own request: it must know the body again.
		r = r.WithContext(r.Context())
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		next.ServeHTTP(w, r)
	})
}

// systemRoutes is the management API.
func (g *Gateway) systemRoutes() *mux.Router {
	r := newRouter()
	for _, route := range g.api.Routes() {
		r.Path(route.Path).Methods(route.Method).
			Handler(g.metrics.Route(route.Path, web.Handler(g.o.Log, route.Handle)))
	}
	r.Path(usagePath).Methods("GET").Handler(g.metrics.Route(usagePath, web.Handler(g.o.Log, g.usage)))
	r.Path(canIPath).Methods("GET").Handler(g.metrics.Route(canIPath, web.Handler(g.o.Log, g.answerCanI)))
	if g.async == nil {
		return r
	}
	for _, route := range g.async.Routes() {
		h := g.metrics.Route(route.Path, web.Handler(g.o.Log, route.Handle))
		r.Path(route.Path).Methods(route.Method).HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for name, value := range mux.Vars(r) {
				r.SetPathValue(name, value)
			}
			h.ServeHTTP(w, r)
		})
	}
	return r
}

// registryRoutes is the OCI registry. Images may be large and lines slow, so
// their transfer is not bounded in time.
func (g *Gateway) registryRoutes() http.Handler {
	return web.Handler(g.o.Log, func(w http.ResponseWriter, r *http.Request) error {
		action := iam.FunctionCreate // who may deploy may push what is deployed
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			action = iam.FunctionGet
		}
		if err := g.may(r.Context(), string(action), "", ""); err != nil {
			return err
		}
		g.o.Registry.ServeHTTP(w, r)
		return nil
	})
}

// metricsRoutes is what Prometheus can reach.
func (g *Gateway) metricsRoutes() *mux.Router {
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

func (g *Gateway) welcome(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, welcome, g.o.Version.Release, "http://"+r.Host)
}

// health answers whether this gateway serves calls. A provider that is away
// does not change that: calls go on to the replicas that are known.
func (g *Gateway) health(w http.ResponseWriter, _ *http.Request) error {
	switch {
	case g.stopping.Load():
		return fault.Unavailable.Errorf("the gateway is stopping")
	case !g.table.Ready():
		return fault.Unavailable.Errorf("the gateway does not know the functions yet: the provider has not listed them")
	}
	_, _ = io.WriteString(w, "OK") // a prober that went away needs no answer
	return nil
}
