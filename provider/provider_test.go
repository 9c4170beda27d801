package provider_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/provider"
	"github.com/graphene-faas/graphene/provider/runtimetest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// leaky is a fake that lists secrets with their values, which the provider must
// not pass on.
type leaky struct{ *runtimetest.Fake }

func (l leaky) ListSecrets(ctx context.Context, namespace string) ([]types.Secret, error) {
	all, err := l.Fake.ListSecrets(ctx, namespace)
	for i := range all {
		all[i].Value, all[i].RawValue = "hush", []byte("hush")
	}
	return all, err
}

// created is when everything was.
var created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// server serves a provider over a fake, on a real socket.
func server(t *testing.T, edit ...func(*provider.Options)) *httptest.Server {
	t.Helper()
	f := runtimetest.NewFake("unix:/s")
	f.Now = func() time.Time { return created }
	f.Says = func(types.FunctionDeployment) []string { return []string{"one", "two"} }
	f.Fails = func(d types.FunctionDeployment) string {
		if d.Image == "echo:broken" {
			return "not started"
		}
		return ""
	}
	o := provider.Options{
		Runtime: f, Secrets: leaky{f}, Logs: f, Namespaces: f,
		Info: types.ProviderInfo{Name: "test", Orchestration: "none", Version: &types.VersionInfo{SHA: "abc", Release: "1.0"}},
		Log:  testkit.Log(t),
	}
	for _, e := range edit {
		e(&o)
	}
	p := provider.New(o)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	running.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	s := httptest.NewServer(p.Handler())
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		cancel()
		running.Wait()
	})
	return s
}

func ask(t *testing.T, s *httptest.Server, method, path, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, strings.TrimSpace(string(text))
}

// TestTheWire is a conversation: later lines see what earlier ones did.
func TestTheWire(t *testing.T) {
	s := server(t)
	for _, line := range []struct {
		method, path, body string
		status             int
		says               string // part of the answer
	}{
		{"GET", "/healthz", "", 200, ""},
		{"HEAD", "/healthz", "", 200, ""},
		{"GET", "/system/info", "", 200, `"orchestration":"none"`},
		{"GET", "/system/unknown", "", 404, "404 page not found"},
		{"PATCH", "/system/functions", "", 405, ""},

		{"GET", "/system/functions", "", 200, "[]"},
		{"GET", "/system/functions?namespace=a_b", "", 400, "a_b"},
		{"PUT", "/system/functions", `{"service":"echo","image":"echo"}`, 404, "not deployed"},
		{"POST", "/system/functions", `{"service":"echo","image":"echo","network":"legacy"}`, 202, ""},
		{"POST", "/system/functions", `{"service":"echo","image":"echo"}`, 409, "PUT"},
		{"PUT", "/system/functions", `{"service":"echo","image":"echo:broken"}`, 202, ""},
		{"POST", "/system/functions", `{"service":"echo",`, 400, "line 1"},
		{"POST", "/system/functions", ``, 400, "empty"},
		{"POST", "/system/functions", `{"service":"Echo"}`, 400, "image is missing"},
		{"POST", "/system/functions", `{"service":"a","image":"a","namespace":"nowhere"}`, 400, `"nowhere" does not exist`},
		{"POST", "/system/functions", `{"service":"a","image":"a","secrets":["x","y"]}`, 400, `"x", "y" not found`},
		{"POST", "/system/functions", `{"service":"a","image":"` + strings.Repeat("a", 1<<20) + `"}`, 413, "exceeds"},

		{"GET", "/system/function/echo", "", 200, `"image":"echo:broken"`},
		{"GET", "/system/function/echo.openfaas-fn", "", 200, `"faas_function":"echo"`},
		{"GET", "/system/function/echo?namespace=openfaas-fn", "", 200, `"annotations":{}`},
		{"GET", "/system/function/echo?usage=1", "", 200, `"totalMemoryBytes":1048576`},
		{"GET", "/system/function/echo?details=1", "", 200, `"failure":"not started"`},
		{"GET", "/system/function/nobody", "", 404, "nobody.openfaas-fn"},
		{"GET", "/system/function/echo.elsewhere", "", 404, "echo.elsewhere"},
		{"GET", "/system/function/Echo", "", 400, "Echo"},

		{"POST", "/system/scale-function/echo", `{"serviceName":"ignored","replicas":3}`, 202, ""},
		{"GET", "/system/function/echo", "", 200, `"replicas":3`},
		{"POST", "/system/scale-function/echo?namespace=openfaas-fn", `{"replicas":0}`, 202, ""},
		{"POST", "/system/scale-function/echo", `{"replicas":-1}`, 400, "Please pass valid JSON"},
		{"POST", "/system/scale-function/echo", `{"replicas":1000000}`, 400, "1000"},
		{"POST", "/system/scale-function/nobody", `{"replicas":1}`, 404, ""},

		{"GET", "/system/secrets", "", 200, "[]"},
		{"POST", "/system/secrets", `{"name":"key","value":"hush"}`, 202, ""},
		{"POST", "/system/secrets", `{"name":"key","value":"hush"}`, 409, "exists"},
		{"PUT", "/system/secrets", `{"name":"key","value":"hush hush"}`, 202, ""},
		{"PUT", "/system/secrets", `{"name":"none","value":"x"}`, 404, ""},
		{"POST", "/system/secrets", `{"name":"../key"}`, 400, ""},
		{"POST", "/system/secrets", `{"name":"key","namespace":"nowhere"}`, 400, "nowhere"},
		{"GET", "/system/secrets", "", 200, `[{"name":"key","namespace":"openfaas-fn"}]`},
		{"POST", "/system/functions", `{"service":"keyed","image":"a","secrets":["key"]}`, 202, ""},
		{"DELETE", "/system/secrets?namespace=openfaas-fn", `{"name":"key"}`, 202, ""},
		{"DELETE", "/system/secrets", `{"name":"key"}`, 404, ""},

		{"GET", "/system/namespaces", "", 200, `["openfaas-fn"]`},
		{"POST", "/system/namespace/", `{"name":"dev","labels":{"a":"b"}}`, 201, ""},
		{"POST", "/system/namespace/", `{"name":"dev"}`, 409, ""},
		{"POST", "/system/namespace/", `{"name":"DEV"}`, 400, ""},
		{"GET", "/system/namespace/dev", "", 200, `{"name":"dev","annotations":{"openfaas":"1"},"labels":{"a":"b","openfaas":"1"}}`},
		{"PUT", "/system/namespace/dev", `{"name":"dev"}`, 202, ""},
		{"PUT", "/system/namespace/dev", `{"name":"prod"}`, 400, "prod"},
		{"PUT", "/system/namespaces/dev", `{}`, 202, ""},
		{"POST", "/system/functions", `{"service":"echo","image":"dev","namespace":"dev"}`, 202, ""},
		{"GET", "/system/functions?namespace=dev", "", 200, `"image":"dev"`},
		{"DELETE", "/system/functions", `{"functionName":"echo","namespace":"dev"}`, 202, ""},
		{"DELETE", "/system/namespace/dev", `{"name":"dev","labels":{"openfaas":"1"}}`, 202, ""},
		{"DELETE", "/system/namespace/dev", `{"name":"dev"}`, 404, ""},

		{"GET", "/system/logs?name=echo", "", 200, ""},
		{"GET", "/system/logs?name=nobody", "", 404, "nobody"},
		{"GET", "/system/logs?name=echo&tail=few", "", 422, "could not parse the log request"},
		{"GET", "/system/logs?name=echo&since=today", "", 422, "could not parse the log request"},
		{"GET", "/system/logs", "", 422, "could not parse the log request"},
		{"GET", "/endpoints?revision=x", "", 400, "revision"},

		{"DELETE", "/system/functions", `{}`, 400, ""},
		{"DELETE", "/system/functions", `{"functionName":"nobody"}`, 404, ""},
		{"DELETE", "/system/functions", `{"functionName":"echo.openfaas-fn"}`, 202, ""},
		{"DELETE", "/system/functions", `{"functionName":"echo"}`, 404, ""},
	} {
		status, text := ask(t, s, line.method, line.path, line.body)
		// What a runtime tells of replicas comes a moment after the deploy.
		for deadline := time.Now().Add(time.Minute); strings.Contains(line.path, "details=1") && !strings.Contains(text, line.says) && time.Now().Before(deadline); {
			status, text = ask(t, s, line.method, line.path, line.body)
		}
		if status != line.status || !strings.Contains(text, line.says) {
			t.Errorf("%s %s %.60s\n  got  %d %.300s\n  want %d …%s…", line.method, line.path, line.body, status, text, line.status, line.says)
		}
		if strings.Contains(text, "hush") {
			t.Errorf("%s %s tells a secret: %s", line.method, line.path, text)
		}
	}
}

func TestAStatusHasTheFormClientsRelyOn(t *testing.T) {
	s := server(t)
	for _, body := range []string{
		`{"service":"plain","image":"img"}`,
		`{"service":"full","image":"img","envProcess":"cat","envVars":{"a":"b"},"labels":{"l":"1"},"annotations":{"n":"{\n}"},
		  "limits":{"memory":"5Mi","cpu":""},"requests":{"cpu":"100m"}}`,
	} {
		if status, text := ask(t, s, "POST", "/system/functions", body); status != 202 {
			t.Fatal(text)
		}
	}
	if status, text := ask(t, s, "POST", "/system/scale-function/plain", `{"replicas":0}`); status != 202 {
		t.Fatal(text)
	}
	_, text := ask(t, s, "GET", "/system/functions", "")
	testkit.Golden(t, "testdata/functions.json", []byte(text+"\n"))
	testkit.Eventually(t, "the provider has heard of the replica", func() bool {
		_, text = ask(t, s, "GET", "/system/function/full?details=1&usage=1", "")
		return strings.Contains(text, `"instances"`)
	})
	testkit.Golden(t, "testdata/function-details.json", []byte(text+"\n"))
}

func TestWhatAnInstallationDoesNotHaveIsSaid(t *testing.T) {
	s := server(t, func(o *provider.Options) { o.Secrets, o.Logs, o.Namespaces = nil, nil, nil })
	for _, path := range []string{"/system/secrets", "/system/logs?name=a", "/system/namespace/a"} {
		if status, text := ask(t, s, "GET", path, ""); status != 501 || text != "Feature not implemented in this version of OpenFaaS" {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if _, text := ask(t, s, "GET", "/system/namespaces", ""); text != `["openfaas-fn"]` {
		t.Errorf("namespaces are %s", text)
	}
	if status, text := ask(t, s, "POST", "/system/functions", `{"service":"a","image":"a","namespace":"b"}`); status != 400 {
		t.Errorf("another namespace: %d %s", status, text)
	}
}

func TestLogsAreLinesOfJSONThatEnd(t *testing.T) {
	s := server(t)
	if status, text := ask(t, s, "POST", "/system/functions", `{"service":"echo","image":"a"}`); status != 202 {
		t.Fatal(text)
	}
	want := []logs.Message{
		{Name: "echo", Namespace: "openfaas-fn", Instance: "echo-0", Timestamp: created, Text: "one\n"},
		{Name: "echo", Namespace: "openfaas-fn", Instance: "echo-0", Timestamp: created.Add(time.Second), Text: "two\n"},
	}
	_, text := ask(t, s, "GET", "/system/logs?name=echo.openfaas-fn&follow=no&tail=5", "")
	var got []logs.Message
	for line := range strings.Lines(text) {
		var m logs.Message
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatal(err)
		}
		got = append(got, m)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestFollowedLogsArriveAtOnce(t *testing.T) {
	s := server(t)
	if status, text := ask(t, s, "POST", "/system/functions", `{"service":"echo","image":"a"}`); status != 202 {
		t.Fatal(text)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/system/logs?name=echo&follow=1", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("content type is %s", got)
	}
	if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || !strings.Contains(line, `"one\n"`) {
		t.Errorf("the line is %s, %v", line, err)
	}
}

func TestTheEndpointsStreamCanBeResumed(t *testing.T) {
	s := server(t)
	open := func(query string) (next func() function.Event, end func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "GET", s.URL+"/endpoints"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := s.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		lines := json.NewDecoder(res.Body)
		return func() function.Event {
				t.Helper()
				var e function.Event
				if err := lines.Decode(&e); err != nil {
					t.Fatal(err)
				}
				return e
			}, func() {
				cancel()
				res.Body.Close()
			}
	}
	next, end := open("")
	synced := next()
	if !synced.Synced || !synced.Reset {
		t.Fatalf("the first event of an empty platform is %+v", synced)
	}
	if status, text := ask(t, s, "POST", "/system/functions", `{"service":"a","image":"a"}`); status != 202 {
		t.Fatal(text)
	}
	a := next()
	if a.Endpoints == nil || a.Endpoints.Name != "a" || a.Endpoints.Replicas[0].Address != "unix:/s" {
		t.Fatalf("after the deploy came %+v", a)
	}
	end()
	if status, text := ask(t, s, "DELETE", "/system/functions", `{"functionName":"a"}`); status != 202 {
		t.Fatal(text)
	}
	revision, err := json.Marshal(a.Revision)
	if err != nil {
		t.Fatal(err)
	}
	next, end = open("?epoch=" + a.Epoch + "&revision=" + string(revision))
	defer end()
	if e := next(); e.Removed == nil || e.Removed.Name != "a" {
		t.Errorf("what was missed came as %+v", e)
	}
	if e := next(); !e.Synced || e.Reset {
		t.Errorf("then came %+v", e)
	}
}
