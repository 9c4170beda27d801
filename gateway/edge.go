package gateway

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"

	"github.com/nats-io/nats.go"

	"github.com/graphene-faas/graphene/gateway/audit"
	"github.com/graphene-faas/graphene/gateway/quota"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/web"
)

// Edge is what can be said of the way from callers to a gateway. Both sizes
// read it from their environment.
type Edge struct {
	TLSListen         string `env:"tls_listen" doc:"address on which the same is served over TLS, such as :8443 (default: nowhere)"`
	TLSCert           string `env:"tls_cert_file" doc:"certificate for TLS, with what leads to its authority, in PEM; read again when it changes"`
	TLSKey            string `env:"tls_key_file" doc:"key of the certificate, in PEM"`
	TLSClientCA       string `env:"tls_client_ca_file" doc:"authorities of callers' certificates, in PEM (default: callers are asked for none)"`
	TLSClientRequired bool   `env:"tls_client_required" envDefault:"false" doc:"turn callers away, over TLS, who show no certificate"`
	TrustedProxies    string `env:"trusted_proxies" envDefault:"127.0.0.0/8,::1" doc:"networks of the proxies whose X-Forwarded headers say who the caller is; those of others are removed"`
	PathPrefix        string `env:"path_prefix" doc:"path below which a proxy shows the platform, such as /functions (default: the root)"`
	LimitsConfig      string `env:"limits_config" doc:"file of limits for callers and addresses, read again when it changes (default: none)"`
	AuditLog          string `env:"audit_log" doc:"file that also gets a line of JSON for everything that was changed or refused (default: the log alone)"`

	SessionMaxAge      function.Duration `env:"session_max_age" envDefault:"12h" doc:"how long a browser stays logged in at most"`
	TrustFunctionPages bool              `env:"trust_function_pages" envDefault:"false" doc:"leave the pages of functions the origin of the platform, so that they can act for whoever is logged in and looks at them"`
}

// Proxies returns what e says of the proxies before the gateway.
func (e Edge) Proxies() (p web.Proxies, err error) {
	if p.Trusted, err = web.ParsePrefixes(e.TrustedProxies); err != nil {
		return web.Proxies{}, fault.Invalid.Errorf("trusted_proxies: %w", err)
	}
	if p.Prefix, err = web.ParsePathPrefix(e.PathPrefix); err != nil {
		return web.Proxies{}, fault.Invalid.Errorf("path_prefix: %w", err)
	}
	return p, nil
}

// Encrypted opens the listener for TLS, and reads what it is served with; both
// are nil if there is to be none.
func (e Edge) Encrypted(log *slog.Logger) (net.Listener, *tls.Config, error) {
	if e.TLSListen == "" {
		if e.TLSCert != "" || e.TLSKey != "" {
			return nil, nil, fault.Invalid.Errorf("tls_cert_file and tls_key_file are for tls_listen, which is not set")
		}
		return nil, nil, nil
	}
	config, err := web.TLSFiles{Cert: e.TLSCert, Key: e.TLSKey, ClientCA: e.TLSClientCA, RequireClient: e.TLSClientRequired}.Config(log)
	if err != nil {
		return nil, nil, fault.Invalid.Errorf("tls_cert_file, tls_key_file and tls_client_ca_file: %w", err)
	}
	l, err := net.Listen("tcp", e.TLSListen)
	if err != nil {
		return nil, nil, fault.Invalid.Errorf("tls_listen: %w", err)
	}
	return l, config, nil
}

// Metering opens the limits and the account of usage that e asks for. Known
// says that callers are known by more than their address, in which case there
// is always an account. Over conn several gateways share the limits; it and
// store may be nil. Both results are nil if there are to be none.
func (e Edge) Metering(known bool, store quota.Store, conn *nats.Conn, log *slog.Logger) (*quota.Limits, *quota.Account, error) {
	if !known && e.LimitsConfig == "" {
		return nil, nil, nil
	}
	account := quota.NewAccount(store, log)
	if e.LimitsConfig == "" {
		return nil, account, nil
	}
	limits, err := quota.Open(quota.Options{File: e.LimitsConfig, Account: account, Conn: conn, Log: log})
	if err != nil {
		return nil, nil, fmt.Errorf("limits_config: %w", err)
	}
	return limits, account, nil
}

// Audit opens the audit log; nil if there is to be none of its own.
func (e Edge) Audit() (*audit.File, error) {
	if e.AuditLog == "" {
		return nil, nil
	}
	f, err := audit.Open(e.AuditLog)
	if err != nil {
		return nil, fault.Invalid.Errorf("audit_log: %w", err)
	}
	return f, nil
}
