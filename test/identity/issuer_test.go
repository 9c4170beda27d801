package identity

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

// Clients, people and their passwords of the second issuer.
const (
	cliClient     = "command-line"
	webClient     = "dashboard"
	webSecret     = "web-secret-of-the-second"
	programClient = "sid1"
	programSecret = "verysecret"
	person1       = "test-user@127.0.0.1"
	person2       = "test-user2"
	password      = "verysecure"
)

// registered guards the list of clients, which the issuer's library keeps for
// all of the process.
var registered sync.Once

// An issuer is a second one, of other make than Keycloak, in this process.
type issuer struct {
	url string // as its tokens name it

	mu      sync.Mutex
	handler http.Handler
	down    bool // it answers nothing but 503
}

func startIssuer(t *testing.T) *issuer {
	t.Helper()
	registered.Do(func() {
		storage.RegisterClients(
			storage.NativeClient(cliClient, "http://127.0.0.1/oauth/callback"),
			storage.WebClient(webClient, webSecret, "http://127.0.0.1/auth/callback", "http://127.0.0.1/functions/auth/callback"),
		)
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{url: "http://" + ln.Addr().String() + "/"}
	store := &accounts{Storage: storage.NewStorage(storage.NewUserStore(i.url))}
	i.handler = exampleop.SetupServer(i.url, store, slog.New(slog.DiscardHandler), false)
	srv := httptest.NewUnstartedServer(i)
	srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	t.Cleanup(srv.Close)
	return i
}

// ServeHTTP implements [http.Handler].
func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	down := i.down
	i.mu.Unlock()
	if down {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	i.handler.ServeHTTP(w, r)
}

func (i *issuer) stop(down bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.down = down
}

// accounts are the issuer's, whose library leaves to its users what they want
// in tokens.
type accounts struct{ *storage.Storage }

// GetClientByClientID lets the command line's client do more than the example
// does, and any port of this machine come back.
func (a *accounts) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := a.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	switch id {
	case cliClient, webClient:
		return anyPort{c}, nil
	}
	return c, nil
}

// ClientCredentials gives out tokens that others can read.
func (a *accounts) ClientCredentials(ctx context.Context, id, secret string) (op.Client, error) {
	c, err := a.Storage.ClientCredentials(ctx, id, secret)
	if err != nil {
		return nil, err
	}
	return readable{c}, nil
}

func (a *accounts) ClientCredentialsTokenRequest(_ context.Context, id string, scopes []string) (op.TokenRequest, error) {
	return &oidc.JWTTokenRequest{Subject: id, Audience: []string{"graphene"}, Scopes: scopes}, nil
}

func (a *accounts) GetPrivateClaimsFromScopes(context.Context, string, string, []string) (map[string]any, error) {
	return map[string]any{}, nil
}

// CompleteDeviceAuthorization knows people by their names, which is how the
// issuer's page calls them.
func (a *accounts) CompleteDeviceAuthorization(ctx context.Context, code, name string) error {
	if name == person1 {
		name = "id1"
	}
	return a.Storage.CompleteDeviceAuthorization(ctx, code, name)
}

type anyPort struct{ op.Client }

func (c anyPort) GrantTypes() []oidc.GrantType {
	return append(c.Client.GrantTypes(), oidc.GrantTypeDeviceCode, oidc.GrantTypeRefreshToken)
}

// DevMode lets redirects leave TLS out, to patterns.
func (anyPort) DevMode() bool { return true }

func (c anyPort) RedirectURIGlobs() []string {
	var all []string
	for _, uri := range c.RedirectURIs() {
		all = append(all, strings.Replace(uri, "127.0.0.1", "127.0.0.1:*", 1))
	}
	return all
}

func (anyPort) PostLogoutRedirectURIs() []string { return nil }
func (anyPort) PostLogoutRedirectURIGlobs() []string {
	return []string{"http://127.0.0.1:*/auth/logged-out", "http://127.0.0.1:*/functions/auth/logged-out"}
}

type readable struct{ op.Client }

func (readable) AccessTokenType() op.AccessTokenType { return op.AccessTokenTypeJWT }
