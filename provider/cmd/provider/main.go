// Command provider deploys functions to a Kubernetes cluster: it serves the
// API that gateways speak, tells them where functions live, and, when it is
// the one among several, controls the cluster. It is configured by its
// environment; "provider -help" lists the variables.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/openfaas/faas-provider/auth"
	"github.com/openfaas/faas-provider/types"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/web"
	"github.com/graphene-faas/graphene/provider"
	"github.com/graphene-faas/graphene/provider/kube"
)

// Set by the linker.
var (
	version = "dev"
	commit  = ""
)

func main() { os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)) }

// run is the program, and returns its exit status.
func run(args, environ []string, stdout, stderr io.Writer) int {
	return conf.Main[config](conf.Program{Name: "provider", Version: version, Commit: commit}, args, stdout, stderr, func() error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		// The first signal asks; with the second the process ends as it would have.
		context.AfterFunc(ctx, stop)
		return serve(ctx, environ, stderr)
	})
}

func serve(ctx context.Context, environ []string, stderr io.Writer) error {
	c, err := conf.Read[config](environ)
	if err != nil {
		return err
	}
	if err := c.check(); err != nil {
		return err
	}
	log, err := c.Logger(stderr)
	if err != nil {
		return err
	}
	klog.SetSlogLogger(log) // what the Kubernetes client has to say
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find out the host's name: %w", err)
	}
	o, err := c.options(host, log)
	if err != nil {
		return err
	}
	credentials, err := c.credentials()
	if err != nil {
		return err
	}
	runtime, err := kube.New(o)
	if err != nil {
		return err
	}
	server := provider.New(provider.Options{
		Runtime: runtime, Secrets: runtime, Logs: runtime, Namespaces: runtime, Load: runtime, APIKeys: runtime, SigningKeys: runtime, Objects: runtime,
		Info: types.ProviderInfo{Name: "graphene", Orchestration: "kubernetes", Version: &types.VersionInfo{Release: version, SHA: cmp.Or(commit, "unknown")}},
		Log:  log,
	})
	ln, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	log.Info("serving", "listen", ln.Addr().String(), "version", version)

	group, ctx := errgroup.WithContext(ctx)
	behind, stopBehind := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		defer stopBehind() // requests in flight need the cluster
		return web.Serve(ctx, ln, routes(server.Handler(), runtime, credentials), web.ServeOptions{
			Drain: c.DrainTimeout.Std(), ReadTimeout: c.ReadTimeout.Std(), WriteTimeout: c.WriteTimeout.Std(), Log: log,
		})
	})
	group.Go(func() error { return runtime.Run(behind) })
	group.Go(func() error { return server.Run(behind) })
	err = group.Wait()
	log.Info("provider stopped")
	return err
}

// routes puts what a network needs before the API: a login, and /ready, which
// says whether the cluster has been seen. Health checks need no login.
func routes(api http.Handler, runtime interface{ Ready() bool }, credentials *auth.BasicAuthCredentials) http.Handler {
	guarded := api
	if credentials != nil {
		guarded = auth.DecorateWithBasicAuth(api.ServeHTTP, credentials)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			api.ServeHTTP(w, r)
		case "/ready":
			if !runtime.Ready() {
				http.Error(w, "the Kubernetes API has not been read yet", http.StatusServiceUnavailable)
			}
		default:
			guarded.ServeHTTP(w, r)
		}
	})
}
