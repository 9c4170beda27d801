package gateway_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/web"
)

// deployment uses every field there is.
const deployment = `{"service":"echo","image":"registry.example/echo:1","namespace":"openfaas-fn","envProcess":"cat",` +
	`"envVars":{"a":"1"},"constraints":["zone=a"],"secrets":["key"],"labels":{"com.openfaas.scale.min":"1","l":"x"},` +
	`"annotations":{"topic":"a,b","json":"{\n  \"x\": 1\n}"},"limits":{"memory":"5Mi","cpu":"100m"},"requests":{"memory":"1Mi","cpu":""},` +
	`"readOnlyRootFilesystem":true,"network":"of an older client","registryAuth":"likewise"}`

// TestStatusCodesAreThoseClientsBranchOn walks the management API as clients
// do: each step finds what the ones before it left.
func TestStatusCodesAreThoseClientsBranchOn(t *testing.T) {
	p := start(t, nothing)
	for _, step := range []struct {
		method, uri, body string
		status            int
	}{
		{"GET", "/system/functions", "", 200},
		{"GET", "/system/function/echo", "", 404},
		{"PUT", "/system/functions", `{"service":"echo","image":"i"}`, 404}, // and then clients POST
		{"DELETE", "/system/functions", `{"functionName":"echo"}`, 404},
		{"POST", "/system/scale-function/echo", `{"serviceName":"echo","replicas":1}`, 404},

		{"POST", "/system/functions", deployment, 400}, // its secret is missing
		{"PUT", "/system/secrets", `{"name":"key","value":"v"}`, 404},
		{"DELETE", "/system/secrets", `{"name":"key"}`, 404},
		{"POST", "/system/secrets", `{"name":"key","value":"v"}`, 202},
		{"POST", "/system/secrets", `{"name":"key","value":"v"}`, 409}, // and then clients PUT
		{"PUT", "/system/secrets", `{"name":"key","value":"w","rawValue":"dw=="}`, 202},
		{"GET", "/system/secrets", "", 200},

		{"POST", "/system/functions", deployment, 202}, // 201 would be a failure
		{"POST", "/system/functions", deployment, 409},
		{"PUT", "/system/functions", deployment, 202},
		{"PUT", "/system/functions", `{"service":"echo"}`, 400},
		{"PUT", "/system/functions", `{`, 400},
		{"GET", "/system/function/echo", "", 200},
		{"GET", "/system/function/echo.openfaas-fn", "", 200},
		{"GET", "/system/function/echo?namespace=openfaas-fn&usage=1", "", 200},
		{"GET", "/system/function/echo?namespace=elsewhere", "", 404},
		{"POST", "/system/scale-function/echo", `{"serviceName":"echo","replicas":2}`, 202},
		{"POST", "/system/scale-function/echo?namespace=openfaas-fn", `{"serviceName":"echo","replicas":2}`, 202},
		{"POST", "/system/scale-function/echo", `{"serviceName":"echo","replicas":2,"namespace":"openfaas-fn"}`, 202},
		{"POST", "/system/scale-function/echo", `nonsense`, 400},
		{"GET", "/system/logs?name=echo&follow=false", "", 200},
		{"GET", "/system/logs?name=echo&tail=many", "", 422},
		{"GET", "/system/logs?name=nobody", "", 404},
		{"DELETE", "/system/functions", `{}`, 400},
		{"DELETE", "/system/functions", `{"functionName":"echo","namespace":"openfaas-fn"}`, 202},
		{"DELETE", "/system/secrets", `{"name":"key"}`, 202}, // 204 would be a failure

		{"GET", "/system/namespaces", "", 200},
		{"GET", "/system/namespace/other", "", 404},
		{"PUT", "/system/namespace/other", `{"name":"other"}`, 404},
		{"POST", "/system/functions", `{"service":"echo","image":"i","namespace":"other"}`, 400},
		{"POST", "/system/namespace/", `{"name":"other","labels":{"openfaas":"1"},"annotations":{"openfaas":"1"}}`, 201},
		{"POST", "/system/namespace/", `{"name":"other","labels":{"openfaas":"1"},"annotations":{"openfaas":"1"}}`, 409},
		{"GET", "/system/namespace/other", "", 200},
		{"PUT", "/system/namespace/other", `{"name":"other","labels":{"openfaas":"1"}}`, 202},
		{"PUT", "/system/namespaces/other", `{"name":"other","labels":{"openfaas":"1"}}`, 202},
		{"POST", "/system/functions", `{"service":"echo","image":"i","namespace":"other"}`, 202},
		{"GET", "/system/functions?namespace=other", "", 200},
		{"DELETE", "/system/functions?namespace=other", `{"functionName":"echo"}`, 202},
		{"DELETE", "/system/namespace/other", `{"name":"other","labels":{"openfaas":"1"}}`, 202},
		{"DELETE", "/system/namespace/other", `{"name":"other"}`, 404},

		{"GET", "/system/info", "", 200},
		{"GET", "/system/telemetry", "", 404},
		{"GET", "/healthz", "", 200},
		{"GET", "/function/nobody", "", 404},
		{"GET", "/function/", "", 404},
		{"GET", "/function/.openfaas-fn", "", 404},
		{"POST", "/async-function/nobody", "", 404},
	} {
		resp, body := p.do(t, step.method, step.uri, step.body)
		if resp.StatusCode != step.status {
			t.Errorf("%s %s %.60s: %d %q, want %d", step.method, step.uri, step.body, resp.StatusCode, body, step.status)
		}
		if resp.Header.Get(web.HeaderCallID) == "" && step.uri != "/healthz" && step.uri != "/function/" && !strings.HasPrefix(step.uri, "/async") {
			t.Errorf("%s %s: the answer has no call id", step.method, step.uri)
		}
	}
}

func TestTheShapesOfAnswersAreThoseOnTheWire(t *testing.T) {
	p := start(t, nothing)
	for _, step := range [][3]string{
		{"POST", "/system/secrets", `{"name":"key","value":"v"}`},
		{"POST", "/system/functions", deployment},
		{"POST", "/system/functions", `{"service":"asleep","image":"i"}`},
		{"POST", "/system/scale-function/asleep", `{"replicas":0}`},
	} {
		if resp, body := p.do(t, step[0], step[1], step[2]); resp.StatusCode != 202 {
			t.Fatalf("%q: %d %q", step, resp.StatusCode, body)
		}
	}
	for name, uri := range map[string]string{
		"functions":  "/system/functions",
		"function":   "/system/function/echo",
		"usage":      "/system/function/echo?usage=1",
		"asleep":     "/system/function/asleep",
		"secrets":    "/system/secrets",
		"namespaces": "/system/namespaces",
		"namespace":  "/system/namespace/openfaas-fn",
		"info":       "/system/info",
		"none":       "/system/functions?namespace=empty",
	} {
		resp, body := p.do(t, "GET", uri, "")
		if got := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || got != "application/json" {
			t.Errorf("%s: %d, Content-Type %q", uri, resp.StatusCode, got)
		}
		var out bytes.Buffer
		if err := json.Indent(&out, []byte(body), "", "  "); err != nil {
			t.Fatalf("%s: %v in %q", uri, err, body)
		}
		if name == "info" {
			out = *bytes.NewBuffer(bytes.ReplaceAll(out.Bytes(), []byte(`"arch": "aarch64"`), []byte(`"arch": "x86_64"`)))
		}
		testkit.Golden(t, "testdata/wire/"+name+".json", out.Bytes())
	}
	resp, body := p.do(t, "GET", "/system/logs?name=echo", "")
	if got := resp.Header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("logs: Content-Type %q", got)
	}
	testkit.Golden(t, "testdata/wire/logs.ndjson", []byte(body))
}

func TestTheClientReadsWhatTheGatewayWrites(t *testing.T) {
	p := start(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	info, err := p.client.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if info.Provider.Name != "fake" || info.Version.Release != "0.1.0" || info.Target == nil || info.Target.Python != "cp311" {
		t.Errorf("info = %+v", info)
	}
	if namespaces, err := p.client.Namespaces(t.Context()); err != nil || !cmp.Equal(namespaces, []string{"openfaas-fn"}) {
		t.Errorf("namespaces = %q, %v", namespaces, err)
	}
}

func TestACallCarriesWhatFunctionsAndClientsRelyOn(t *testing.T) {
	seen := make(chan *http.Request, 1)
	p := start(t, func(w http.ResponseWriter, r *http.Request) {
		seen <- r
		w.Header().Set(web.HeaderInternal, "made up by the function")
		http.Error(w, "teapot", http.StatusTeapot)
	})
	p.deploy(t, "echo")
	for uri, path := range map[string]string{
		"/function/echo":                     "/",
		"/function/echo/":                    "/",
		"/function/echo.openfaas-fn/a/b?c=d": "/a/b?c=d",
		"/function/echo/a//b%2Fc":            "/a//b%2Fc",
	} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"} {
			r, _ := http.NewRequestWithContext(t.Context(), method, p.url+uri, nil)
			r.Header.Set(web.HeaderCallID, "mine")
			resp, _ := p.send(t, r)
			got := <-seen
			if got.Method != method || got.RequestURI != path || got.Header.Get(web.HeaderCallID) != "mine" || got.Header.Get(web.HeaderStartTime) == "" {
				t.Errorf("%s %s: function saw %s %s %v", method, uri, got.Method, got.RequestURI, got.Header)
			}
			h := resp.Header
			if resp.StatusCode != 418 || h.Get(web.HeaderCallID) != "mine" || h.Get(web.HeaderStartTime) == "" || h.Get("Server-Timing") == "" || h.Get(web.HeaderInternal) != "" {
				t.Errorf("%s %s: %d %v", method, uri, resp.StatusCode, h)
			}
		}
	}
	if resp, body := p.do(t, "TRACE", "/function/echo", ""); resp.StatusCode != 405 || body != "" {
		t.Errorf("TRACE: %d %q", resp.StatusCode, body)
	}
	resp, body := p.do(t, "GET", "/function/nobody", "")
	if resp.StatusCode != 404 || !strings.HasPrefix(body, "error finding function nobody.openfaas-fn: ") || resp.Header.Get(web.HeaderInternal) != "gateway" {
		t.Errorf("unknown function: %d %q %v", resp.StatusCode, body, resp.Header)
	}
}

func TestListingsCountTheCalls(t *testing.T) {
	p := start(t, nothing)
	p.deploy(t, "echo")
	for range 3 {
		p.do(t, "POST", "/function/echo", "")
	}
	list, err := p.client.Functions(t.Context(), "")
	if err != nil || len(list) != 1 || list[0].InvocationCount != 3 {
		t.Errorf("%+v, %v; want 3 calls", list, err)
	}
}

func TestACallWakesAFunctionThatSleeps(t *testing.T) {
	p := start(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "awake") })
	p.deploy(t, "echo")
	ref := function.Ref{Name: "echo", Namespace: function.DefaultNamespace}
	if err := p.client.Scale(t.Context(), ref, 0); err != nil {
		t.Fatal(err)
	}
	for p.Knows(ref) {
		if t.Context().Err() != nil {
			t.Fatal("the function does not fall asleep")
		}
	}
	resp, body := p.do(t, "GET", "/function/echo", "")
	if resp.StatusCode != 200 || body != "awake" || !strings.Contains(resp.Header.Get("Server-Timing"), "wake;dur=") {
		t.Errorf("%d %q %v", resp.StatusCode, body, resp.Header)
	}
	status, err := p.client.Function(t.Context(), ref, false)
	if err != nil || status.Replicas != 1 {
		t.Errorf("afterwards: %+v, %v; want 1 replica", status, err)
	}
}

func TestDetailsAreThereForThoseWhoAsk(t *testing.T) {
	p := start(t, nothing)
	p.deploy(t, "echo")
	d, err := p.client.Details(t.Context(), function.Ref{Name: "echo", Namespace: function.DefaultNamespace}, true)
	if err != nil {
		t.Fatal(err)
	}
	if d.Name != "echo" || d.Usage == nil || len(d.Instances) != 1 || !d.Instances[0].Ready {
		t.Errorf("details = %+v", d)
	}
}
