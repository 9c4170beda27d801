package client_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// A peer answers what it is told to and remembers what it was asked.
type peer struct {
	*client.Client
	asked []string // "METHOD URI body"
	sent  http.Header
}

// newPeer answers every request with the next of answers, each "STATUS body",
// and then with the last.
func newPeer(t *testing.T, o client.Options, answers ...string) *peer {
	t.Helper()
	p := &peer{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.asked = append(p.asked, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+string(body)))
		p.sent = r.Header.Clone()
		var status int
		text := answers[min(len(p.asked), len(answers))-1]
		fmt.Sscan(text, &status)
		_, text, _ = strings.Cut(text, " ")
		w.WriteHeader(status)
		io.WriteString(w, text)
	}))
	t.Cleanup(srv.Close)
	o.URL = srv.URL
	var err error
	if p.Client, err = client.New(o); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRequestsAreThoseOpenFaaSClientsSend(t *testing.T) {
	ref := function.Ref{Name: "echo", Namespace: "fn"}
	since := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	for _, tt := range []struct {
		name   string
		call   func(context.Context, *client.Client) error
		answer string
		want   string
	}{
		{"list", func(ctx context.Context, c *client.Client) error { _, err := c.Functions(ctx, "fn"); return err }, "200 []", "GET /system/functions?namespace=fn"},
		{"list the default namespace", func(ctx context.Context, c *client.Client) error { _, err := c.Functions(ctx, ""); return err }, "200 []", "GET /system/functions"},
		{"describe", func(ctx context.Context, c *client.Client) error { _, err := c.Function(ctx, ref, true); return err }, "200 {}", "GET /system/function/echo?namespace=fn&usage=1"},
		{"create", func(ctx context.Context, c *client.Client) error {
			return c.Create(ctx, types.FunctionDeployment{Service: "echo", Image: "i", Namespace: "fn"})
		}, "202", `POST /system/functions {"service":"echo","image":"i","namespace":"fn"}`},
		{"update", func(ctx context.Context, c *client.Client) error {
			return c.Update(ctx, types.FunctionDeployment{Service: "echo", Image: "i"})
		}, "200", `PUT /system/functions {"service":"echo","image":"i"}`},
		{"remove", func(ctx context.Context, c *client.Client) error { return c.Remove(ctx, ref) }, "202", `DELETE /system/functions {"functionName":"echo","namespace":"fn"}`},
		{"scale", func(ctx context.Context, c *client.Client) error { return c.Scale(ctx, ref, 0) }, "202", `POST /system/scale-function/echo {"serviceName":"echo","replicas":0,"namespace":"fn"}`},
		{"list secrets", func(ctx context.Context, c *client.Client) error { _, err := c.Secrets(ctx, "fn"); return err }, "200 []", "GET /system/secrets?namespace=fn"},
		{"create a secret", func(ctx context.Context, c *client.Client) error {
			return c.CreateSecret(ctx, types.Secret{Name: "s", Namespace: "fn", RawValue: []byte("v")})
		}, "201", `POST /system/secrets {"name":"s","namespace":"fn","rawValue":"dg=="}`},
		{"update a secret", func(ctx context.Context, c *client.Client) error {
			return c.UpdateSecret(ctx, types.Secret{Name: "s", Value: "v"})
		}, "202", `PUT /system/secrets {"name":"s","value":"v"}`},
		{"remove a secret", func(ctx context.Context, c *client.Client) error { return c.RemoveSecret(ctx, "fn", "s") }, "202", `DELETE /system/secrets {"name":"s","namespace":"fn"}`},
		{"list namespaces", func(ctx context.Context, c *client.Client) error { _, err := c.Namespaces(ctx); return err }, "200 []", "GET /system/namespaces"},
		{"describe a namespace", func(ctx context.Context, c *client.Client) error { _, err := c.Namespace(ctx, "fn"); return err }, "200 {}", "GET /system/namespace/fn"},
		{"create a namespace", func(ctx context.Context, c *client.Client) error {
			return c.CreateNamespace(ctx, types.FunctionNamespace{Name: "fn"})
		}, "201", `POST /system/namespace/ {"name":"fn"}`},
		{"update a namespace", func(ctx context.Context, c *client.Client) error {
			return c.UpdateNamespace(ctx, types.FunctionNamespace{Name: "fn", Labels: map[string]string{"a": "b"}})
		}, "202", `PUT /system/namespace/fn {"name":"fn","labels":{"a":"b"}}`},
		{"remove a namespace", func(ctx context.Context, c *client.Client) error { return c.RemoveNamespace(ctx, "fn") }, "202", `DELETE /system/namespace/fn {"name":"fn"}`},
		{"a hostile name stays one element of the path", func(ctx context.Context, c *client.Client) error {
			_, err := c.Namespace(ctx, "../functions?x=1")
			return err
		}, "200 {}", "GET /system/namespace/..%2Ffunctions%3Fx=1"},
		{"health", func(ctx context.Context, c *client.Client) error { return c.Healthy(ctx) }, "200", "GET /healthz"},
		{"logs", func(ctx context.Context, c *client.Client) error {
			for _, err := range c.Logs(ctx, logs.Request{Name: "echo", Namespace: "fn", Tail: 5, Since: &since, Instance: "i", Follow: true}) {
				return err
			}
			return nil
		}, "200", "GET /system/logs?follow=true&instance=i&name=echo&namespace=fn&since=2026-05-01T12%3A00%3A00Z&tail=5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPeer(t, client.Options{}, tt.answer)
			if err := tt.call(t.Context(), p.Client); err != nil {
				t.Error(err)
			}
			if diff := cmp.Diff([]string{tt.want}, p.asked); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestDeployUpdatesAndCreatesOnlyWhatIsNotThere(t *testing.T) {
	d := types.FunctionDeployment{Service: "echo", Image: "i"}
	for _, tt := range []struct {
		answers []string
		verbs   string
		want    error
	}{
		{[]string{"202"}, "PUT", nil},
		{[]string{"404 no such function", "202"}, "PUT POST", nil},
		{[]string{"404 no such function", "409 exists", "202"}, "PUT POST PUT", nil}, // somebody else was faster
		{[]string{"400 bad image"}, "PUT", fault.Invalid},
	} {
		p := newPeer(t, client.Options{}, tt.answers...)
		err := p.Deploy(t.Context(), d)
		if !errors.Is(err, tt.want) {
			t.Errorf("%q: %v, want %v", tt.answers, err, tt.want)
		}
		var verbs []string
		for _, a := range p.asked {
			verb, _, _ := strings.Cut(a, " ")
			verbs = append(verbs, verb)
		}
		if got := strings.Join(verbs, " "); got != tt.verbs {
			t.Errorf("%q: sent %s, want %s", tt.answers, got, tt.verbs)
		}
	}
}

func TestErrorsCarryTheKindAndTheServersText(t *testing.T) {
	for answer, want := range map[string]fault.Kind{
		"400 replicas is missing\n": fault.Invalid,
		"404 no such function":      fault.NotFound,
		"409 secret exists":         fault.Exists,
		"403 not yours":             fault.Denied,
		"502 bad gateway":           fault.Unavailable,
		"503 starting":              fault.Unavailable,
		"418 teapot":                fault.Invalid,
		"500 boom":                  fault.Internal,
	} {
		p := newPeer(t, client.Options{User: "admin", Password: "x"}, answer)
		_, err := p.Info(t.Context())
		if _, text, _ := strings.Cut(answer, " "); !errors.Is(err, want) || err.Error() != strings.TrimSpace(text) {
			t.Errorf("%q: %v, want %v", answer, err, want)
		}
		if e, ok := errors.AsType[*client.Error](err); !ok || fmt.Sprint(e.Status) != answer[:3] {
			t.Errorf("%q: error %#v does not hold the status", answer, err)
		}
	}
}

func TestWithoutCredentialsTheErrorSaysHowToLogIn(t *testing.T) {
	p := newPeer(t, client.Options{}, "401 invalid credentials")
	_, err := p.Info(t.Context())
	if !errors.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), "graphene login") {
		t.Errorf("err = %v, want fault.Unauthenticated and the remedy", err)
	}
	p = newPeer(t, client.Options{User: "admin", Password: "wrong"}, "401 invalid credentials")
	if _, err := p.Info(t.Context()); err.Error() != "invalid credentials" {
		t.Errorf("err = %v, want the server's text", err)
	}
}

func TestCredentialsGoToThePlatformAndNotToFunctions(t *testing.T) {
	for want, o := range map[string]client.Options{
		"Basic YWRtaW46eA==": {User: "admin", Password: "x"},
		"Bearer abc":         {Token: "abc"},
		"":                   {},
	} {
		p := newPeer(t, o, "200 {}")
		if _, err := p.Info(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := p.sent.Get("Authorization"); got != want {
			t.Errorf("management: Authorization %q, want %q", got, want)
		}
		resp, err := p.Invoke(t.Context(), client.Call{Function: function.Ref{Name: "echo"}})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := p.sent.Get("Authorization"); got != "" {
			t.Errorf("function: Authorization %q, want none", got)
		}
	}
}

func TestInvokeSendsTheCallAsItIs(t *testing.T) {
	p := newPeer(t, client.Options{}, "418 short and stout")
	resp, err := p.Invoke(t.Context(), client.Call{
		Function: function.Ref{Name: "echo", Namespace: "fn"},
		Method:   http.MethodPut,
		Path:     "/a//b%2Fc",
		Query:    "x=1&y",
		Header:   http.Header{"X-Test": {"1"}},
		Body:     strings.NewReader("hello"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusTeapot || string(body) != "short and stout" {
		t.Errorf("answer %d %q", resp.StatusCode, body)
	}
	if diff := cmp.Diff([]string{"PUT /function/echo.fn/a//b%2Fc?x=1&y hello"}, p.asked); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if p.sent.Get("X-Test") != "1" {
		t.Errorf("header is lost: %v", p.sent)
	}
}

func TestARedirectOfAFunctionIsTheAnswer(t *testing.T) {
	srv := httptest.NewServer(http.RedirectHandler("/elsewhere", http.StatusFound))
	defer srv.Close()
	c, err := client.New(client.Options{URL: srv.URL + "/"})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.Invoke(t.Context(), client.Call{Function: function.Ref{Name: "echo"}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound {
		t.Errorf("status %d, want 302", resp.StatusCode)
	}
}

func TestLogsAreReadOneByOneWhileTheyCome(t *testing.T) {
	next := make(chan string)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for line := range next {
			io.WriteString(w, line)
			w.(http.Flusher).Flush()
		}
	}))
	defer srv.Close()
	c, err := client.New(client.Options{URL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	send := func(line string) { next <- line }
	go send(`{"name":"echo","text":"one\n"}` + "\n")
	for m, err := range c.Logs(t.Context(), logs.Request{Name: "echo", Follow: true}) {
		if err != nil {
			got = append(got, "error")
			break
		}
		got = append(got, m.Text)
		switch len(got) {
		case 1:
			go send(`{"name":"echo","text":"two\n"}` + "\n")
		case 2:
			go func() {
				send("{broken\n")
				close(next)
			}()
		}
	}
	if diff := cmp.Diff([]string{"one\n", "two\n", "error"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAnUnreachableGatewayIsNamedWithTheRemedy(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	c, err := client.New(client.Options{URL: "http://" + address})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Info(t.Context())
	if !errors.Is(err, fault.Unavailable) {
		t.Fatalf("err = %v, want fault.Unavailable", err)
	}
	for _, part := range []string{"http://" + address, "graphene serve", "connection refused"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestACancelledRequestIsNotAnUnavailableGateway(t *testing.T) {
	p := newPeer(t, client.Options{}, "200 {}")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Info(ctx); !errors.Is(err, context.Canceled) || errors.Is(err, fault.Unavailable) {
		t.Errorf("err = %v, want context.Canceled alone", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 0)
	defer cancel()
	if _, err := p.Info(ctx); !errors.Is(err, fault.Timeout) {
		t.Errorf("err = %v, want fault.Timeout", err)
	}
}

func TestAPageThatIsNoGatewaySaysSo(t *testing.T) {
	p := newPeer(t, client.Options{}, "200 <html>")
	if _, err := p.Functions(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "is a gateway there?") {
		t.Errorf("err = %v", err)
	}
}

func TestBadURLsAreRefused(t *testing.T) {
	for _, u := range []string{"", "localhost:8080", "ftp://host", "http://", "http://user:pass@host", ":"} {
		if _, err := client.New(client.Options{URL: u}); !errors.Is(err, fault.Invalid) || strings.Contains(err.Error(), "pass@") {
			t.Errorf("New(%q) = %v, want fault.Invalid", u, err)
		}
	}
}

func TestTLSTrustsWhatItIsTold(t *testing.T) {
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") }))
	defer srv.Close()
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(caFile, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		o  client.Options
		ok bool
	}{
		"a stranger's certificate": {client.Options{}, false},
		"any certificate":          {client.Options{Insecure: true}, true},
		"a certificate from file":  {client.Options{CAFile: caFile}, true},
	} {
		tt.o.URL = srv.URL
		c, err := client.New(tt.o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err = c.Info(t.Context()); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := client.New(client.Options{URL: srv.URL, CAFile: filepath.Join(t.TempDir(), "none")}); !errors.Is(err, fault.Invalid) {
		t.Errorf("a missing file: %v, want fault.Invalid", err)
	}
}

// guarded answers calls that carry no credentials with a gateway's challenge.
func guarded(t *testing.T, from string) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", "Bearer realm=IAM function invoke")
			w.Header().Set("X-Openfaas-Internal", from)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s", r.Header.Get("Authorization"), body)
	}))
	t.Cleanup(server.Close)
	return server
}

func TestCallsCarryTheLoginWhereTheGatewayAsksForIt(t *testing.T) {
	const large = 1 << 20
	for name, tt := range map[string]struct {
		from, token string
		header      http.Header
		body        io.Reader
		want        string
	}{
		"known body":             {"gateway", "t", nil, strings.NewReader("hello"), "200 Bearer t hello"},
		"streamed body":          {"gateway", "t", nil, io.MultiReader(strings.NewReader(strings.Repeat("x", large))), "200 Bearer t " + strings.Repeat("x", large)},
		"no body":                {"gateway", "t", nil, nil, "200 Bearer t "},
		"not logged in":          {"gateway", "", nil, nil, "401 "},
		"a function that asks":   {"of-watchdog", "t", nil, nil, "401 "},
		"the function's own one": {"gateway", "t", http.Header{"Authorization": {"Basic eDp5"}}, nil, "200 Basic eDp5 "},
	} {
		server := guarded(t, tt.from)
		transport := http.DefaultTransport.(*http.Transport).Clone()
		c, err := client.New(client.Options{URL: server.URL, Token: tt.token, Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Invoke(t.Context(), client.Call{Function: function.Ref{Name: "echo"}, Header: tt.header, Body: tt.body})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		transport.CloseIdleConnections()
		if got := fmt.Sprint(resp.StatusCode, " ", string(body)); got != tt.want {
			t.Errorf("%s: %.60q, want %.60q", name, got, tt.want)
		}
	}
}

func TestCanIAsksInTheWordsOfPolicies(t *testing.T) {
	p := newPeer(t, client.Options{Token: "t"}, `200 {"caller":"corp/a","action":"Function:Invoke","resource":"ns:fn","allowed":true,"reason":"rule"}`)
	got, err := p.CanI(t.Context(), "Function:Invoke", "ns:fn")
	want := client.CanI{Caller: "corp/a", Action: "Function:Invoke", Resource: "ns:fn", Allowed: true, Reason: "rule"}
	if err != nil || got != want || p.asked[0] != "GET /system/can-i?action=Function%3AInvoke&resource=ns%3Afn" {
		t.Errorf("%+v, %v, asked %q", got, err, p.asked)
	}
}
