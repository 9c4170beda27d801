package gateway_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/api"
	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
	"github.com/graphene-faas/graphene/internal/web"
	"github.com/graphene-faas/graphene/provider"
	"github.com/graphene-faas/graphene/provider/runtimetest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// A platform is a gateway and a provider in front of replicas that a test
// plays.
type platform struct {
	*gateway.Gateway
	url, metricsURL string
	runtime         *runtimetest.Fake
	client          *client.Client // of the administrator
	stop            func() error   // ends it and returns what Run returned
}

// newRuntime returns a runtime whose functions are ready at address as soon as
// they are deployed.
func newRuntime(address string) *runtimetest.Fake {
	f := runtimetest.NewFake(address)
	f.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	f.Says = func(types.FunctionDeployment) []string { return []string{"Forking fprocess", "Wrote 5 Bytes"} }
	return f
}

// start runs a platform whose functions are all handler.
func start(t *testing.T, handler http.HandlerFunc, adjust ...func(*gateway.Options)) *platform {
	t.Helper()
	replica := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/_/") {
			return // healthy and ready
		}
		handler(w, r)
	}))
	t.Cleanup(replica.Close)
	runtime := newRuntime("tcp:" + strings.TrimPrefix(replica.URL, "http://"))
	server := provider.New(provider.Options{
		Runtime: runtime, Secrets: runtime, Logs: runtime, Namespaces: runtime,
		Info: types.ProviderInfo{Name: "fake", Orchestration: "none", Version: &types.VersionInfo{Release: "1", SHA: "2"}},
		Log:  testkit.Log(t),
	})
	o := gateway.Options{
		Listener:        listen(t),
		MetricsListener: listen(t),
		Provider:        web.InProcess(server.Handler()),
		Authenticator:   auth.NewBasic("admin", "s3cret"),
		Version:         types.VersionInfo{Release: "0.1.0", SHA: "abc"},
		Target: func(context.Context) (function.Target, error) {
			return function.Target{OS: "linux", Arch: "amd64", Python: "cp311", Libc: "glibc"}, nil
		},
		Drain: time.Hour,
		Log:   testkit.Log(t),
	}
	for _, f := range adjust {
		f(&o)
	}
	p := &platform{Gateway: gateway.New(o), url: "http://" + o.Listener.Addr().String(), runtime: runtime}
	if o.MetricsListener != nil {
		p.metricsURL = "http://" + o.MetricsListener.Addr().String()
	}
	var err error
	if p.client, err = client.New(client.Options{URL: p.url, User: "admin", Password: "s3cret"}); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	watch, stopWatch := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	ended := make(chan error, 1)
	running.Go(func() { _ = server.Run(watch) })
	running.Go(func() { ended <- p.Run(ctx) })
	p.stop = sync.OnceValue(func() error {
		cancel()
		err := <-ended
		stopWatch()
		running.Wait()
		return err
	})
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := p.stop(); err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	p.awaitReady(t)
	return p
}

// awaitReady returns once the gateway knows the functions.
func (p *platform) awaitReady(t *testing.T) {
	t.Helper()
	for p.client.Healthy(t.Context()) != nil {
		if t.Context().Err() != nil {
			t.Fatal("the platform does not get ready")
		}
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func nothing(http.ResponseWriter, *http.Request) {}

// do sends a request as the administrator. The answer's body is read.
func (p *platform) do(t *testing.T, method, uri, body string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, p.url+uri, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.SetBasicAuth("admin", "s3cret")
	return p.send(t, r)
}

func (p *platform) send(t *testing.T, r *http.Request) (*http.Response, string) {
	t.Helper()
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, string(text)
}

// openRoutes answer callers nobody knows; the second list is for installations
// that trust no issuer, where functions are open.
var (
	openRoutes      = []string{"/", "/healthz", "/auth/config", "/auth/login", "/auth/callback", "/auth/logout", "/auth/logged-out"}
	openWithoutOIDC = []string{"/function/", "/async-function/", "/async-batch/"}
)

func TestEveryRouteButAFewRefusesCallersNobodyKnows(t *testing.T) {
	q, err := async.Open(t.Context(), natstest.Start(t), async.Options{Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	everything := func(o *gateway.Options) {
		o.Queue = q
		o.Registry = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s %s got through", r.Method, r.URL) })
	}
	i := startIssuer(t)
	unsigned := "eyJhbGciOiJub25lIn0." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"iss":%q,"sub":"admin","aud":"web","exp":9999999999}`, i.url)) + "."
	credentials := map[string]func(*http.Request){
		"none":                  func(*http.Request) {},
		"a wrong password":      func(r *http.Request) { r.SetBasicAuth("admin", "wrong") },
		"an empty password":     func(r *http.Request) { r.SetBasicAuth("admin", "") },
		"another kind of token": func(r *http.Request) { r.Header.Set("Authorization", "Bearer s3cret") },
		"an unsigned token":     func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+unsigned) },
		"a mark of the queue":   func(r *http.Request) { r.Header.Set(invoke.HeaderQueued, "1") },
	}
	for name, tt := range map[string]struct {
		adjust []func(*gateway.Options)
		open   []string
	}{
		"passwords alone": {[]func(*gateway.Options){everything}, append(openWithoutOIDC, openRoutes...)},
		"and an issuer":   {[]func(*gateway.Options){everything, guard(t, i)}, openRoutes},
		"and its own tokens": {[]func(*gateway.Options){everything, issuing(t, i)}, slices.Concat(openRoutes,
			[]string{"/.well-known/openid-configuration", "/.well-known/jwks.json", "/oauth/token"})},
	} {
		t.Run(name, func(t *testing.T) {
			p := start(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("%s %s got through", r.Method, r.URL) }, tt.adjust...)
			p.deploy(t, "echo")
			routes := p.refusedRoutes(t, tt.open)
			for _, route := range routes {
				method, path, _ := strings.Cut(route, " ")
				for name, set := range credentials {
					r, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader("{}"))
					if err != nil {
						t.Fatal(err)
					}
					set(r)
					resp, body := p.send(t, r)
					want := `Basic realm="Restricted"`
					if strings.Contains(path, "function/echo") && !strings.HasPrefix(path, "/system") || strings.HasPrefix(path, "/async-batch/") || path == "/auth/verify" || path == "/auth/me" {
						want = "Bearer realm=IAM function invoke"
					}
					if resp.StatusCode != 401 || resp.Header.Get("WWW-Authenticate") != want {
						t.Errorf("%s with %s: %d, %v", route, name, resp.StatusCode, resp.Header)
					}
					if method != "HEAD" && !strings.HasPrefix(body, "invalid credentials") && !strings.HasPrefix(body, "the token is") {
						t.Errorf("%s with %s: body %q", route, name, body)
					}
				}
			}
		})
	}
}

// refusedRoutes lists every route but those in open, as "METHOD PATH" of a
// request that it serves.
func (p *platform) refusedRoutes(t *testing.T, open []string) []string {
	t.Helper()
	var routes []string
	err := p.Walk(func(route *mux.Route, _ *mux.Router, _ []*mux.Route) error {
		path, err := route.GetPathTemplate()
		if err != nil || slices.Contains(open, path) {
			return err
		}
		methods, err := route.GetMethods()
		switch {
		case strings.HasPrefix(path, "/async-"):
			methods = []string{"POST"} // what others ask about is known by the call, if there is one
		case err != nil:
			methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} // takes any
		}
		if slices.Contains(openWithoutOIDC, path) {
			path += "echo"
		}
		path = strings.NewReplacer("{name}", "echo", "{namespace}", "fn", "{id}", "x", "{queue}", "x").Replace(path)
		for _, method := range methods {
			routes = append(routes, method+" "+path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(routes) < 30 {
		t.Fatalf("only %d routes were found: %q", len(routes), routes)
	}
	return append(routes, "GET /system/", "GET /system/no-such-thing", "PATCH /system/functions", "GET /v2/", "PUT /v2/echo/manifests/latest")
}

func TestTheReferencePageListsTheRoutesOfTheManagementAPI(t *testing.T) {
	known := map[string]bool{}
	for _, a := range iam.Actions() {
		known[string(a)] = true
	}
	var page strings.Builder
	page.WriteString(`# The management API

Generated from the route table by the tests of package ` + "`gateway`" + ` (` + "`-update`" + `
rewrites this page). Requests and answers are those of OpenFaaS: the types of
` + "`github.com/openfaas/faas-provider`" + `. Every route needs credentials and the right to
the action in the last column, which an administrator has. A namespace can be named by
the query parameter ` + "`namespace`" + `, by the body's field of that name, or behind a
function's name in the path (` + "`NAME.NAMESPACE`" + `); places that disagree are refused.

| method | path | action |
|---|---|---|
`)
	routes := api.New(api.Options{}).Routes()
	for _, r := range routes {
		if !known[r.Action] {
			t.Errorf("%s %s needs %q, which is no action", r.Method, r.Path, r.Action)
		}
		fmt.Fprintf(&page, "| %s | `%s` | `%s` |\n", r.Method, r.Path, r.Action)
	}
	for _, r := range async.NewAPI(async.APIOptions{}).Routes() {
		if !known[r.Action] {
			t.Errorf("%s %s needs %q, which is no action", r.Method, r.Path, r.Action)
		}
		fmt.Fprintf(&page, "| %s | `%s` | `%s` |\n", r.Method, r.Path, r.Action)
	}
	fmt.Fprintf(&page, "| GET | `%s` | `%s` |\n", "/system/usage", iam.SystemUsage)
	fmt.Fprintf(&page, "| GET | `%s` | none |\n", "/system/can-i")
	page.WriteString(`
The routes about calls and queues, and those under ` + "`/async-function/`" + ` and
` + "`/async-batch/`" + `, are described with [the queue](queue.md).

` + "`/system/can-i?action=ACTION&resource=NAMESPACE:FUNCTION`" + ` answers whether the caller may do
something, and by which rule: ` + "`{\"caller\", \"action\", \"resource\", \"allowed\", \"reason\"}`" + `.

` + "`/system/usage?from=DAY&to=DAY&by=day,caller,function`" + ` answers who used what: see
[limits and usage](../guide/edge.md#who-used-what).

` + "`/auth/verify`" + ` answers a proxy whether a request may pass, and who sent it: see
[other applications](../guide/edge.md#other-applications-behind-the-same-proxy).

Open to everybody: ` + "`GET /healthz`" + `, ` + "`GET /`" + `, and where no issuer is configured also
` + "`/function/NAME[.NAMESPACE]/…`, `/async-function/…` and `/async-batch/…`" + `. With one these need a
caller with the action ` + "`Function:Invoke`" + `, unless the function is annotated as public: see the
[guide to identity](../guide/identity.md).
` + "`/v2/…`" + ` is the OCI registry, where there is one; reading it needs
` + "`Function:Get`" + `, writing ` + "`Function:Create`" + `.
`)
	testkit.Golden(t, "../docs/reference/api.md", []byte(page.String()))
}

func TestWithoutAnAuthenticatorNobodyMayDoAnything(t *testing.T) {
	p := start(t, nothing, func(o *gateway.Options) { o.Authenticator = nil })
	if resp, _ := p.do(t, "GET", "/system/functions", ""); resp.StatusCode != 401 {
		t.Errorf("status %d, want 401", resp.StatusCode)
	}
	p = start(t, nothing, func(o *gateway.Options) { o.Authenticator = auth.Open{} })
	r, _ := http.NewRequestWithContext(t.Context(), "GET", p.url+"/system/functions", nil)
	if resp, _ := p.send(t, r); resp.StatusCode != 200 {
		t.Errorf("switched off: status %d, want 200", resp.StatusCode)
	}
}

type authenticator func(*http.Request) (auth.Caller, error)

func (f authenticator) Authenticate(r *http.Request) (auth.Caller, error) { return f(r) }

func TestACallerWhoCannotBeFoundOutIsNotACallerWhoIsUnknown(t *testing.T) {
	p := start(t, nothing, func(o *gateway.Options) {
		o.Authenticator = authenticator(func(*http.Request) (auth.Caller, error) {
			return auth.Caller{}, fault.Unavailable.Errorf("the issuer does not answer")
		})
	})
	if resp, body := p.do(t, "GET", "/system/functions", ""); resp.StatusCode != 503 || body != "the issuer does not answer\n" {
		t.Errorf("%d %q, want 503", resp.StatusCode, body)
	}
}

func TestPagesOfOtherOriginsChangeNothing(t *testing.T) {
	p := start(t, nothing)
	for _, tt := range []struct {
		method, site string
		status       int
	}{
		{"POST", "", 202},
		{"PUT", "same-origin", 202},
		{"PUT", "cross-site", 403},
		{"PUT", "same-site", 403},
		{"DELETE", "cross-site", 403},
		{"GET", "cross-site", 200},
	} {
		r, _ := http.NewRequestWithContext(t.Context(), tt.method, p.url+"/system/functions", strings.NewReader(`{"service":"echo","functionName":"echo","image":"i"}`))
		r.SetBasicAuth("admin", "s3cret")
		if tt.site != "" {
			r.Header.Set("Sec-Fetch-Site", tt.site)
		}
		if resp, body := p.send(t, r); resp.StatusCode != tt.status {
			t.Errorf("%s from %q: %d %q, want %d", tt.method, tt.site, resp.StatusCode, body, tt.status)
		}
	}
}

func TestPathsAreTakenAsTheyAreAndVerbsStrictly(t *testing.T) {
	p := start(t, nothing)
	for _, tt := range []struct {
		method, uri string
		status      int
		body        string
	}{
		{"GET", "/nowhere", 404, "404 page not found\n"},
		{"GET", "/system/nowhere", 404, "404 page not found\n"},
		{"GET", "//system/functions", 404, "404 page not found\n"},
		{"GET", "/%73ystem/functions", 404, "404 page not found\n"},
		{"GET", "/v2/", 404, "404 page not found\n"},
		{"POST", "/async-function/echo", 404, "404 page not found\n"},
		{"PATCH", "/system/functions", 405, ""},
		{"HEAD", "/system/functions", 405, ""},
		{"POST", "/healthz", 405, ""},
		{"HEAD", "/healthz", 200, ""},
		{"GET", "/healthz", 200, "OK"},
		{"GET", "/system/function/a%2Fb", 400, "function name \"a%2Fb\" must be lower-case letters, digits and inner dashes\n"},
	} {
		resp, body := p.do(t, tt.method, tt.uri, "")
		if resp.StatusCode != tt.status || body != tt.body {
			t.Errorf("%s %s: %d %q, want %d %q", tt.method, tt.uri, resp.StatusCode, body, tt.status, tt.body)
		}
	}
	if resp, body := p.do(t, "GET", "/", ""); resp.StatusCode != 200 || !strings.Contains(body, "Graphene 0.1.0") {
		t.Errorf("GET /: %d %q", resp.StatusCode, body)
	}
}

func TestTheRegistryIsForThoseWhoMayDeploy(t *testing.T) {
	p := start(t, nothing, func(o *gateway.Options) {
		o.Registry = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Method+" "+r.RequestURI) })
	})
	if resp, body := p.do(t, "PUT", "/v2/a/b/manifests/x?y=1", ""); resp.StatusCode != 200 || body != "PUT /v2/a/b/manifests/x?y=1" {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
}

func TestAGatewayIsHealthyOnceItKnowsTheFunctionsAndUntilItStops(t *testing.T) {
	synced, away := make(chan struct{}), make(chan struct{})
	ln := listen(t)
	g := gateway.New(gateway.Options{
		Listener: ln,
		Provider: web.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-away:
				w.WriteHeader(http.StatusBadGateway)
				return
			case <-synced:
			case <-r.Context().Done():
				return
			}
			io.WriteString(w, `{"epoch":"1","synced":true,"reset":true}`)
			http.NewResponseController(w).Flush()
			select {
			case <-away:
			case <-r.Context().Done():
			}
		})),
		ShutdownDelay: time.Hour,
		Log:           testkit.Log(t),
	})
	health := func() string {
		w := httptest.NewRecorder()
		g.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/healthz", nil))
		return fmt.Sprint(w.Code, " ", w.Body)
	}
	become := func(want string) {
		t.Helper()
		for health() != want {
			if t.Context().Err() != nil {
				t.Fatalf("health is %q, want %q", health(), want)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- g.Run(ctx) }()
	if got := health(); !strings.HasPrefix(got, "503 the gateway does not know the functions yet") {
		t.Errorf("before the functions are known: %q, want 503", got)
	}
	close(synced)
	become("200 OK")
	close(away) // calls go on to the replicas that are known
	if got := health(); got != "200 OK" {
		t.Errorf("while the provider is away: %q, want 200", got)
	}
	cancel()
	become("503 the gateway is stopping\n")
	select {
	case err := <-ended:
		t.Fatalf("Run = %v before the delay was over", err)
	default:
	}
	ln.Close() // what ends the test before the hour is over
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run = %v", err)
	}
}

func TestMetricsHaveAListenerOfTheirOwn(t *testing.T) {
	p := start(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	p.deploy(t, "echo")
	p.do(t, "GET", "/function/echo", "")
	p.do(t, "GET", "/system/functions", "")
	r, _ := http.NewRequestWithContext(t.Context(), "GET", p.metricsURL+"/metrics", nil)
	_, body := p.send(t, r)
	for _, line := range []string{
		`gateway_function_invocation_total{code="418",function_name="echo.openfaas-fn"} 1`,
		`gateway_function_invocation_started{function_name="echo.openfaas-fn"} 1`,
		`gateway_service_count{function_name="echo.openfaas-fn"} 1`,
		`gateway_service_ready_count{function_name="echo.openfaas-fn"} 1`,
		`http_requests_total{method="GET",path="/system/functions",status="200"} 1`,
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("metrics do not hold %s", line)
		}
	}
	for uri, want := range map[string]string{"/healthz": "OK", "/system/functions": "404 page not found\n"} {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", p.metricsURL+uri, nil)
		if _, body := p.send(t, r); body != want {
			t.Errorf("%s of the metrics: %q, want %q", uri, body, want)
		}
	}
	if resp, _ := p.do(t, "GET", "/metrics", ""); resp.StatusCode != 404 {
		t.Errorf("metrics among the functions: %d, want 404", resp.StatusCode)
	}
	if err := p.client.Remove(t.Context(), function.Ref{Name: "echo", Namespace: function.DefaultNamespace}); err != nil {
		t.Fatal(err)
	}
	for strings.Contains(body, "echo.openfaas-fn") {
		r, _ := http.NewRequestWithContext(t.Context(), "GET", p.metricsURL+"/metrics", nil)
		_, body = p.send(t, r)
	}
}

// deploy makes a function, and returns once it can be called.
func (p *platform) deploy(t *testing.T, name string) {
	t.Helper()
	if err := p.client.Deploy(t.Context(), types.FunctionDeployment{Service: name, Image: "image"}); err != nil {
		t.Fatal(err)
	}
	for ref := (function.Ref{Name: name, Namespace: function.DefaultNamespace}); !p.Knows(ref); {
		if t.Context().Err() != nil {
			t.Fatalf("the gateway does not learn of %s", ref)
		}
	}
}

func TestCallsThatAreTooLongAreRefused(t *testing.T) {
	var got int64
	p := start(t, func(_ http.ResponseWriter, r *http.Request) { got, _ = io.Copy(io.Discard, r.Body) }, func(o *gateway.Options) { o.MaxBody = 10 })
	p.deploy(t, "echo")
	if resp, _ := p.do(t, "POST", "/function/echo", "0123456789"); resp.StatusCode != 200 || got != 10 {
		t.Errorf("at the limit: %d, function got %d bytes", resp.StatusCode, got)
	}
	for name, body := range map[string]io.Reader{
		"said in advance": strings.NewReader("01234567890"),
		"not said":        io.MultiReader(strings.NewReader("01234"), strings.NewReader("567890")),
	} {
		r, _ := http.NewRequestWithContext(t.Context(), "POST", p.url+"/function/echo", body)
		resp, text := p.send(t, r)
		if resp.StatusCode != 413 || text != "request body exceeds 10 bytes\n" || resp.Header.Get(web.HeaderInternal) != "gateway" {
			t.Errorf("%s: %d %q %v", name, resp.StatusCode, text, resp.Header)
		}
	}
}

func TestRunDrainsCallsAndThenEverythingBehindThem(t *testing.T) {
	arrived, finish := make(chan struct{}), make(chan struct{})
	p := start(t, func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-finish
		io.WriteString(w, "whole")
	})
	p.deploy(t, "slow")
	answer := make(chan string)
	go func() {
		resp, err := p.client.Invoke(t.Context(), client.Call{Function: function.Ref{Name: "slow"}})
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		answer <- string(body)
		if err != nil {
			t.Error(err)
		}
	}()
	<-arrived
	ended := make(chan error)
	go func() { ended <- p.stop() }()
	for {
		if err := p.client.Healthy(t.Context()); errors.Is(err, fault.Unavailable) {
			break // stopped accepting
		}
	}
	close(finish)
	if got := <-answer; got != "whole" {
		t.Errorf("the call in flight got %q", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run = %v", err)
	}
}

func TestAFollowedLogEndsWhenTheGatewayStops(t *testing.T) {
	p := start(t, nothing, func(o *gateway.Options) {
		inner := o.Provider
		o.Provider = roundTripper(func(r *http.Request) (*http.Response, error) {
			if !strings.HasPrefix(r.URL.Path, "/system/logs") {
				return inner.RoundTrip(r)
			}
			return web.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, `{"text":"one"}`+"\n")
				<-r.Context().Done()
			})).RoundTrip(r)
		})
	})
	r, _ := http.NewRequestWithContext(t.Context(), "GET", p.url+"/system/logs?name=echo&follow=1", nil)
	r.SetBasicAuth("admin", "s3cret")
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := p.stop(); err != nil {
		t.Errorf("Run = %v", err)
	}
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != `{"text":"one"}`+"\n" {
		t.Errorf("read %q, %v", body, err)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRunFailsWhenAListenerDoes(t *testing.T) {
	broken := listen(t)
	broken.Close()
	for name, o := range map[string]gateway.Options{
		"public":  {Listener: broken, MetricsListener: listen(t)},
		"metrics": {Listener: listen(t), MetricsListener: broken},
	} {
		o.Provider = web.InProcess(http.NotFoundHandler())
		o.Log = testkit.Log(t)
		if err := gateway.New(o).Run(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: Run = %v, want net.ErrClosed", name, err)
		}
	}
}

func TestConfigNamesWhatIsWrongWithIt(t *testing.T) {
	dir := t.TempDir()
	for want, c := range map[string]gateway.Config{
		"functions_provider_url": {ProviderURL: "nonsense", Listen: "127.0.0.1:0", MetricsListen: "none"},
		"read credentials":       {ProviderURL: "http://127.0.0.1:1", BasicAuth: true, SecretMountPath: dir, Listen: "127.0.0.1:0", MetricsListen: "none"},
		"listen":                 {ProviderURL: "http://127.0.0.1:1", Listen: "127.0.0.1:0", MetricsListen: "300.0.0.1:0"},
	} {
		if _, err := c.Options(testkit.Log(t), types.VersionInfo{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", c, err, want)
		}
	}
	if _, _, _, err := auth.EnsureCredentials(dir); err != nil {
		t.Fatal(err)
	}
	c := gateway.Config{ProviderURL: "http://127.0.0.1:1/base", BasicAuth: true, SecretMountPath: dir, Listen: "127.0.0.1:0", MetricsListen: "127.0.0.1:0", MaxBody: 5}
	o, err := c.Options(testkit.Log(t), types.VersionInfo{})
	if err != nil {
		t.Fatal(err)
	}
	o.Listener.Close()
	o.MetricsListener.Close()
	want := url.URL{Scheme: "http", Host: "127.0.0.1:1", Path: "/base"}
	if *o.ProviderURL != want || o.MaxBody != 5 {
		t.Errorf("Options = %+v", o)
	}
}

func TestCallsAreLoggedWhereThatIsWanted(t *testing.T) {
	for _, wanted := range []bool{false, true} {
		var out testkit.Buffer
		p := start(t, nothing, func(o *gateway.Options) {
			o.AccessLog = wanted
			o.Log = slog.New(slog.NewTextHandler(&out, nil))
		})
		p.deploy(t, "echo")
		r, _ := http.NewRequestWithContext(t.Context(), "GET", p.url+"/function/echo/path?secret=query", nil)
		r.Header.Set(web.HeaderCallID, "the-call")
		p.send(t, r)
		if err := p.stop(); err != nil {
			t.Fatal(err)
		}
		log := out.String()
		if got := strings.Contains(log, "method=GET path=/function/echo/path status=200 bytes=0") && strings.Contains(log, "call_id=the-call"); got != wanted {
			t.Errorf("wanted: %v, but the log holds\n%s", wanted, log)
		}
		if !strings.Contains(log, "method=PUT path=/system/functions status=404") || !strings.Contains(log, "caller=admin") {
			t.Errorf("the management API is not logged:\n%s", log)
		}
		for _, secret := range []string{"query", "s3cret", "/healthz"} {
			if strings.Contains(log, secret) {
				t.Errorf("the log holds %q", secret)
			}
		}
	}
}
