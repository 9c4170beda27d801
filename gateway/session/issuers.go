package session

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/openid"
)

// discovered remembers what issuers say of themselves.
type discovered struct {
	mu  sync.Mutex
	all map[string]description // by name
}

type description struct {
	issuer Issuer
	at     *openid.Issuer
	until  time.Time
}

// issuer returns the issuer of a name, with its client's secret, and where it
// answers what.
func (s *Sessions) issuer(ctx context.Context, name string) (Issuer, *openid.Issuer, error) {
	for _, issuer := range s.o.Issuers() {
		if issuer.Name != name {
			continue
		}
		if issuer.SecretFile != "" {
			secret, err := os.ReadFile(issuer.SecretFile)
			if err != nil {
				return Issuer{}, nil, fault.Unavailable.Errorf("the secret of the client %q cannot be read", issuer.Client.ID)
			}
			issuer.Client.Secret = strings.TrimSpace(string(secret))
		}
		at, err := s.issuers.ask(ctx, issuer)
		return issuer, at, err
	}
	return Issuer{}, nil, fault.Denied.Errorf("browsers cannot log in with an issuer called %q", name)
}

func (d *discovered) ask(ctx context.Context, issuer Issuer) (*openid.Issuer, error) {
	now := time.Now()
	d.mu.Lock()
	known, ok := d.all[issuer.Name]
	d.mu.Unlock()
	if ok && now.Before(known.until) && known.issuer.URL == issuer.URL && known.issuer.Internal == issuer.Internal && known.issuer.CAFile == issuer.CAFile {
		return known.at, nil
	}
	client, err := newClient(issuer.CAFile)
	if err != nil {
		return nil, err
	}
	inside := issuer.Internal
	if inside == "" {
		inside = issuer.URL
	}
	at, err := openid.DiscoverAt(ctx, client, issuer.URL, inside)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == nil || len(d.all) > 1000 { // names of issuers that are gone
		d.all = map[string]description{}
	}
	d.all[issuer.Name] = description{issuer: issuer, at: at, until: now.Add(discoveryAge)}
	return at, nil
}

// newClient returns a client that knows issuers by the certificates in a file.
func newClient(caFile string) (*http.Client, error) {
	client := &http.Client{Timeout: openid.Timeout}
	if caFile == "" {
		return client, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fault.Unavailable.Errorf("the issuer's certificates cannot be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fault.Unavailable.Errorf("%s holds no certificates", caFile)
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool}
	client.Transport = t
	return client, nil
}
