// Command queue-worker runs the asynchronous calls of one queue, in a cluster:
// it takes them from NATS JetStream and sends them to the gateway. Several may
// work on one queue. It is configured by its environment; "queue-worker -help"
// lists the variables.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/gateway/metrics"
	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// config is what the environment says. The names are OpenFaaS's where OpenFaaS
// has one.
type config struct {
	NatsHost       string            `env:"nats_host" envDefault:"nats" doc:"host of the NATS server, or a URL"`
	NatsPort       int               `env:"nats_port" envDefault:"4222" doc:"port of the NATS server"`
	Queue          string            `env:"queue_name" envDefault:"faas-request" doc:"queue to work on; * is every queue"`
	Gateway        string            `env:"gateway_url" envDefault:"http://gateway:8080" doc:"where the gateway answers"`
	MaxInflight    int               `env:"max_inflight" envDefault:"256" doc:"calls that run at once"`
	MaxPerFunction int               `env:"max_inflight_per_function" envDefault:"100" doc:"calls of one function that run at once"`
	Attempts       int               `env:"max_retry_attempts" envDefault:"10" doc:"tries of a call, unless its function's annotations say otherwise"`
	MinWait        function.Duration `env:"initial_retry_wait" envDefault:"10s" doc:"shortest wait before the next try"`
	MaxWait        function.Duration `env:"max_retry_wait" envDefault:"120s" doc:"longest wait before the next try"`
	Codes          string            `env:"retry_http_codes" envDefault:"408,429,500,502,503,504" doc:"answers of functions that are tried again"`
	Backoff        async.Jitter      `env:"backoff" envDefault:"equal" doc:"how waits are spread: exponential, full or equal"`
	Drain          function.Duration `env:"drain_timeout" envDefault:"60s" doc:"longest time calls may go on after SIGTERM"`
	CallbackPermit string            `env:"callback_permit" doc:"private networks that callbacks may go to, separated by commas"`
	CallbackSecret string            `env:"callback_secret_file" doc:"file with the secret that signs callbacks"`
	MetricsListen  string            `env:"metrics_listen" envDefault:":8081" doc:"address of metrics and health; none serves none"`
	Debug          bool              `env:"debug" envDefault:"false" doc:"log more"`
}

func main() {
	if len(os.Args) > 1 {
		for _, f := range conf.Fields[config]() {
			fmt.Printf("%-26s %s (default %q)\n", f.Env, f.Doc, f.Default)
		}
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "queue-worker:", err)
		os.Exit(1)
	}
}

func run() error {
	c, err := conf.Read[config](os.Environ())
	if err != nil {
		return err
	}
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	options, err := c.worker()
	if err != nil {
		return err
	}
	counted := metrics.NewQueue()
	nc, err := nats.Connect(c.natsURL(), nats.Name("queue-worker"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ReconnectWait(250*time.Millisecond), nats.ReconnectHandler(func(*nats.Conn) { counted.Reconnected() }))
	if err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	defer nc.Close()
	q, err := async.Open(ctx, nc, async.Options{Existing: true, Meter: counted, Log: log})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return async.NewWorker(q, options).Run(ctx) })
	if c.MetricsListen != "none" {
		ln, err := net.Listen("tcp", c.MetricsListen)
		if err != nil {
			return err
		}
		group.Go(func() error { return web.Serve(ctx, ln, status(nc, counted), web.ServeOptions{Log: log}) })
	}
	log.Info("working", "queue", c.Queue, "gateway", c.Gateway)
	return group.Wait()
}

// status answers Prometheus, and whoever asks whether the worker is well.
func status(nc *nats.Conn, counted *metrics.Queue) http.Handler {
	m := metrics.New(nil)
	m.AddQueue(counted, func(context.Context) ([]metrics.QueueState, error) { return nil, nil }) // the gateway tells
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.Handler())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !nc.IsConnected() {
			http.Error(w, "not connected to NATS", http.StatusServiceUnavailable)
		}
	})
	return mux
}

func (c config) natsURL() string {
	if strings.Contains(c.NatsHost, "://") {
		return c.NatsHost
	}
	return "nats://" + net.JoinHostPort(c.NatsHost, strconv.Itoa(c.NatsPort))
}

// worker returns the options that c stands for.
func (c config) worker() (async.WorkerOptions, error) {
	var problems []error
	gateway, err := url.Parse(strings.TrimRight(c.Gateway, "/"))
	if err != nil || gateway.Host == "" {
		problems = append(problems, fault.Invalid.Errorf("gateway_url is %q, want a URL such as http://gateway:8080", c.Gateway))
	}
	o := async.WorkerOptions{
		Name:   c.Queue,
		URL:    gateway,
		Queued: invoke.HeaderQueued,
		Gateway: &http.Transport{
			MaxIdleConnsPerHost: c.MaxInflight,
			DisableCompression:  true, // answers are kept as they come
		},
		MaxInflight:    c.MaxInflight,
		MaxPerFunction: c.MaxPerFunction,
		Drain:          c.Drain.Std(),
		Policy:         async.Policy{Attempts: c.Attempts, MinWait: c.MinWait.Std(), MaxWait: c.MaxWait.Std(), Jitter: c.Backoff},
	}
	for text := range strings.SplitSeq(c.Codes, ",") {
		code, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			problems = append(problems, fault.Invalid.Errorf("retry_http_codes is %q, want numbers separated by commas", c.Codes))
			break
		}
		o.Policy.Codes = append(o.Policy.Codes, code)
	}
	if gateway != nil {
		o.Callback.Gateways = []string{gateway.Host, "gateway:8080", "gateway.openfaas:8080"}
	}
	for text := range strings.SplitSeq(c.CallbackPermit, ",") {
		if text = strings.TrimSpace(text); text == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			problems = append(problems, fault.Invalid.Errorf("callback_permit names %q, want a network such as 10.0.0.0/8", text))
			continue
		}
		o.Callback.Permit = append(o.Callback.Permit, prefix)
	}
	if c.CallbackSecret != "" {
		secret, err := os.ReadFile(c.CallbackSecret)
		if err != nil {
			problems = append(problems, fmt.Errorf("read the secret that signs callbacks: %w", err))
		}
		o.Callback.Secret = []byte(strings.TrimSpace(string(secret)))
	}
	return o, errors.Join(problems...)
}
