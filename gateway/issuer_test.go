package gateway_test

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path"
	"strings"
	"sync"
	"testing"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
)

// An issuer is a real one, with two people and a service, on a port of this
// machine.
type issuer struct {
	url string // as its tokens name it
}

// registered guards the list of clients, which the issuer's library keeps for
// all of the process.
var registered sync.Once

func startIssuer(t *testing.T) *issuer {
	t.Helper()
	registered.Do(func() { storage.RegisterClients(storage.WebClient("web", "secret", "http://127.0.0.1/callback")) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{url: "http://" + ln.Addr().String() + "/"}
	srv := httptest.NewUnstartedServer(exampleop.SetupServer(i.url, storage.NewStorage(storage.NewUserStore(i.url)), slog.New(slog.DiscardHandler), false))
	srv.Listener.Close()
	srv.Listener = ln
	srv.Start()
	t.Cleanup(srv.Close)
	return i
}

// logIn logs a person in, as a browser would, and returns their ID token.
func (i *issuer) logIn(t *testing.T, user string) string {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
		if r.URL.Path == "/callback" {
			return http.ErrUseLastResponse // that is where the client would be
		}
		return nil
	}}
	do := func(method, uri string, form url.Values) *http.Response {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, uri, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := browser.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	const callback = "http://127.0.0.1/callback"
	page := do("GET", i.url+"auth?"+url.Values{
		"client_id": {"web"}, "redirect_uri": {callback}, "response_type": {"code"}, "scope": {"openid"}, "state": {"s"},
	}.Encode(), nil)
	where := page.Request.URL
	if path.Base(where.Path) != "username" {
		text, _ := io.ReadAll(page.Body)
		t.Fatalf("no page to log in at: %s %s", where, text)
	}
	id := where.Query().Get("authRequestID")
	back := do("POST", i.url+"login/username", url.Values{"id": {id}, "username": {user}, "password": {"verysecure"}})
	target, err := back.Location()
	if err != nil {
		text, _ := io.ReadAll(back.Body)
		t.Fatalf("the login failed: %s %s", back.Status, text)
	}
	answer := do("POST", i.url+"oauth/token", url.Values{
		"grant_type": {"authorization_code"}, "code": {target.Query().Get("code")}, "redirect_uri": {callback},
		"client_id": {"web"}, "client_secret": {"secret"},
	})
	var tokens struct {
		IDToken string `json:"id_token"`
	}
	if err := json.NewDecoder(answer.Body).Decode(&tokens); err != nil || tokens.IDToken == "" {
		t.Fatalf("no token: %s, %v", answer.Status, err)
	}
	return tokens.IDToken
}

// opaque returns a token that only the issuer can read.
func (i *issuer) opaque(t *testing.T) string {
	t.Helper()
	resp, err := http.PostForm(i.url+"oauth/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"sid1"}, "client_secret": {"verysecret"}, "scope": {"openid"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var tokens struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&tokens); err != nil || tokens.AccessToken == "" {
		t.Fatalf("no token: %s, %v", resp.Status, err)
	}
	return tokens.AccessToken
}
