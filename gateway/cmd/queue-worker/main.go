// Command queue-worker runs the asynchronous calls of one queue, in a cluster:
// it takes them from NATS JetStream and sends them to the gateway. Several may
// work on one queue. It is configured by its environment; "queue-worker -help"
// lists the variables.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/metrics"
	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/web"
)

// Set by the linker.
var (
	version = "dev"
	commit  = ""
)

func main() { os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr)) }

// run is the program, and returns its exit status.
func run(args, environ []string, stdout, stderr io.Writer) int {
	return conf.Main[config](conf.Program{Name: "queue-worker", Version: version, Commit: commit}, args, stdout, stderr, func() error {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		// The first signal asks; with the second the process ends as it would have.
		context.AfterFunc(ctx, stop)
		return serve(ctx, environ, stderr)
	})
}

// serve works until ctx ends and the calls that run then are done.
func serve(ctx context.Context, environ []string, stderr io.Writer) error {
	c, err := conf.Read[config](environ)
	if err != nil {
		return err
	}
	log, err := c.Logger(stderr)
	if err != nil {
		return err
	}
	options, err := c.worker()
	if err != nil {
		return err
	}
	var status net.Listener
	if c.MetricsListen != "none" {
		if status, err = net.Listen("tcp", c.MetricsListen); err != nil {
			return fmt.Errorf("metrics_listen: %w", err)
		}
		defer status.Close()
	}
	if options.Tracer, err = trace.Open(ctx, c.Settings, "queue-worker", version, log); err != nil {
		return err
	}
	defer func() { _ = options.Tracer.Close(ctx) }() // the log has said what was lost
	counted := metrics.NewQueue()
	nc, err := async.Connect(async.ConnectOptions{
		URL: c.natsURL(), Name: "queue-worker", Login: c.Login, Reconnected: counted.Reconnected, Log: log,
	})
	if err != nil {
		return err
	}
	defer nc.Close()
	q, err := async.New(nc, async.Options{Existing: true, Meter: counted, Log: log})
	if err != nil {
		return err
	}
	log.Info("queue worker starts", "version", version, "queue", c.Queue, "gateway", c.Gateway)

	// The queue and the status stay until the last call is done.
	behind, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 2)
	running := 1
	go func() { ended <- q.Run(behind) }()
	if status != nil {
		running++
		go func() {
			ended <- web.Serve(behind, status, routes(nc, q, counted), web.ServeOptions{Drain: time.Second, Log: log})
		}()
	}
	err = async.NewWorker(q, options).Run(ctx)
	log.Info("queue worker stops", "err", err)
	stop()
	for range running {
		err = errors.Join(err, <-ended)
	}
	return err
}

// routes answers Prometheus, and whoever asks whether the worker is well. A
// worker without NATS is not ready, and healthy all the same: it waits.
func routes(nc *nats.Conn, q *async.Queue, counted *metrics.Queue) http.Handler {
	m := metrics.New(nil)
	m.AddQueue(counted, func(context.Context) ([]metrics.QueueState, error) { return nil, nil }) // the gateway tells
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /ready", func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-q.Opened():
			if nc.IsConnected() {
				return
			}
		default:
		}
		http.Error(w, "not connected to NATS, or the gateway has not made the queue yet", http.StatusServiceUnavailable)
	})
	return mux
}
