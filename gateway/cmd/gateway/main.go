// Command gateway is the front door of a platform in a cluster: it carries
// calls to functions, accepts asynchronous ones, and passes the management API
// on to the provider. Several may run side by side. It is configured by its
// environment; "gateway -help" lists the variables.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/nats-io/nats.go"
	"github.com/openfaas/faas-provider/types"
	"golang.org/x/sync/errgroup"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/autoscale/shared"
	"github.com/graphene-faas/graphene/gateway/quota"
	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/conf"
)

// Set by the linker.
var (
	version = "dev"
	commit  = ""
)

func main() { os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)) }

// run is the program, and returns its exit status.
func run(args, environ []string, stdout, stderr io.Writer) int {
	return conf.Main[gateway.Config](conf.Program{Name: "gateway", Version: version, Commit: commit}, args, stdout, stderr, func() error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		// The first signal asks; with the second the process ends as it would have.
		context.AfterFunc(ctx, stop)
		return serve(ctx, environ, stderr)
	})
}

func serve(ctx context.Context, environ []string, stderr io.Writer) error {
	c, err := conf.Read[gateway.Config](environ)
	if err != nil {
		return err
	}
	log, err := c.Logger(stderr)
	if err != nil {
		return err
	}
	if c.ID == "" {
		if c.ID, err = os.Hostname(); err != nil {
			return fmt.Errorf("find out the host's name: %w", err)
		}
	}
	tracer, err := trace.Open(ctx, c.Settings, "gateway", version, log)
	if err != nil {
		return err
	}
	defer func() { _ = tracer.Close(ctx) }() // the log has said what was lost
	broker, err := c.OpenBroker(log)
	if err != nil {
		return err
	}
	var usage quota.Store
	var conn *nats.Conn
	if broker != nil {
		conn, usage = broker.Conn, broker.Usage
		defer conn.Close()
	}
	o, err := c.Options(log, types.VersionInfo{Release: version, SHA: cmp.Or(commit, "unknown"), CommitMessage: "built from " + cmp.Or(commit, "unknown sources")})
	if err != nil {
		return err
	}
	o.Tracer = tracer
	if o.Limits, o.Account, err = c.Metering(c.AuthConfig != "", usage, conn, log); err != nil {
		return err
	}
	audited, err := c.Audit()
	if err != nil {
		return err
	}
	if audited != nil {
		defer audited.Close()
		o.Audit = audited.Handler()
	}
	log.Info("serving", "listen", o.Listener.Addr().String(), "provider", o.ProviderURL.Redacted(),
		"queue", broker != nil, "issuers", o.Tokens != nil, "version", version)
	group, ctx := errgroup.WithContext(ctx)
	behind, stopBehind := context.WithCancel(context.WithoutCancel(ctx))
	if broker != nil {
		o.Queue, o.QueueMetrics = broker.Queue, broker.Metrics
		o.Peers = shared.New(shared.Options{Conn: broker.Conn, Name: c.ID, Replicas: c.QueueReplicas, Log: log})
		group.Go(func() error { return broker.Queue.Run(behind) })
	}
	group.Go(func() error {
		defer stopBehind() // the queue is needed until the last request
		return gateway.New(o).Run(ctx)
	})
	err = group.Wait()
	log.Info("gateway stopped")
	return err
}
