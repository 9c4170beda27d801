package gateway_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/gateway/metrics"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
)

// rulesOf lets id2 call the functions of one namespace, and look at them.
func rulesOf(i *issuer) string {
	return fmt.Sprintf(`
issuers:
  - {name: corp, iss: %q, aud: web}
policies:
  - name: call
    statement:
      - {sid: calls, effect: Allow, action: ["Function:Invoke", "Function:List"], resource: ["openfaas-fn:*"]}
roles:
  - {name: callers, policy: [call], principal: {"jwt:sub": id2}}
`, i.url)
}

// guard has a gateway trust an issuer.
func guard(t *testing.T, i *issuer) func(*gateway.Options) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "auth.yaml")
	if err := os.WriteFile(file, []byte(rulesOf(i)), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(o *gateway.Options) {
		o.IdentityMetrics = metrics.NewIdentity()
		var err error
		if o.Tokens, err = auth.OpenTokens(auth.TokensOptions{File: file, Meter: o.IdentityMetrics, Log: testkit.Log(t)}); err != nil {
			t.Fatal(err)
		}
	}
}

// as sends a request with an Authorization header.
func (p *platform) as(t *testing.T, authorization, method, uri string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.url+uri, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return p.send(t, r)
}

// publish deploys a function that anybody may call.
func (p *platform) publish(t *testing.T, name string) {
	t.Helper()
	annotations := map[string]string{function.AnnotationPublic: "true"}
	if err := p.client.Create(t.Context(), types.FunctionDeployment{Service: name, Image: "i", Annotations: &annotations}); err != nil {
		t.Fatal(err)
	}
	for !p.Knows(function.Ref{Name: name, Namespace: function.DefaultNamespace}) {
		if t.Context().Err() != nil {
			t.Fatal("the gateway does not learn of the function")
		}
	}
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}

func TestPeopleOfARealIssuerCallWhatTheirRoleAllows(t *testing.T) {
	i := startIssuer(t)
	var log testkit.Buffer
	p := start(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "called with %.6q", r.Header.Get("Authorization"))
	}, guard(t, i), func(o *gateway.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	p.deploy(t, "echo")
	p.publish(t, "open")
	member, stranger := "Bearer "+i.logIn(t, "test-user2"), "Bearer "+i.logIn(t, "test-user@127.0.0.1")
	admin := basic("admin", "s3cret")

	for _, tt := range []struct {
		who, authorization, method, uri string
		status                          int
		body, want                      string
	}{
		{"member", member, "GET", "/function/echo", 200, `called with "Bearer"`, ""},
		{"member", member, "POST", "/function/echo.openfaas-fn/path", 200, `called with "Bearer"`, ""},
		{"member", strings.Replace(member, "Bearer", "bearer", 1), "GET", "/function/echo", 200, `called with "bearer"`, ""},
		{"member", member, "GET", "/function/none", 404, "error finding function none.openfaas-fn: not deployed", ""},
		{"member", member, "GET", "/function/none.elsewhere", 403, "id2 may not do Function:Invoke on elsewhere:none", ""},
		{"member", member, "GET", "/system/functions", 200, "[", ""},
		{"member", member, "DELETE", "/system/functions", 400, "", ""},
		{"member", member, "GET", "/system/secrets", 403, "id2 may not do Secret:List on openfaas-fn:*", ""},
		{"member as a password", basic("token", strings.TrimPrefix(member, "Bearer ")), "GET", "/system/functions", 200, "[", ""},
		{"stranger", stranger, "GET", "/function/echo", 403, "id1 may not do Function:Invoke on openfaas-fn:echo", ""},
		{"stranger", stranger, "GET", "/function/none", 403, "id1 may not do Function:Invoke on openfaas-fn:none", ""},
		{"stranger", stranger, "GET", "/system/functions", 403, "id1 may not do Function:List on openfaas-fn:*", ""},
		{"stranger", stranger, "GET", "/function/open", 200, `called with "Bearer"`, ""},
		{"nobody", "", "GET", "/function/open", 200, `called with ""`, ""},
		{"somebody known to the function alone", "Basic eDp5", "GET", "/function/open", 200, `called with "Basic "`, ""},
		{"nobody", "", "GET", "/function/echo", 401, "invalid credentials", `Bearer realm=IAM function invoke`},
		{"nobody", "", "OPTIONS", "/function/echo", 401, "invalid credentials", `Bearer realm=IAM function invoke`},
		{"nobody", "", "GET", "/function/none", 401, "invalid credentials", `Bearer realm=IAM function invoke`},
		{"nobody", "", "GET", "/system/functions", 401, "invalid credentials", `Basic realm="Restricted"`},
		{"a wrong password", basic("admin", "wrong"), "GET", "/function/echo", 401, "invalid credentials", `Bearer realm=IAM function invoke`},
		{"a token for the issuer alone", "Bearer " + i.opaque(t), "GET", "/function/echo", 401, "the token is encrypted", `Bearer realm=IAM function invoke`},
		{"an opaque token", "Bearer 2YotnFZFEjr1zCsicMWpAA", "GET", "/system/functions", 401, "the token is not a JWT", `Basic realm="Restricted"`},
		{"half a token", member[:len(member)/2], "GET", "/function/echo", 401, "the token is not a JWT", `Bearer realm=IAM function invoke`},
		// The platform's own password is none of the function's business.
		{"administrator", admin, "GET", "/function/echo", 200, `called with ""`, ""},
		{"administrator", admin, "GET", "/system/secrets", 200, "[", ""},
	} {
		resp, body := p.as(t, tt.authorization, tt.method, tt.uri)
		if resp.StatusCode != tt.status || !strings.HasPrefix(body, tt.body) || resp.Header.Get("WWW-Authenticate") != tt.want {
			t.Errorf("%s, %s %s: %d %q, asked for %q; want %d %q, %q", tt.who, tt.method, tt.uri, resp.StatusCode, body, resp.Header.Get("WWW-Authenticate"), tt.status, tt.body, tt.want)
		}
	}
	p.do(t, "DELETE", "/system/functions", `{"functionName":"open"}`)
	_, page := p.as(t, "", "GET", "/healthz") // open to everybody
	if page != "OK" {
		t.Errorf("health: %q", page)
	}
	for _, line := range []string{
		"caller=corp/id1 from=127.0.0.1:", `action=Function:Invoke resource=openfaas-fn:echo`, "reason=\"id1 may not do Function:Invoke on openfaas-fn:echo\"",
		"caller=admin action=Function:Delete resource=openfaas-fn:open allowed=true rule=administrator",
		"caller=corp/id1 action=Function:List resource=openfaas-fn:* allowed=false",
	} {
		if !strings.Contains(log.String(), line) {
			t.Errorf("the log does not hold %q", line)
		}
	}
	for _, secret := range []string{"s3cret", strings.Split(member, ".")[1], strings.Split(stranger, ".")[2]} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log holds the secret %q", secret)
		}
	}
	r, _ := http.NewRequestWithContext(t.Context(), "GET", p.metricsURL+"/metrics", nil)
	if _, body := p.send(t, r); !strings.Contains(body, `gateway_auth_issuer_up{issuer="corp"} 1`) || !strings.Contains(body, `gateway_auth_rules_valid 1`) {
		t.Error("the metrics do not tell of the issuer")
	}
}

func TestCallersCanAskWhatTheyMayDo(t *testing.T) {
	i := startIssuer(t)
	p := start(t, nothing, guard(t, i))
	p.publish(t, "open")
	member := "Bearer " + i.logIn(t, "test-user2")
	for _, tt := range []struct{ authorization, action, resource, want string }{
		{member, "Function:Invoke", "openfaas-fn:echo", `"allowed":true,"reason":"role callers, policy call, statement calls"`},
		{member, "Function:Delete", "openfaas-fn:echo", `"allowed":false,"reason":"id2 may not do Function:Delete on openfaas-fn:echo"`},
		{member, "Function:Fly", "openfaas-fn:echo", `"allowed":false,"reason":"\"Function:Fly\" is no action"`},
		{"Bearer " + i.logIn(t, "test-user@127.0.0.1"), "Function:Invoke", "openfaas-fn:open", `"allowed":true,"reason":"the function is public"`},
		{basic("admin", "s3cret"), "System:Info", "*", `{"caller":"admin","action":"System:Info","resource":"*","allowed":true,"reason":"administrator"}`},
	} {
		resp, body := p.as(t, tt.authorization, "GET", "/system/can-i?action="+tt.action+"&resource="+tt.resource)
		if resp.StatusCode != 200 || !strings.Contains(body, tt.want) {
			t.Errorf("%s on %s: %d %s, want %s", tt.action, tt.resource, resp.StatusCode, body, tt.want)
		}
	}
}

func TestAsynchronousCallsAreAllowedWhenTheyAreAccepted(t *testing.T) {
	i := startIssuer(t)
	seen := make(chan http.Header, 10)
	counted := metrics.NewQueue()
	q, err := async.Open(t.Context(), natstest.Start(t), async.Options{Meter: counted, Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, func(_ http.ResponseWriter, r *http.Request) { seen <- r.Header }, guard(t, i), func(o *gateway.Options) { o.Queue, o.QueueMetrics = q, counted })
	worker(t, q, &auth.Transport{Header: "Proxy-Authorization", User: "admin", Password: "s3cret", Next: inProcess(p)})
	p.deploy(t, "echo")
	p.publish(t, "open")
	member, stranger := "Bearer "+i.logIn(t, "test-user2"), "Bearer "+i.logIn(t, "test-user@127.0.0.1")

	var ids []string
	for _, tt := range []struct {
		authorization, uri string
		status             int
	}{
		{"", "/async-function/echo", 401},
		{"", "/async-function/none", 401},
		{"", "/async-batch/echo", 401},
		{stranger, "/async-function/echo", 403},
		{stranger, "/async-function/none", 403},
		{stranger, "/async-batch/echo", 403},
		{member, "/async-function/none", 404},
		{"", "/async-function/open", 202},
		{member, "/async-function/echo", 202},
		{basic("admin", "s3cret"), "/async-function/echo", 202},
	} {
		resp, body := p.as(t, tt.authorization, "POST", tt.uri)
		if resp.StatusCode != tt.status {
			t.Errorf("%.10q %s: %d %q, want %d", tt.authorization, tt.uri, resp.StatusCode, body, tt.status)
		}
		if resp.StatusCode == 401 && resp.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s does not say what is wanted", tt.uri)
		}
		if resp.StatusCode == 202 {
			ids = append(ids, resp.Header.Get("X-Call-Id"))
		}
	}
	for _, id := range ids {
		call, err := p.client.LaterCall(t.Context(), id, time.Minute)
		if err != nil || call.State != "done" || call.Status != 200 {
			t.Errorf("call %s: %+v, %v", id, call, err)
		}
		h := <-seen
		if h.Get("Proxy-Authorization") != "" || strings.HasPrefix(h.Get("Authorization"), "Basic") {
			t.Errorf("the function sees the platform's credentials: %v", h)
		}
	}
	echoed := ids[len(ids)-1]
	for authorization, want := range map[string]int{"": 401, stranger: 403, member: 200} {
		if resp, body := p.as(t, authorization, "GET", "/async-function/"+echoed); resp.StatusCode != want {
			t.Errorf("what became of the call, %.10q: %d %q, want %d", authorization, resp.StatusCode, body, want)
		}
	}
	// Only the worker's proof opens the door it uses.
	for name, set := range map[string]func(http.Header){
		"the mark alone":  func(h http.Header) { h.Set(invoke.HeaderQueued, "1") },
		"the proof alone": func(h http.Header) { h.Set("Proxy-Authorization", basic("admin", "s3cret")) },
		"a wrong proof": func(h http.Header) {
			h.Set(invoke.HeaderQueued, "1")
			h.Set("Proxy-Authorization", basic("admin", "x"))
		},
		"somebody else's proof":  func(h http.Header) { h.Set(invoke.HeaderQueued, "1"); h.Set("Proxy-Authorization", stranger) },
		"a token as the proof":   func(h http.Header) { h.Set(invoke.HeaderQueued, "1"); h.Set("Proxy-Authorization", member) },
		"no credentials, a mark": func(h http.Header) { h[invoke.HeaderQueued] = []string{"1"}; h["Proxy-Authorization"] = []string{""} },
	} {
		r, _ := http.NewRequestWithContext(t.Context(), "POST", p.url+"/function/echo", nil)
		set(r.Header)
		if resp, _ := p.send(t, r); resp.StatusCode != 401 {
			t.Errorf("%s: %d, want 401", name, resp.StatusCode)
		}
	}
}

func TestACallbackIsAllowedNothing(t *testing.T) {
	i := startIssuer(t)
	called := make(chan string, 10)
	counted := metrics.NewQueue()
	q, err := async.Open(t.Context(), natstest.Start(t), async.Options{Meter: counted, Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, func(w http.ResponseWriter, r *http.Request) {
		called <- r.URL.Path
		// What the function answers with becomes the callback's headers.
		w.Header().Set(invoke.HeaderQueued, "1")
		io.WriteString(w, "x")
	}, guard(t, i), func(o *gateway.Options) { o.Queue, o.QueueMetrics = q, counted })
	refused := make(chan int, 10)
	next := inProcess(p)
	worker(t, q, roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := (&auth.Transport{Header: "Proxy-Authorization", User: "admin", Password: "s3cret", Next: next}).RoundTrip(r)
		if err == nil && r.URL.Path == "/function/echo/victim" {
			refused <- resp.StatusCode
		}
		return resp, err
	}))
	p.deploy(t, "echo")
	p.publish(t, "open")
	r, _ := http.NewRequestWithContext(t.Context(), "POST", p.url+"/async-function/open/first", nil)
	r.Header.Set("X-Callback-Url", "http://gateway:8080/function/echo/victim")
	if resp, body := p.send(t, r); resp.StatusCode != 202 {
		t.Fatalf("%d %q", resp.StatusCode, body)
	}
	if got := <-refused; got != 401 {
		t.Errorf("the callback to a function that is not public: %d, want 401", got)
	}
	if got := <-called; got != "/first" || len(called) > 0 {
		t.Errorf("called %q", got)
	}
}
