// Command gateway is the front door of a platform in a cluster: it carries
// calls to functions, accepts asynchronous ones, and passes the management API
// on to the provider. Several may run side by side. It is configured by its
// environment; "gateway -help" lists the variables.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/metrics"
	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/fault"
)

// Set by the linker.
var (
	version = "dev"
	commit  = ""
)

func main() { os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)) }

// run is the program, and returns its exit status.
func run(args, environ []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("gateway", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		for _, f := range conf.Fields[gateway.Config]() {
			fmt.Fprintf(stderr, "%-26s %s (default %q)\n", f.Env, f.Doc, f.Default)
		}
	}
	showVersion := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if *showVersion {
		fmt.Fprintln(stdout, "gateway", version, cmp.Or(commit, "unknown"))
		return 0
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks; with the second the process ends as it would have.
	context.AfterFunc(ctx, stop)
	if err := serve(ctx, environ, stderr); err != nil {
		fmt.Fprintln(stderr, "gateway:", err)
		return 1
	}
	return 0
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
	var calls queue
	if c.NatsHost != "" {
		if err := calls.open(ctx, c, log); err != nil {
			return err
		}
		defer calls.conn.Close()
	}
	o, err := c.Options(log, types.VersionInfo{Release: version, SHA: cmp.Or(commit, "unknown"), CommitMessage: "built from " + cmp.Or(commit, "unknown sources")})
	if err != nil {
		return err
	}
	o.Queue, o.QueueMetrics = calls.queue, calls.counted
	log.Info("serving", "listen", o.Listener.Addr().String(), "provider", o.ProviderURL.Redacted(), "queue", c.NatsHost != "", "version", version)
	err = gateway.New(o).Run(ctx)
	log.Info("gateway stopped")
	return err
}

// A queue is the queue of asynchronous calls and the connection below it.
type queue struct {
	conn    *nats.Conn
	queue   *async.Queue
	counted *metrics.Queue
}

func (q *queue) open(ctx context.Context, c gateway.Config, log *slog.Logger) (err error) {
	q.counted = metrics.NewQueue()
	q.conn, err = nats.Connect(natsURL(c), nats.Name("gateway "+c.ID), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(250*time.Millisecond), nats.ReconnectHandler(func(*nats.Conn) { q.counted.Reconnected() }))
	if err != nil {
		// The error may repeat the URL, and that a password.
		return fault.Invalid.Errorf("nats_host cannot be used; want a host or a URL such as nats://nats:4222")
	}
	q.queue, err = async.Open(ctx, q.conn, async.Options{
		Replicas:   c.QueueReplicas,
		MaxBacklog: int64(c.QueueMaxBacklog),
		MaxBytes:   int64(c.QueueMaxBytes),
		MaxBody:    int64(c.QueueMaxBody),
		MaxRecords: int64(c.QueueMaxResults),
		ResultAge:  c.QueueResultAge.Std(),
		Meter:      q.counted,
		Log:        log,
	})
	if err != nil {
		q.conn.Close()
	}
	return err
}

func natsURL(c gateway.Config) string {
	if strings.Contains(c.NatsHost, "://") {
		return c.NatsHost
	}
	return "nats://" + net.JoinHostPort(c.NatsHost, strconv.Itoa(c.NatsPort))
}
