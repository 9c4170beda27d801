// Command queue-worker runs the asynchronous calls of one queue, in a cluster:
// it takes them from NATS JetStream and sends them to the gateway. Several may
// work on one queue. It is configured by its environment; "queue-worker -help"
// lists the variables.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
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

// version is that of the release; the linker sets it.
var version = "dev"

func main() {
	show := flag.Bool("version", false, "print the version and exit")
	flag.Usage = func() {
		fmt.Fprintln(flag.CommandLine.Output(), "queue-worker takes its settings from the environment:")
		for _, f := range conf.Fields[config]() {
			fmt.Fprintf(flag.CommandLine.Output(), "  %-26s %s (default %q)\n", f.Env, f.Doc, f.Default)
		}
	}
	flag.Parse()
	if *show {
		fmt.Println("queue-worker", version)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Environ(), os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "queue-worker:", err)
		os.Exit(1)
	}
}

// run works until ctx ends and the calls that run then are done.
func run(ctx context.Context, environ []string, logs io.Writer) error {
	c, err := conf.Read[config](environ)
	if err != nil {
		return err
	}
	log, err := c.logger(logs)
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

// logger returns the log that c asks for.
func (c config) logger(w io.Writer) (*slog.Logger, error) {
	level := c.LogLevel
	if c.Debug {
		level = slog.LevelDebug
	}
	options := &slog.HandlerOptions{Level: level}
	switch c.LogFormat {
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return nil, errLogFormat(c.LogFormat)
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
