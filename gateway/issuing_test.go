package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/signkey"
	"github.com/graphene-faas/graphene/internal/testkit"
)

// issuing has a gateway trust an issuer, and issue tokens of its own.
func issuing(t *testing.T, i *issuer) func(*gateway.Options) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "auth.yaml")
	if err := os.WriteFile(file, []byte(rulesOf(i)), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(o *gateway.Options) {
		var err error
		if o.PublicURL, err = url.Parse("http://" + o.Listener.Addr().String()); err != nil {
			t.Fatal(err)
		}
		if o.Keys, err = auth.OpenSigningKeys(auth.SigningKeysOptions{File: &signkey.File{Path: filepath.Join(dir, "issuer.key")}, MaxAge: time.Hour, Log: testkit.Log(t)}); err != nil {
			t.Fatal(err)
		}
		if o.Tokens, err = auth.OpenTokens(auth.TokensOptions{File: file, Keys: o.Keys, URL: o.PublicURL.String(), Log: testkit.Log(t)}); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	grant   = "urn:ietf:params:oauth:grant-type:token-exchange"
	idToken = "urn:ietf:params:oauth:token-type:id_token"
)

// exchange asks for a token.
func (p *platform) exchange(t *testing.T, form url.Values) (status int, answer map[string]any) {
	t.Helper()
	resp, err := http.PostForm(p.url+"/oauth/token", form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &answer); err != nil || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%s: %q, %v, %v", resp.Status, text, err, resp.Header)
	}
	return resp.StatusCode, answer
}

// The requests of this test are those of OpenFaaS's clients: an ID token is
// exchanged after a login, and a call that is answered 401 in the realm "IAM
// function invoke" is tried again with a function token, for which the first
// token is exchanged once more.
func TestClientsOfOpenFaaSLogInAndRetryWithAFunctionToken(t *testing.T) {
	i := startIssuer(t)
	p := start(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "called") }, issuing(t, i))
	p.deploy(t, "echo")

	status, answer := p.exchange(t, url.Values{"grant_type": {grant}, "subject_token": {i.logIn(t, "test-user2")}, "subject_token_type": {idToken}})
	apiToken, _ := answer["access_token"].(string)
	if status != 200 || answer["token_type"] != "Bearer" || answer["expires_in"] != 1800.0 || apiToken == "" {
		t.Fatalf("%d %v", status, answer)
	}
	if resp, text := p.as(t, "Bearer "+apiToken, "GET", "/system/functions"); resp.StatusCode != 200 {
		t.Errorf("list with an API token: %s %s", resp.Status, text)
	}
	if resp, text := p.as(t, "Bearer "+apiToken, "GET", "/system/secrets"); resp.StatusCode != 403 {
		t.Errorf("what the policy does not allow: %s %s", resp.Status, text)
	}

	resp, _ := p.as(t, "", "POST", "/function/echo.openfaas-fn")
	if realm := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != 401 || realm != "Bearer realm=IAM function invoke" {
		t.Fatalf("a call without a token: %s, %q", resp.Status, realm)
	}
	status, answer = p.exchange(t, url.Values{
		"grant_type": {grant}, "subject_token": {apiToken}, "subject_token_type": {idToken},
		"scope": {"function"}, "audience": {"openfaas-fn:echo", "openfaas-fn:other"},
	})
	functionToken, _ := answer["access_token"].(string)
	if status != 200 || answer["scope"] != "function" || functionToken == "" {
		t.Fatalf("%d %v", status, answer)
	}
	if resp, text := p.as(t, "Bearer "+functionToken, "POST", "/function/echo.openfaas-fn"); resp.StatusCode != 200 || text != "called" {
		t.Errorf("the call again: %s %s", resp.Status, text)
	}
	if resp, text := p.as(t, "Bearer "+functionToken, "GET", "/system/functions"); resp.StatusCode != 403 {
		t.Errorf("a function token at the management API: %s %s", resp.Status, text)
	}
}

func TestTokensThatCannotBeMadeAreRefusedAsOAuthDoes(t *testing.T) {
	i := startIssuer(t)
	p := start(t, func(http.ResponseWriter, *http.Request) {}, issuing(t, i))
	member, stranger := i.logIn(t, "test-user2"), i.logIn(t, "test-user@127.0.0.1")
	good := url.Values{"grant_type": {grant}, "subject_token": {member}, "subject_token_type": {idToken}}
	with := func(changes url.Values) url.Values {
		form := maps.Clone(good)
		maps.Copy(form, changes)
		return form
	}
	for name, tt := range map[string]struct {
		form       url.Values
		code, text string
	}{
		"no role":               {with(url.Values{"subject_token": {stranger}}), "invalid_request", "No policies found for subject: id1"},
		"no token":              {with(url.Values{"subject_token": nil}), "invalid_request", "not a JWT"},
		"an opaque one":         {with(url.Values{"subject_token": {i.opaque(t)}}), "invalid_request", ""},
		"damaged":               {with(url.Values{"subject_token": {member[:len(member)-4]}}), "invalid_request", "the token"},
		"two tokens":            {with(url.Values{"subject_token": {member, stranger}}), "invalid_request", "more than once"},
		"another grant":         {with(url.Values{"grant_type": {"password"}}), "unsupported_grant_type", "token-exchange"},
		"no grant":              {url.Values{}, "unsupported_grant_type", ""},
		"another kind of token": {with(url.Values{"subject_token_type": {"urn:ietf:params:oauth:token-type:saml2"}}), "invalid_request", "subject_token_type"},
		"in another's name":     {with(url.Values{"actor_token": {stranger}}), "invalid_request", "actor_token"},
		"for no function":       {with(url.Values{"scope": {"function"}}), "invalid_request", "audience"},
		"for many functions":    {with(url.Values{"scope": {"function"}, "audience": slices.Repeat([]string{"openfaas-fn:f"}, 101)}), "invalid_request", "100"},
		"for no such function":  {with(url.Values{"scope": {"function"}, "audience": {"openfaas-fn:*"}}), "invalid_request", "audience"},
		"for one too many":      {with(url.Values{"scope": {"function"}, "audience": {"openfaas-fn:a", "acme:a"}}), "invalid_target", "id2 may not do Function:Invoke on acme:a"},
		"by a stranger":         {with(url.Values{"subject_token": {stranger}, "scope": {"function"}, "audience": {"openfaas-fn:a"}}), "invalid_target", "id1 may not"},
		"very long":             {with(url.Values{"subject_token": {strings.Repeat("a", 100_000)}}), "invalid_request", "bytes"},
	} {
		status, answer := p.exchange(t, tt.form)
		text, _ := answer["error_description"].(string)
		if status != 400 || answer["error"] != tt.code || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %d %v, want %s and %q", name, status, answer, tt.code, tt.text)
		}
	}
	for _, kind := range []string{"", "application/json"} {
		resp, err := http.Post(p.url+"/oauth/token", kind, strings.NewReader(good.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 400 {
			t.Errorf("a body of kind %q: %s", kind, resp.Status)
		}
	}
	if resp, _ := p.as(t, "", "GET", "/oauth/token?"+good.Encode()); resp.StatusCode != 405 {
		t.Errorf("a token asked for in an address: %s", resp.Status)
	}
}

func TestThePlatformIsAnIssuerThatOthersCanBelieve(t *testing.T) {
	i := startIssuer(t)
	p := start(t, func(http.ResponseWriter, *http.Request) {}, issuing(t, i))
	_, answer := p.exchange(t, url.Values{"grant_type": {grant}, "subject_token": {i.logIn(t, "test-user2")}, "subject_token_type": {idToken}})
	raw, _ := answer["access_token"].(string)

	found, err := oidc.NewProvider(t.Context(), p.url)
	if err != nil {
		t.Fatal(err)
	}
	token, err := found.Verifier(&oidc.Config{ClientID: p.url, SupportedSigningAlgs: []string{"ES256"}}).Verify(t.Context(), raw)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := token.Claims(&claims); err != nil || token.Subject != "fed:id2" || claims["fed:iss"] != i.url {
		t.Errorf("%s, %v, %v", token.Subject, claims, err)
	}

	// Inside a cluster the platform has another name than outside.
	r, err := http.NewRequestWithContext(t.Context(), "GET", p.url+"/.well-known/openid-configuration", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "gateway.openfaas:8080"
	_, text := p.send(t, r)
	for _, want := range []string{`"issuer":"` + p.url + `"`, `"jwks_uri":"http://gateway.openfaas:8080/.well-known/jwks.json"`, `"token_endpoint":"` + p.url + `/oauth/token"`} {
		if !strings.Contains(text, want) {
			t.Errorf("asked inside: %s, want %s", text, want)
		}
	}
}

func TestThePublicAddressMustBeOne(t *testing.T) {
	for text, ok := range map[string]bool{
		"https://f.example.com": true, "http://127.0.0.1:8080": true, "https://x.org/faas": true,
		"": false, "f.example.com": false, "https://f.example.com/": false, "https://u:p@x": false, "ftp://x": false, "https://x?y": false,
	} {
		if _, err := gateway.ParsePublicURL(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}
