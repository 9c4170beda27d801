package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gorilla/mux"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway/api"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/web"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// A stage is an API between a caller and a provider that a test plays.
type stage struct {
	http.Handler
	provider http.HandlerFunc
	asked    []string // of the provider: "METHOD URI body"
	allowed  []string // asked of May: "ACTION NAMESPACE:NAME"
	denied   bool
}

func newStage(t *testing.T, provider http.HandlerFunc, adjust ...func(*api.Options)) *stage {
	s := &stage{provider: provider}
	o := api.Options{
		Provider: web.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			s.asked = append(s.asked, strings.TrimSpace(r.Method+" "+r.RequestURI+" "+string(body)))
			s.provider(w, r)
		})),
		ProviderURL: &url.URL{Scheme: "http", Host: "provider", Path: "/base/"},
		May: func(_ context.Context, action, namespace, name string) error {
			s.allowed = append(s.allowed, action+" "+namespace+":"+name)
			if s.denied {
				return fault.Denied.Errorf("you may not")
			}
			return nil
		},
		Version: types.VersionInfo{Release: "1.2.3", SHA: "abc"},
		Log:     testkit.Log(t),
	}
	for _, f := range adjust {
		f(&o)
	}
	r := mux.NewRouter().SkipClean(true).UseEncodedPath()
	for _, route := range api.New(o).Routes() {
		r.Path(route.Path).Methods(route.Method).Handler(web.Handler(o.Log, route.Handle))
	}
	s.Handler = web.IdentifyCalls(r)
	return s
}

func accepted(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) }

func (s *stage) do(method, uri, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, uri, strings.NewReader(body)))
	return w
}

func TestARequestIsAllowedAndPassedOnForTheNamespaceItNamesWherever(t *testing.T) {
	for _, tt := range []struct {
		method, uri, body string
		may, asked        string
	}{
		{"GET", "/system/functions", "", "Function:List openfaas-fn:", "GET /base/system/functions?namespace=openfaas-fn"},
		{"GET", "/system/functions?namespace=a", "", "Function:List a:", "GET /base/system/functions?namespace=a"},
		{"POST", "/system/functions", `{"service":"f","image":"i"}`, "Function:Create openfaas-fn:f", `POST /base/system/functions?namespace=openfaas-fn {"service":"f","image":"i"}`},
		{"POST", "/system/functions", `{"service":"f","namespace":"a"}`, "Function:Create a:f", `POST /base/system/functions?namespace=a {"service":"f","namespace":"a"}`},
		{"PUT", "/system/functions?namespace=a", `{"service":"f"}`, "Function:Update a:f", `PUT /base/system/functions?namespace=a {"service":"f"}`},
		{"DELETE", "/system/functions", `{"functionName":"f","namespace":"a"}`, "Function:Delete a:f", `DELETE /base/system/functions?namespace=a {"functionName":"f","namespace":"a"}`},
		{"GET", "/system/function/f?usage=1", "", "Function:Get openfaas-fn:f", "GET /base/system/function/f?namespace=openfaas-fn&usage=1"},
		{"GET", "/system/function/f.a", "", "Function:Get a:f", "GET /base/system/function/f?namespace=a"},
		{"GET", "/system/function/f.a?namespace=a", "", "Function:Get a:f", "GET /base/system/function/f?namespace=a"},
		{"POST", "/system/scale-function/f", `{"serviceName":"g","replicas":2,"namespace":"a"}`, "Function:Scale a:f", `POST /base/system/scale-function/f?namespace=a {"serviceName":"f","replicas":2,"namespace":"a"}`},
		{"POST", "/system/scale-function/f?namespace=a", `{"replicas":0}`, "Function:Scale a:f", `POST /base/system/scale-function/f?namespace=a {"serviceName":"f","replicas":0,"namespace":"a"}`},
		{"GET", "/system/logs?name=f.a&tail=3", "", "Function:Logs a:f", "GET /base/system/logs?name=f&namespace=a&tail=3"},
		{"GET", "/system/secrets?namespace=a", "", "Secret:List a:", "GET /base/system/secrets?namespace=a"},
		{"POST", "/system/secrets", `{"name":"s.key","value":"v"}`, "Secret:Create openfaas-fn:", `POST /base/system/secrets?namespace=openfaas-fn {"name":"s.key","value":"v"}`},
		{"PUT", "/system/secrets", `{"name":"s","namespace":"a"}`, "Secret:Update a:", `PUT /base/system/secrets?namespace=a {"name":"s","namespace":"a"}`},
		{"DELETE", "/system/secrets?namespace=a", `{"name":"s"}`, "Secret:Delete a:", `DELETE /base/system/secrets?namespace=a {"name":"s"}`},
		{"GET", "/system/namespaces", "", "Namespace:List :", "GET /base/system/namespaces"},
		{"POST", "/system/namespace/", `{"name":"a"}`, "Namespace:Create a:", `POST /base/system/namespace/ {"name":"a"}`},
		{"GET", "/system/namespace/a", "", "Namespace:Get a:", "GET /base/system/namespace/a"},
		{"PUT", "/system/namespace/a", `{"name":"a","labels":{"x":"y"}}`, "Namespace:Update a:", `PUT /base/system/namespace/a {"name":"a","labels":{"x":"y"}}`},
		{"DELETE", "/system/namespace/a", "", "Namespace:Delete a:", "DELETE /base/system/namespace/a"},
		{"DELETE", "/system/namespaces/a", `{"name":"a"}`, "Namespace:Delete a:", `DELETE /base/system/namespace/a {"name":"a"}`},
		{"GET", "/system/telemetry", "", "System:Info :", "GET /base/system/telemetry"},
	} {
		s := newStage(t, accepted)
		w := s.do(tt.method, tt.uri, tt.body)
		if w.Code != http.StatusAccepted && tt.may != "Function:Logs a:f" {
			t.Errorf("%s %s: %d %s", tt.method, tt.uri, w.Code, w.Body)
		}
		if diff := cmp.Diff([]string{tt.may}, s.allowed); diff != "" {
			t.Errorf("%s %s: allowed (-want +got)\n%s", tt.method, tt.uri, diff)
		}
		if diff := cmp.Diff([]string{tt.asked}, s.asked); diff != "" {
			t.Errorf("%s %s: asked (-want +got)\n%s", tt.method, tt.uri, diff)
		}
	}
}

func TestBadRequestsNeverReachTheProvider(t *testing.T) {
	for _, tt := range []struct {
		method, uri, body string
		status            int
		text              string
	}{
		{"GET", "/system/functions?namespace=Bad", "", 400, "namespace"},
		{"GET", "/system/functions?namespace=a&namespace=b", "", 400, `two namespaces, "a" and "b"`},
		{"POST", "/system/functions?namespace=a", `{"service":"f","namespace":"b"}`, 400, `two namespaces, "b" and "a"`},
		{"POST", "/system/functions", "", 400, "is empty, want JSON"},
		{"POST", "/system/functions", "{\n  \"service\" \"f\"}", 400, "line 2, column 13"},
		{"POST", "/system/functions", `{"service":1}`, 400, `field "service" is a JSON number, want a string`},
		{"POST", "/system/functions", `{}`, 400, "service is missing"},
		{"POST", "/system/functions", `{"service":"f.other"}`, 400, "function name"},
		{"POST", "/system/functions", `{"service":"` + strings.Repeat("a", 2000) + `"}`, 413, "exceeds 1024 bytes"},
		{"DELETE", "/system/functions", `{"service":"f"}`, 400, "functionName is missing"},
		{"GET", "/system/function/..", "", 400, "function name"},
		{"GET", "/system/function/f%2Fg", "", 400, "function name"},
		{"GET", "/system/function/f.a?namespace=b", "", 400, "two namespaces"},
		{"POST", "/system/scale-function/f", `{}`, 400, "replicas is missing"},
		{"POST", "/system/scale-function/f", ``, 400, "is empty"},
		{"POST", "/system/scale-function/f", `{"replicas":-1}`, 400, "replicas"},
		{"POST", "/system/scale-function/f", `{"replicas":"1"}`, 400, "replicas"},
		{"GET", "/system/logs", "", 422, "could not parse the log request"},
		{"POST", "/system/secrets", `{"name":"../../etc/passwd","value":"v"}`, 400, "secret name"},
		{"DELETE", "/system/secrets", `{}`, 400, "secret name is empty"},
		{"POST", "/system/namespace/", `{}`, 400, "namespace is empty"},
		{"DELETE", "/system/namespace/a", `{"name":"b"}`, 400, `"a" in the path but "b" in the body`},
	} {
		s := newStage(t, accepted, func(o *api.Options) { o.MaxBody = 1024 })
		w := s.do(tt.method, tt.uri, tt.body)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.text) {
			t.Errorf("%s %s %.50s: %d %q, want %d and %q", tt.method, tt.uri, tt.body, w.Code, w.Body, tt.status, tt.text)
		}
		if len(s.asked) > 0 {
			t.Errorf("%s %s %.50s: the provider was asked %q", tt.method, tt.uri, tt.body, s.asked)
		}
	}
}

func TestWhatIsNotAllowedNeverReachesTheProvider(t *testing.T) {
	s := newStage(t, accepted)
	s.denied = true
	for _, tt := range [][3]string{
		{"GET", "/system/functions"}, {"POST", "/system/functions", `{"service":"f"}`}, {"GET", "/system/logs?name=f"}, {"GET", "/system/info"},
	} {
		if w := s.do(tt[0], tt[1], tt[2]); w.Code != http.StatusForbidden || w.Body.String() != "you may not\n" {
			t.Errorf("%q: %d %q, want 403", tt, w.Code, w.Body)
		}
	}
	if len(s.asked) > 0 {
		t.Errorf("the provider was asked %q", s.asked)
	}
}

func TestTheProvidersAnswerIsHandedBackAsItIs(t *testing.T) {
	for _, status := range []int{200, 201, 202, 400, 404, 409, 422, 500, 501} {
		s := newStage(t, func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Authorization") != "" {
				t.Error("the caller's credentials reached the provider")
			}
			if r.Header.Get(web.HeaderCallID) != "my-call" {
				t.Errorf("call id at the provider: %q", r.Header.Get(web.HeaderCallID))
			}
			w.Header().Set("Content-Type", "text/x-test")
			w.Header().Set("X-Extra", "1")
			w.Header().Set("Connection", "close")
			w.WriteHeader(status)
			io.WriteString(w, "said")
		})
		r := httptest.NewRequest("PUT", "/system/functions", strings.NewReader(`{"service":"f"}`))
		r.Header.Set("Authorization", "Basic abc")
		r.Header.Set(web.HeaderCallID, "my-call")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		want := http.Header{"Content-Type": {"text/x-test"}, "X-Extra": {"1"}, web.HeaderCallID: {"my-call"}}
		if w.Code != status || w.Body.String() != "said" {
			t.Errorf("%d: got %d %q", status, w.Code, w.Body)
		}
		if diff := cmp.Diff(want, w.Result().Header); diff != "" {
			t.Errorf("%d: header (-want +got)\n%s", status, diff)
		}
	}
}

func TestListingsSayHowOftenFunctionsWereCalled(t *testing.T) {
	s := newStage(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `[{"name":"f","image":"i","namespace":"a","createdAt":"2026-01-02T03:04:05Z"},{"name":"g","image":"i","createdAt":"0001-01-01T00:00:00Z"}]`)
	}, func(o *api.Options) {
		o.Invocations = func(ref function.Ref) float64 {
			return map[string]float64{"f.a": 3, "g.a": 0}[ref.String()]
		}
	})
	w := s.do("GET", "/system/functions?namespace=a", "")
	const want = `[{"name":"f","image":"i","namespace":"a","invocationCount":3,"createdAt":"2026-01-02T03:04:05Z"},{"name":"g","image":"i","createdAt":"0001-01-01T00:00:00Z"}]`
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != want {
		t.Errorf("%d\n got %s\nwant %s", w.Code, got, want)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		t.Errorf("Content-Type %q", got)
	}
}

func TestAnEmptyListingIsAnArray(t *testing.T) {
	for _, answer := range []string{"[]", "null"} {
		s := newStage(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) })
		if w := s.do("GET", "/system/functions", ""); strings.TrimSpace(w.Body.String()) != "[]" {
			t.Errorf("provider says %s: %q, want []", answer, w.Body)
		}
	}
}

func TestAProviderThatTalksNonsenseIsOurErrorAndNotTheCallers(t *testing.T) {
	s := newStage(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>a secret") })
	if w := s.do("GET", "/system/functions", ""); w.Code != 500 || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}

func TestInfoIsCompleteEvenWhenTheProviderIsNot(t *testing.T) {
	target := function.Target{OS: "linux", Arch: "amd64", Python: "cp311", Libc: "glibc"}
	for name, tt := range map[string]struct {
		provider http.HandlerFunc
		want     map[string]any
	}{
		"answers": {
			func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, `{"provider":"graphene-local","orchestration":"processes","version":{"sha":"s","release":"r"}}`)
			},
			map[string]any{"provider": "graphene-local", "orchestration": "processes", "version": map[string]any{"sha": "s", "release": "r"}},
		},
		"has no version": {
			func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, `{"provider":"p","orchestration":"o"}`)
			},
			map[string]any{"provider": "p", "orchestration": "o", "version": map[string]any{"sha": "unknown", "release": "unknown"}},
		},
		"fails": {
			func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
			map[string]any{"provider": "unknown", "orchestration": "unknown", "version": map[string]any{"sha": "unknown", "release": "unknown"}},
		},
		"talks nonsense": {
			func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hm") },
			map[string]any{"provider": "unknown", "orchestration": "unknown", "version": map[string]any{"sha": "unknown", "release": "unknown"}},
		},
	} {
		s := newStage(t, tt.provider, func(o *api.Options) {
			o.Target = func(context.Context) (function.Target, error) { return target, nil }
		})
		w := s.do("GET", "/system/info", "")
		var got map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
			t.Errorf("%s: %d %v", name, w.Code, err)
			continue
		}
		if arch, _ := got["arch"].(string); arch == "" {
			t.Errorf("%s: arch is missing", name)
		}
		delete(got, "arch")
		want := map[string]any{
			"provider": tt.want,
			"version":  map[string]any{"sha": "abc", "release": "1.2.3"},
			"target":   map[string]any{"os": "linux", "arch": "amd64", "python": "cp311", "libc": "glibc"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", name, diff)
		}
	}
}

func TestInfoWithoutATargetLeavesItOut(t *testing.T) {
	s := newStage(t, accepted, func(o *api.Options) {
		o.Target = func(context.Context) (function.Target, error) { return function.Target{}, errors.New("no python") }
	})
	if w := s.do("GET", "/system/info", ""); w.Code != 200 || strings.Contains(w.Body.String(), "target") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestAProviderThatDoesNotAnswerIsSaidPlainly(t *testing.T) {
	broken := func(o *api.Options) {
		o.Provider = roundTripper(func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") })
	}
	s := newStage(t, accepted, broken)
	if w := s.do("GET", "/system/functions", ""); w.Code != 503 || w.Body.String() != "the provider does not answer: connection refused\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
	if w := s.do("GET", "/system/logs?name=f", ""); w.Code != 500 || w.Body.String() != "log request failed\n" {
		t.Errorf("logs: %d %q", w.Code, w.Body)
	}
	slow := func(o *api.Options) { o.Timeout = time.Nanosecond }
	s = newStage(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, slow)
	if w := s.do("GET", "/system/functions", ""); w.Code != 504 {
		t.Errorf("slow: %d %q, want 504", w.Code, w.Body)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestErrorsOfLogsAreThoseOfOpenFaaS(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		want   int
		text   string
	}{
		{501, "not here", 501, ""},
		{404, "404 page not found\n", 501, ""},
		{404, "no such function: f", 404, "no such function: f"},
		{422, "could not parse the log request", 422, "could not parse the log request"},
		{500, "stack trace", 500, "unknown log request error (500)\n"},
		{302, "", 500, "unknown log request error (302)\n"},
	} {
		s := newStage(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			io.WriteString(w, tt.body)
		})
		if w := s.do("GET", "/system/logs?name=f", ""); w.Code != tt.want || w.Body.String() != tt.text {
			t.Errorf("provider %d %q: got %d %q, want %d %q", tt.status, tt.body, w.Code, w.Body, tt.want, tt.text)
		}
	}
}

func TestLogLinesArriveWhileTheStreamGoesOnAndHangingUpEndsIt(t *testing.T) {
	lines := make(chan string)
	ended := make(chan struct{})
	s := newStage(t, func(w http.ResponseWriter, r *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "application/x-ndjson")
		for {
			select {
			case line := <-lines:
				io.WriteString(w, line)
				w.(http.Flusher).Flush()
			case <-r.Context().Done():
				return
			}
		}
	})
	srv := httptest.NewServer(web.Bound(time.Minute, time.Minute, s))
	defer srv.Close()
	ctx, hangUp := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "GET", srv.URL+"/system/logs?name=f&follow=true", nil)
	first := make(chan struct{})
	go func() {
		lines <- "one\n"
		close(first)
	}()
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	<-first
	buf := make([]byte, 4)
	for _, want := range []string{"one\n", "two\n"} {
		if want == "two\n" {
			lines <- want
		}
		if _, err := io.ReadFull(resp.Body, buf); err != nil || string(buf) != want {
			t.Fatalf("read %q, %v; want %q", buf, err, want)
		}
	}
	if got := resp.Header.Get("Content-Type"); got != "application/x-ndjson" {
		t.Errorf("Content-Type %q", got)
	}
	hangUp()
	<-ended
}

func TestAStreamThatBreaksIsNotTakenForAWholeOne(t *testing.T) {
	s := newStage(t, func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half a li")
		panic("provider crashed")
	})
	srv := httptest.NewServer(s)
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL + "/system/logs?name=f")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err == nil {
		t.Errorf("read %q without an error", body)
	}
}

func FuzzSubject(f *testing.F) {
	for _, s := range []string{"f", "f.a", "..", "f%2Eg", "a.b.c", "%00"} {
		f.Add(s, "a", `{"replicas":1,"namespace":"a"}`)
	}
	f.Fuzz(func(t *testing.T, name, namespace, body string) {
		u := url.URL{Path: "/system/scale-function/x", RawQuery: url.Values{"namespace": {namespace}}.Encode()}
		r := httptest.NewRequest("POST", u.String(), strings.NewReader(body))
		r.URL.Path = "/system/scale-function/" + name
		s := newStage(t, accepted)
		s.ServeHTTP(httptest.NewRecorder(), r)
		if len(s.asked) == 0 {
			return
		}
		// What was allowed is what the provider is asked for.
		uri := strings.Fields(s.asked[0])[1]
		asked, err := url.ParseRequestURI(uri)
		if err != nil {
			t.Fatalf("the provider was asked %q", uri)
		}
		got := "Function:Scale " + asked.Query().Get("namespace") + ":" + strings.TrimPrefix(asked.Path, "/base/system/scale-function/")
		if len(s.allowed) != 1 || s.allowed[0] != got {
			t.Errorf("allowed %q, asked %q", s.allowed, got)
		}
	})
}

func TestScalingForTheGatewayItselfKeepsTheProvidersMeaning(t *testing.T) {
	ref := function.Ref{Name: "f", Namespace: "a"}
	for _, tt := range []struct {
		status int
		want   error
	}{
		{202, nil}, {404, fault.NotFound}, {503, fault.Unavailable}, {400, fault.Invalid},
	} {
		var asked string
		a := api.New(api.Options{
			Provider: web.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				asked = r.Method + " " + r.RequestURI + " " + string(body)
				w.WriteHeader(tt.status)
				io.WriteString(w, "said so\n")
			})),
			ProviderURL: &url.URL{Scheme: "http", Host: "provider"},
			Log:         testkit.Log(t),
		})
		err := a.Scale(t.Context(), ref, 3)
		if !errors.Is(err, tt.want) {
			t.Errorf("%d: %v, want %v", tt.status, err, tt.want)
		}
		if err != nil && err.Error() != "scale f.a to 3: said so" {
			t.Errorf("%d: error %q", tt.status, err)
		}
		if want := `POST /system/scale-function/f?namespace=a {"serviceName":"f","replicas":3,"namespace":"a"}`; asked != want {
			t.Errorf("asked %q, want %q", asked, want)
		}
	}
}
