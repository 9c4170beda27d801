package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/gateway/trace"
	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// config is what the environment says. The names are OpenFaaS's where OpenFaaS
// has one.
type config struct {
	NatsURL  string `env:"nats_url" doc:"where NATS answers, such as nats://nats:4222; several servers are separated by commas (default: nats_host and nats_port)"`
	NatsHost string `env:"nats_host" envDefault:"nats" doc:"host of the NATS server, if nats_url is not set"`
	NatsPort int    `env:"nats_port" envDefault:"4222" doc:"port of the NATS server, if nats_url is not set"`
	async.Login

	Gateway         string `env:"gateway_url" envDefault:"http://gateway:8080" doc:"where the gateway answers"`
	BasicAuth       bool   `env:"basic_auth" envDefault:"true" doc:"prove to the gateway that calls come from the queue, with the administrator's credentials"`
	SecretMountPath string `env:"secret_mount_path" envDefault:"/run/secrets/" doc:"directory of the files basic-auth-user and basic-auth-password"`

	Queue          string            `env:"queue_name" envDefault:"faas-request" doc:"queue to work on; * is every queue"`
	MaxInflight    int               `env:"max_inflight" envDefault:"256" doc:"calls that run at once"`
	MaxPerFunction int               `env:"max_inflight_per_function" envDefault:"100" doc:"calls of one function that run at once"`
	Attempts       int               `env:"max_retry_attempts" envDefault:"10" doc:"tries of a call, unless its function's annotations say otherwise"`
	MinWait        function.Duration `env:"initial_retry_wait" envDefault:"10s" doc:"shortest wait before the next try"`
	MaxWait        function.Duration `env:"max_retry_wait" envDefault:"120s" doc:"longest wait before the next try"`
	Codes          string            `env:"retry_http_codes" envDefault:"408,429,500,502,503,504" doc:"answers of functions that are tried again"`
	Backoff        async.Jitter      `env:"backoff" envDefault:"equal" doc:"how waits are spread: exponential, full or equal"`
	CallbackPermit string            `env:"callback_permit" doc:"private networks that callbacks may go to, separated by commas"`
	CallbackSecret string            `env:"callback_secret_file" doc:"file with the secret that signs callbacks"`

	Drain         function.Duration `env:"drain_timeout" envDefault:"60s" doc:"longest time calls may go on after SIGTERM; those that take longer are run again by another worker"`
	MetricsListen string            `env:"metrics_listen" envDefault:":8082" doc:"address of /metrics, /healthz and /ready; none serves none"`
	trace.Settings

	conf.Log
}

// natsURL returns where NATS is.
func (c config) natsURL() string {
	switch {
	case c.NatsURL != "":
		return c.NatsURL
	case strings.Contains(c.NatsHost, "://"):
		return c.NatsHost
	}
	return "nats://" + net.JoinHostPort(c.NatsHost, strconv.Itoa(c.NatsPort))
}

// worker returns the options that c stands for. Its error names every setting
// that is wrong.
func (c config) worker() (async.WorkerOptions, error) {
	var problems []error
	gateway, err := url.Parse(strings.TrimRight(c.Gateway, "/"))
	if err != nil || gateway.Host == "" {
		problems = append(problems, fault.Invalid.Errorf("gateway_url is %q, want a URL such as http://gateway:8080", c.Gateway))
	}
	for name, n := range map[string]int{
		"max_inflight": c.MaxInflight, "max_inflight_per_function": c.MaxPerFunction, "max_retry_attempts": c.Attempts,
	} {
		if n < 1 {
			problems = append(problems, fault.Invalid.Errorf("%s is %d, want 1 or more", name, n))
		}
	}
	o := async.WorkerOptions{
		Name:   c.Queue,
		URL:    gateway,
		Queued: invoke.HeaderQueued, Submitter: invoke.HeaderSubmitter,
		MaxInflight:    c.MaxInflight,
		MaxPerFunction: c.MaxPerFunction,
		Drain:          c.Drain.Std(),
		Policy: async.Policy{
			Attempts: c.Attempts, MinWait: c.MinWait.Std(), MaxWait: max(c.MinWait.Std(), c.MaxWait.Std()), Jitter: c.Backoff,
		},
	}
	if o.Gateway, err = c.transport(); err != nil {
		problems = append(problems, err)
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

// transport returns what carries calls to the gateway.
func (c config) transport() (http.RoundTripper, error) {
	plain := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		MaxIdleConnsPerHost: c.MaxInflight,
		IdleConnTimeout:     90 * time.Second,
		DisableCompression:  true, // answers are kept as they come
	}
	if !c.BasicAuth {
		return plain, nil
	}
	user, password, err := auth.ReadCredentials(c.SecretMountPath)
	if err != nil {
		return nil, err
	}
	// The calls carry their own callers' Authorization for the functions.
	return &auth.Transport{Header: "Proxy-Authorization", User: user, Password: password, Next: plain}, nil
}
