package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/autoscale"
	"github.com/graphene-faas/graphene/gateway/metrics"
	"github.com/graphene-faas/graphene/gateway/quota"
	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/signkey"
	"github.com/graphene-faas/graphene/internal/web"
)

// Config is what a gateway of its own reads from its environment. The names
// are OpenFaaS's where OpenFaaS has one.
type Config struct {
	Listen        string `env:"listen" envDefault:":8080" doc:"address the API and functions are served on"`
	MetricsListen string `env:"metrics_listen" envDefault:":8082" doc:"address Prometheus metrics are served on; \"none\" serves them nowhere"`
	ID            string `env:"gateway_id" doc:"name of this gateway among several (default: the host's name)"`

	ProviderURL     string            `env:"functions_provider_url,required" doc:"where the provider answers"`
	Namespace       string            `env:"function_namespace" envDefault:"openfaas-fn" doc:"namespace of functions that name none"`
	UpstreamTimeout function.Duration `env:"upstream_timeout" envDefault:"60s" doc:"longest time the provider may take to answer"`

	BasicAuth       bool   `env:"basic_auth" envDefault:"true" doc:"ask for a user name and a password, and send them to the provider; false lets everybody do everything unless auth_config names issuers"`
	SecretMountPath string `env:"secret_mount_path" envDefault:"/run/secrets/" doc:"directory of the files basic-auth-user and basic-auth-password"`
	AuthConfig      string `env:"auth_config" doc:"file of trusted issuers, roles and policies; it is read again when it changes"`

	Edge

	IAM           bool   `env:"iam" envDefault:"false" doc:"also follow issuers, roles and policies that are custom resources, as the provider tells of them; functions then need a caller even where there is no issuer yet"`
	PublicURL     string `env:"public_url" doc:"where callers reach this platform, such as https://functions.example.com; it is the issuer of the platform's own tokens"`
	IssuerKeyPath string `env:"issuer_key_path" doc:"file of the keys that sign the platform's own tokens, read again when it changes; without it there are none"`

	ReadTimeout    function.Duration `env:"read_timeout" envDefault:"60s" doc:"longest time a request to the management API may take to arrive"`
	WriteTimeout   function.Duration `env:"write_timeout" envDefault:"60s" doc:"longest time an answer of the management API may take; followed logs are exempt"`
	ShutdownDelay  function.Duration `env:"shutdown_delay" envDefault:"3s" doc:"how long the gateway goes on accepting after SIGTERM, while /healthz says that it stops"`
	DrainTimeout   function.Duration `env:"drain_timeout" envDefault:"25s" doc:"longest time requests in flight may take after that"`
	MaxHeaderBytes int               `env:"max_header_bytes" envDefault:"1048576" doc:"longest headers of a request, in bytes"`
	MaxBody        function.Bytes    `env:"max_body" envDefault:"0" doc:"longest body of a call, in bytes; 0 is no limit"`
	MaxAPIBody     function.Bytes    `env:"max_api_body" envDefault:"1Mi" doc:"longest request to the management API, in bytes"`
	MaxWaiting     int               `env:"max_waiting" envDefault:"1000" doc:"calls that may wait for a busy or sleeping function that does not say so itself"`
	WakeTimeout    function.Duration `env:"wake_timeout" envDefault:"0s" doc:"longest time a call waits for the first replica of a function that does not say so itself; 0 is the function's load_timeout"`

	NatsURL  string `env:"nats_url" doc:"where NATS answers, such as nats://nats:4222; several servers are separated by commas (default: nats_host and nats_port)"`
	NatsHost string `env:"nats_host" doc:"host of the NATS server, if nats_url is not set; without either there is no queue"`
	NatsPort int    `env:"nats_port" envDefault:"4222" doc:"port of the NATS server, if nats_url is not set"`
	async.Login

	QueueReplicas   int               `env:"nats_stream_replicas" envDefault:"1" doc:"servers that hold each asynchronous call: 1 or 3"`
	QueueMaxBacklog int               `env:"queue_max_backlog" envDefault:"1048576" doc:"asynchronous calls of one function that may wait; more get 429"`
	QueueMaxBytes   function.Bytes    `env:"queue_max_bytes" envDefault:"10Gi" doc:"space that waiting asynchronous calls may take, half of it for what is small; more get 429"`
	QueueKeepBytes  function.Bytes    `env:"queue_keep_bytes" envDefault:"8Gi" doc:"space that results, dead letters and callbacks may take"`
	QueueMaxBody    function.Bytes    `env:"queue_max_body" envDefault:"100M" doc:"largest body of an asynchronous call"`
	QueueMaxResults int               `env:"queue_max_results" envDefault:"200000" doc:"results of asynchronous calls that are kept"`
	QueueResultAge  function.Duration `env:"queue_result_age" envDefault:"24h" doc:"how long results of asynchronous calls are kept"`

	autoscale.Scaling

	BuildTarget        string `env:"build_target" doc:"what functions must be built for, such as linux/amd64/cp311/glibc; the command line asks"`
	BuildRegistry      string `env:"build_registry" doc:"registry and prefix that images are pushed to when their name has none"`
	BuildPythonImage   string `env:"build_python_image" doc:"base image of Python functions"`
	BuildWatchdogImage string `env:"build_watchdog_image" doc:"image that the watchdog is taken from"`

	trace.Settings

	AccessLog bool `env:"access_log" envDefault:"false" doc:"log every call of a function too; the management API is always logged"`
	conf.Log
}

// Options opens what c names: listeners, credentials, the way to the provider.
// What it has opened when it fails is closed again. The queue is not part of
// it: its connection is the program's.
func (c Config) Options(log *slog.Logger, version types.VersionInfo) (_ Options, err error) {
	provider, err := url.Parse(c.ProviderURL)
	if err != nil || provider.Host == "" {
		return Options{}, fault.Invalid.Errorf("functions_provider_url is %q, want a URL such as http://127.0.0.1:8081", c.ProviderURL)
	}
	scaling, err := c.Scaling.Defaults(0)
	if err != nil {
		return Options{}, err
	}
	builds, err := c.builds()
	if err != nil {
		return Options{}, err
	}
	var target func(context.Context) (function.Target, error)
	if c.BuildTarget != "" {
		t, err := function.ParseTarget(c.BuildTarget)
		if err != nil {
			return Options{}, fault.Invalid.Errorf("build_target: %w", err)
		}
		target = func(context.Context) (function.Target, error) { return t, nil }
	}
	var who auth.Authenticator
	if c.AuthConfig == "" && !c.IAM {
		who = auth.Open{}
	}
	toProvider := providerTransport()
	if c.BasicAuth {
		user, password, err := auth.ReadCredentials(c.SecretMountPath)
		if err != nil {
			return Options{}, err
		}
		who = auth.NewBasic(user, password)
		toProvider = &auth.Transport{Header: "Authorization", User: user, Password: password, Next: toProvider}
	}
	var public *url.URL
	if c.PublicURL != "" {
		if public, err = ParsePublicURL(c.PublicURL); err != nil {
			return Options{}, fmt.Errorf("public_url: %w", err)
		}
	}
	var keys *auth.SigningKeys
	if c.IssuerKeyPath != "" {
		if c.PublicURL == "" {
			return Options{}, fault.Invalid.Errorf("issuer_key_path needs public_url: tokens name who has made them")
		}
		if keys, err = auth.OpenSigningKeys(auth.SigningKeysOptions{File: &signkey.File{Path: c.IssuerKeyPath}, Log: log}); err != nil {
			return Options{}, fmt.Errorf("issuer_key_path: %w", err)
		}
	}
	var tokens *auth.Tokens
	var counted *metrics.Identity
	if c.AuthConfig != "" || c.IAM {
		counted = metrics.NewIdentity()
		if tokens, err = auth.OpenTokens(auth.TokensOptions{File: c.AuthConfig, Told: c.IAM, Keys: keys, URL: c.PublicURL, Meter: counted, Log: log}); err != nil {
			return Options{}, fmt.Errorf("auth_config: %w", err)
		}
		if !c.BasicAuth && c.queueURL() != "" {
			return Options{}, fault.Invalid.Errorf("auth_config and iam need basic_auth where there is a queue: the queue worker proves itself by it")
		}
	}
	proxies, err := c.Proxies()
	if err != nil {
		return Options{}, err
	}
	encrypted, tlsConfig, err := c.Encrypted(log)
	if err != nil {
		return Options{}, err
	}
	defer func() {
		if err != nil && encrypted != nil {
			encrypted.Close()
		}
	}()
	listener, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return Options{}, err
	}
	var private net.Listener
	if c.MetricsListen != "none" {
		if private, err = net.Listen("tcp", c.MetricsListen); err != nil {
			listener.Close()
			return Options{}, err
		}
	}
	return Options{
		Listener:        listener,
		TLSListener:     encrypted,
		TLS:             tlsConfig,
		Proxies:         proxies,
		MetricsListener: private,
		ID:              c.ID,
		Provider:        toProvider,
		ProviderURL:     provider,
		Authenticator:   who,
		Tokens:          tokens,
		Keys:            keys,
		PublicURL:       public,
		SessionMaxAge:   c.SessionMaxAge.Std(),

		TrustFunctionPages: c.TrustFunctionPages,

		IdentityMetrics: counted,
		Namespace:       c.Namespace,
		Version:         version,
		Target:          target,
		Builds:          builds,
		ReadTimeout:     c.ReadTimeout.Std(),
		WriteTimeout:    c.WriteTimeout.Std(),
		UpstreamTimeout: c.UpstreamTimeout.Std(),
		ShutdownDelay:   c.ShutdownDelay.Std(),
		Drain:           c.DrainTimeout.Std(),
		MaxHeaderBytes:  c.MaxHeaderBytes,
		MaxBody:         int64(c.MaxBody),
		MaxAPIBody:      int64(c.MaxAPIBody),
		MaxWaiting:      c.MaxWaiting,
		WakeTimeout:     c.WakeTimeout.Std(),
		Scaling:         scaling,
		ScalingOff:      !c.Autoscale,
		AccessLog:       c.AccessLog,
		Log:             log,
	}, nil
}

// ParsePublicURL reads where callers reach a platform. Errors are fault.Invalid.
func ParsePublicURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || strings.HasSuffix(u.Path, "/") {
		return nil, fault.Invalid.Errorf("it is %q, want a URL such as https://functions.example.com, without a slash at the end", text)
	}
	return u, nil
}

// publicURL is PublicURL as a text.
func (o *Options) publicURL() string { return o.PublicURL.String() }

// providerTransport carries requests to the provider. Its stream has no end,
// and may have nothing to say for hours: that the provider's machine is gone
// shows by the connection alone.
func providerTransport() http.RoundTripper {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.DialContext = redial(&net.Dialer{
		Timeout:         3 * time.Second,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 5 * time.Second, Count: 3},
	})
	return t
}

// How long, and how often, a connection to the provider is tried that is
// refused: a Service takes a second or two to notice that a pod has died, and
// meanwhile may lead to it or to another.
const (
	refusedFor   = 3 * time.Second
	refusedPause = 50 * time.Millisecond
)

// redial returns d's DialContext, except that it tries again for a while where
// nobody listens.
func redial(d *net.Dialer) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		began := time.Now()
		for {
			conn, err := d.DialContext(ctx, network, address)
			if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) >= refusedFor {
				return conn, err
			}
			select {
			case <-time.After(refusedPause):
			case <-ctx.Done():
				return nil, err
			}
		}
	}
}

// queueURL returns where NATS is; "" if there is to be no queue.
func (c Config) queueURL() string {
	switch {
	case c.NatsURL != "" || c.NatsHost == "":
		return c.NatsURL
	case strings.Contains(c.NatsHost, "://"):
		return c.NatsHost
	}
	return "nats://" + net.JoinHostPort(c.NatsHost, strconv.Itoa(c.NatsPort))
}

// A Broker is what a gateway has of NATS.
type Broker struct {
	Conn    *nats.Conn
	Queue   *async.Queue   // its Run is the caller's to call
	Metrics *metrics.Queue // of Queue
	Usage   quota.Store
}

// OpenBroker connects to the broker that c names, whose connection is the
// caller's to close. Without one it returns nil.
func (c Config) OpenBroker(log *slog.Logger) (*Broker, error) {
	if c.queueURL() == "" {
		return nil, nil
	}
	b := &Broker{Metrics: metrics.NewQueue()}
	var err error
	b.Conn, err = async.Connect(async.ConnectOptions{
		URL: c.queueURL(), Name: "gateway " + c.ID, Login: c.Login, Reconnected: b.Metrics.Reconnected, Log: log,
	})
	if err != nil {
		return nil, err
	}
	b.Queue, err = async.New(b.Conn, async.Options{
		Replicas:   c.QueueReplicas,
		MaxBacklog: int64(c.QueueMaxBacklog),
		MaxBytes:   int64(c.QueueMaxBytes),
		KeepBytes:  int64(c.QueueKeepBytes),
		MaxBody:    int64(c.QueueMaxBody),
		MaxRecords: int64(c.QueueMaxResults),
		ResultAge:  c.QueueResultAge.Std(),
		Meter:      b.Metrics,
		Log:        log,
	})
	if err == nil {
		b.Usage, err = quota.NewBucket(b.Conn, c.QueueReplicas)
	}
	if err != nil {
		b.Conn.Close()
		return nil, err
	}
	return b, nil
}

// builds returns what c tells those who make images of functions.
func (c Config) builds() (function.Builds, error) {
	b := function.Builds{Registry: c.BuildRegistry, PythonImage: c.BuildPythonImage, WatchdogImage: c.BuildWatchdogImage}
	switch {
	case (b.PythonImage == "") != (b.WatchdogImage == ""):
		return b, fault.Invalid.Errorf("build_python_image and build_watchdog_image belong together: one has a value, the other has none")
	case strings.Contains(b.Registry, "://"):
		return b, fault.Invalid.Errorf("build_registry is %q, want a host such as registry.example.com/team, without a scheme", b.Registry)
	}
	return b, nil
}

// Options say what a gateway consists of. Zero values mean the default that
// the field's comment names.
type Options struct {
	Listener net.Listener // for callers; Run closes it
	// TLSListener is for callers who are spoken to as TLS says; Run closes it;
	// nil is none.
	TLSListener net.Listener
	TLS         *tls.Config
	// Proxies stand between callers and the listeners. Its Vouched is the
	// gateway's own affair.
	Proxies         web.Proxies
	MetricsListener net.Listener // for Prometheus; Run closes it; nil serves no metrics

	// ID names this gateway among several that share a provider, which is then
	// told how busy each replica is; "" tells it nothing.
	ID string

	Provider    http.RoundTripper // carries requests to the provider
	ProviderURL *url.URL          // where the provider answers; nil is http://provider, for a Provider that needs no address

	// Authenticator finds out who sends the requests that need to be allowed;
	// nil knows nobody, and then nobody may do anything.
	Authenticator auth.Authenticator
	// Tokens knows callers by tokens, and is asked first. With it calls of
	// functions need a caller who may call them too, unless the function is
	// annotated as public. Run keeps its keys fresh. Nil is none.
	Tokens *auth.Tokens
	// Keys sign the platform's own tokens, which Tokens believe if they have the
	// same keys and URL. Run follows their changes. Nil signs none.
	Keys *auth.SigningKeys
	// PublicURL is where callers reach the platform; Keys need it.
	PublicURL *url.URL
	// SessionMaxAge is how long a browser stays logged in at most; 0 is 12
	// hours. Sessions need Tokens and Keys.
	SessionMaxAge time.Duration
	// TrustFunctionPages leaves the pages of functions the platform's origin.
	TrustFunctionPages bool
	// Limits bound what callers take, and Account counts it; nil is without.
	// Run keeps both going.
	Limits  *quota.Limits
	Account *quota.Account
	// Audit takes a record of everything that was changed or refused, which
	// Log gets as well; nil is Log alone.
	Audit slog.Handler
	// IdentityMetrics are those that Tokens count in, to be shown with the
	// gateway's own; nil shows none.
	IdentityMetrics *metrics.Identity
	// Registry serves an OCI registry under /v2/, to callers who may deploy;
	// nil is none.
	Registry http.Handler

	// Queue accepts asynchronous calls; nil is none. Whoever opened it runs the
	// worker.
	Queue *async.Queue
	// QueueMetrics are those that Queue counts in, to be shown with the
	// gateway's own; nil shows none.
	QueueMetrics *metrics.Queue
	// Tracer makes spans of calls and of their submissions; nil makes none.
	// Whoever opened it closes it.
	Tracer *trace.Tracer

	Namespace string // of functions that name none; "" is function.DefaultNamespace
	Version   types.VersionInfo
	// Target says what functions must be built for; nil says nothing.
	Target func(context.Context) (function.Target, error)
	// Builds says how their images are made; OwnRegistry follows from Registry.
	Builds function.Builds

	ReadTimeout     time.Duration // of requests to the management API; 0 is a minute
	WriteTimeout    time.Duration // of answers of the management API; 0 is a minute
	UpstreamTimeout time.Duration // of the provider; 0 is a minute
	// ShutdownDelay is how long the gateway goes on accepting after Run's
	// context has ended, while it says that it is not healthy any more: whoever
	// spreads callers over gateways needs time to notice. 0 is not at all.
	ShutdownDelay  time.Duration
	Drain          time.Duration // for requests in flight after that; 0 cuts them off
	MaxHeaderBytes int           // of one request; 0 is 1 MiB
	MaxBody        int64         // of one call of a function; 0 is no limit
	MaxAPIBody     int64         // of one request to the management API; 0 is 1 MiB
	MaxWaiting     int           // calls that wait for one function that does not say so itself; 0 is 1000
	WakeTimeout    time.Duration // for the first replica of such a function; 0 is its load_timeout

	Scaling    autoscale.Defaults
	ScalingOff bool  // leave numbers of replicas to others, and only wake functions
	Peers      Peers // the other gateways; nil: this one is alone

	AccessLog bool         // also log calls of functions, one line each
	Log       *slog.Logger // nil logs nothing
}
