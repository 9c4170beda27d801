package identity

import (
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// token is one of the issuer's, for the program that may ask for it by itself.
func (i *issuer) token(t *testing.T) string {
	t.Helper()
	return formToken(t, i.url+"oauth/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {programClient}, "client_secret": {programSecret}, "scope": {"openid"},
	})
}

// functionToken exchanges a token for one that is good for calls of functions,
// each NAMESPACE:NAME.
func (p *platform) functionToken(token string, functions ...string) string {
	p.t.Helper()
	return formToken(p.t, p.url+"/oauth/token", url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {token},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "scope": {"function"}, "audience": functions,
	})
}

// apiToken exchanges a token for one that is good for the management API.
func (p *platform) apiToken(token string) string {
	p.t.Helper()
	return formToken(p.t, p.url+"/oauth/token", url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {token},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
	})
}

// TestFunctionsLookAtTokensThemselves deploys functions of each kind that has
// our watchdog look at tokens. All but one are public, so that the gateway lets
// everybody through and the watchdog alone decides.
func TestFunctionsLookAtTokensThemselves(t *testing.T) {
	i := startIssuer(t)
	p := serve(t, "issuers:"+strings.ReplaceAll(second(i), "DIR", ".")+fmt.Sprintf(`
policies:
  - name: call
    statement: [{sid: all, effect: Allow, action: ["Function:Invoke"], resource: ["openfaas-fn:*"]}]
roles:
  - {name: callers, policy: [call], principal: {"jwt:iss": %q, "jwt:sub": [sid1]}}
`, i.url))
	c := p.admin(t)
	for name, lang := range map[string]string{"linked": "go", "pool": "python3-http", "model": "python3-model", "classic": "python3", "private": "python3-http"} {
		c.run("new", name, "--lang", lang)
		text := fmt.Sprintf("version: 1.0\nprovider: {name: openfaas}\nfunctions:\n  %s:\n    lang: %s\n    handler: ./%s\n    image: %s:latest\n"+
			"    environment: {jwt_auth: \"true\", jwt_auth_gateway: %q}\n    annotations: {com.graphene.public: \"%t\"}\n", name, lang, name, name, p.url, name != "private")
		if err := os.WriteFile(filepath.Join(c.home, name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c.run("up", "-f", name+".yaml")
	}
	const body = `{"petal_length": 1.4, "petal_width": 0.2}` // which the example of python3-model understands
	token := i.token(t)
	for _, name := range []string{"linked", "pool", "model", "classic"} {
		t.Run(name, func(t *testing.T) {
			p := p.in(t)
			path := "/function/" + name
			good := p.functionToken(token, "openfaas-fn:"+name)
			for what, call := range map[string]struct {
				token  string
				status int
			}{
				"with a token for it":                {good, 200},
				"with a token for it and another":    {p.functionToken(token, "openfaas-fn:other", "openfaas-fn:"+name), 200},
				"with a token for another":           {p.functionToken(token, "openfaas-fn:other"), 403},
				"without a token":                    {"", 401},
				"with a token of the issuer's":       {token, 401},
				"with a token that was changed":      {good[:len(good)-4] + "AAAA", 401},
				"with what is no token":              {"nonsense", 401},
				"with a token of the platform's API": {p.apiToken(token), 403},
			} {
				a := p.ask(http.MethodPost, path, body, call.token)
				if a.status != call.status {
					t.Errorf("a call %s: %d %s, want %d", what, a.status, a.body, call.status)
				}
				if a.header.Get("X-Auth-Seconds") == "" {
					t.Errorf("a call %s: the watchdog did not decide", what)
				}
				if a.status == 401 && a.header.Get("WWW-Authenticate") != "Bearer realm=IAM function invoke" {
					t.Errorf("a call %s is asked for %q, which faas-cli does not know", what, a.header.Get("WWW-Authenticate"))
				}
			}
			// A call that runs later carries the token that it was submitted with.
			a := p.ask(http.MethodPost, "/async-function/"+name, body, good)
			if a.status != 202 {
				t.Fatalf("an asynchronous call: %d %s", a.status, a.body)
			}
			if a := p.ask(http.MethodGet, "/async-function/"+a.header.Get("X-Call-Id")+"/result?wait=60s", "", ""); a.status != 200 {
				t.Errorf("an asynchronous call: %d %s", a.status, a.body)
			}
		})
	}
	// Where the gateway looks too, it is the first who refuses.
	for token, want := range map[string]struct {
		status  int
		reaches bool
	}{
		p.functionToken(token, "openfaas-fn:private"): {200, true},
		p.functionToken(token, "openfaas-fn:other"):   {403, false},
		token: {401, true},
		"":    {401, false},
	} {
		if a := p.ask(http.MethodPost, "/function/private", "{}", token); a.status != want.status || (a.header.Get("X-Auth-Seconds") != "") != want.reaches {
			t.Errorf("a call of the one that is not public: %d %s %v, want %+v", a.status, a.body, a.header, want)
		}
	}
}
