// Package gateway is the front door of the platform, assembled: functions
// under /function, their management under /system, an OCI registry under /v2.
//
// The parts do not know each other. Package invoke carries calls to functions,
// api answers the management requests, auth knows who may, metrics counts;
// they meet here. The route table in routes.go is the whole of what can be
// reached; everything but the few open routes is refused to callers nobody
// knows.
//
// Start with [New] and keep [Gateway.Run] running.
package gateway

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/graphene-faas/graphene/gateway/api"
	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/autoscale"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/gateway/metrics"
	"github.com/graphene-faas/graphene/gateway/session"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// A Gateway is one front door.
type Gateway struct {
	o       Options
	metrics *metrics.Metrics
	api     *api.API
	table   *invoke.Table   // of functions and their replicas
	watcher *invoke.Watcher // keeps table equal to what the provider says
	scaler  *autoscale.Autoscaler
	cores   *invoke.Usage // of processors, for functions that are scaled by it
	backlog *backlog      // nil without a queue
	proxy   *invoke.Proxy
	async   *async.API // nil without a queue
	// sessions are those of browsers; nil without issuers.
	sessions *session.Sessions
	apiKeys  auth.APIKeys
	who      auth.Authenticator // finds out who sends requests
	handler  http.Handler
	audited  *slog.Logger // for what was done and refused; it reaches the audit log too
	// stopping is set when Run's context has ended.
	stopping atomic.Bool
}

// New assembles a gateway. It starts nothing.
func New(o Options) *Gateway {
	if o.ProviderURL == nil {
		o.ProviderURL = &url.URL{Scheme: "http", Host: "provider"}
	}
	if o.Authenticator == nil {
		o.Authenticator = auth.Chain{}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Namespace = cmp.Or(o.Namespace, function.DefaultNamespace)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, time.Minute)
	o.WriteTimeout = cmp.Or(o.WriteTimeout, time.Minute)

	g := &Gateway{o: o, audited: o.Log, apiKeys: auth.APIKeys{Log: o.Log}}
	if o.Audit != nil {
		g.audited = slog.New(slog.NewMultiHandler(o.Log.Handler(), o.Audit))
	}
	g.metrics = metrics.New(func(yield func(function.Endpoints) bool) { g.table.All()(yield) })
	builds := o.Builds
	builds.OwnRegistry = o.Registry != nil
	var signingKeys func() any
	if o.Keys != nil {
		signingKeys = func() any { return o.Keys.List(time.Now()) }
	}
	g.api = api.New(api.Options{
		SigningKeys: signingKeys,
		Provider:    o.Provider,
		ProviderURL: o.ProviderURL,
		May:         g.may,
		Invocations: g.metrics.Invocations,
		Scaling:     g.explain,
		Alert:       g.alert,
		MakeAPIKey:  g.makeAPIKey,
		APIKeyUsed:  g.apiKeys.LastUsed,
		Version:     o.Version,
		Target:      o.Target,
		Builds:      builds,
		Namespace:   o.Namespace,
		MaxBody:     o.MaxAPIBody,
		Timeout:     o.UpstreamTimeout,
		Log:         o.Log,
	})
	g.table = invoke.NewTable(invoke.TableOptions{
		Namespace:  o.Namespace,
		Scaler:     waker{g},
		Alarm:      func(ref function.Ref) { g.scaler.Alarm(ref) },
		Counters:   func(ref function.Ref) invoke.Counters { return g.metrics.Function(ref) },
		Removed:    func(ref function.Ref) { g.metrics.Forget(ref); g.scaler.Forget(ref) },
		MaxWaiting: o.MaxWaiting, WakeTimeout: o.WakeTimeout,
		Log: o.Log,
	})
	g.newScaler()
	g.watcher = &invoke.Watcher{
		Client:  &http.Client{Transport: o.Provider},
		URL:     o.ProviderURL,
		Table:   g.table,
		Objects: listener{g},
		Log:     o.Log,
	}
	calls := invoke.ProxyOptions{Version: o.Version.Release, Vouched: g.fromQueue, Tracer: o.Tracer, Log: o.Log}
	if o.Tokens != nil {
		calls.Admit = g.admit
	}
	g.proxy = invoke.NewProxy(g.table, calls)
	if o.Queue != nil {
		g.async = async.NewAPI(async.APIOptions{
			Queue: o.Queue, Find: g.find, MayInvoke: g.mayInvoke, May: g.may, Caller: callerName, Tracer: o.Tracer, Log: o.Log,
		})
	}
	g.metrics.AddScaling(g.table.All(), g.target)
	if o.IdentityMetrics != nil {
		g.metrics.AddIdentity(o.IdentityMetrics)
	}
	if o.Queue != nil && o.QueueMetrics != nil {
		g.metrics.AddQueue(o.QueueMetrics, g.queueStates)
	}
	g.sessions = g.newSessions()
	g.who = g.authenticators()
	o.Proxies.Vouched = g.fromQueue
	g.handler = o.Proxies.Behind(g.routes())
	return g
}

// queueStates says what the queues hold, for the metrics.
func (g *Gateway) queueStates(ctx context.Context) ([]metrics.QueueState, error) {
	queues, err := g.o.Queue.Queues(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]metrics.QueueState, 0, len(queues))
	for _, q := range queues {
		s := metrics.QueueState{Name: q.Name, Pending: q.Functions}
		if q.Oldest != nil {
			s.Oldest = *q.Oldest
		}
		states = append(states, s)
	}
	return states, nil
}

// Handler answers everything the gateway serves to callers. It is what Run
// serves, for those who bring their own server.
func (g *Gateway) Handler() http.Handler { return g.handler }

// Table is what the gateway knows about functions and the calls to them.
func (g *Gateway) Table() *invoke.Table { return g.table }

// Run serves until ctx ends. Then it says that it is not healthy any more,
// stops accepting after Options.ShutdownDelay, lets the requests in flight
// finish within Options.Drain, and returns nil. It returns an error when a
// listener fails.
func (g *Gateway) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	// Calls that drain still need to find their functions, and to wake them:
	// what is behind the listener stops after it.
	behind, stopBehind := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error { return g.watcher.Run(behind) })
	group.Go(func() error { return g.table.Run(behind) })
	group.Go(func() error { return g.runScaling(behind) })
	group.Go(func() error { return g.serveMetrics(behind) })
	if g.o.ID != "" {
		loads := &invoke.LoadReporter{Gateway: g.o.ID, Client: g.watcher.Client, URL: g.o.ProviderURL, Table: g.table, Log: g.o.Log}
		group.Go(func() error { return loads.Run(behind) })
	}
	if g.o.Tokens != nil {
		group.Go(func() error { return g.o.Tokens.Run(behind) })
	}
	if g.o.Limits != nil {
		group.Go(func() error { return g.o.Limits.Run(behind) })
	}
	if g.o.Account != nil {
		group.Go(func() error { return g.o.Account.Run(behind) })
	}
	if g.o.Keys != nil {
		group.Go(func() error { return g.o.Keys.Run(behind) })
	}
	accepting, stopAccepting := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		defer stopAccepting()
		<-ctx.Done()
		g.stopping.Store(true)
		select {
		case <-time.After(g.o.ShutdownDelay):
		case <-behind.Done():
		}
		return nil
	})
	group.Go(func() error {
		defer stopBehind()
		return g.serve(accepting)
	})
	return group.Wait()
}

// serve answers callers on every listener until ctx ends and they are answered.
func (g *Gateway) serve(ctx context.Context) error {
	// Calls of functions last as long as the function may take and streams as
	// long as somebody listens, so the server bounds headers only; the
	// management API bounds itself.
	o := web.ServeOptions{
		Drain:          g.o.Drain,
		MaxHeaderBytes: g.o.MaxHeaderBytes,
		Log:            g.o.Log,
	}
	group, ctx := errgroup.WithContext(ctx)
	h := g.closing(g.handler)
	group.Go(func() error { return web.Serve(ctx, g.o.Listener, h, o) })
	if g.o.TLSListener != nil {
		encrypted := o
		encrypted.TLS = g.o.TLS
		group.Go(func() error { return web.Serve(ctx, g.o.TLSListener, h, encrypted) })
	}
	return group.Wait()
}

// closing asks callers to leave the connections of a gateway that stops, each
// with its last answer. A connection that is closed only because it is idle
// may take a request with it that was just being sent.
func (g *Gateway) closing(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.stopping.Load() {
			w.Header().Set("Connection", "close")
		}
		h.ServeHTTP(w, r)
	})
}

func (g *Gateway) serveMetrics(ctx context.Context) error {
	if g.o.MetricsListener == nil {
		return nil
	}
	return web.Serve(ctx, g.o.MetricsListener, g.metricsRoutes(), web.ServeOptions{
		ReadTimeout:  5 * time.Second,
		WriteTimeout: 5 * time.Second,
		Log:          g.o.Log,
	})
}

// accessLog logs every request to h, at the level that level chooses.
func (g *Gateway) accessLog(level func(*http.Request, web.Observation) slog.Level, h http.Handler) http.Handler {
	return web.AccessLog(g.audited, level, h)
}
