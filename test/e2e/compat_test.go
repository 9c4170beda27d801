package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openfaas/faas-provider/logs"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// TestOpenFaaSClientsGetWhatTheyExpect holds the management API and the
// function routes to what clients of OpenFaaS branch on.
func TestOpenFaaSClientsGetWhatTheyExpect(t *testing.T) {
	p := start(t)
	if a := p.call(200, "GET", "/system/functions", ""); strings.TrimSpace(a.body) != "[]" {
		t.Errorf("a platform without functions lists %q, want an empty array", a.body)
	}
	p.deployWire()
	for _, sub := range []struct {
		name string
		test func(*platform)
	}{
		{"status codes", testStatusCodes},
		{"credentials", testCredentials},
		{"the shape of info", testInfo},
		{"headers of a call", testCallHeaders},
		{"names of functions", testFunctionNames},
		{"what was deployed is what is told", testRoundTrip},
		{"secrets", testSecrets},
		{"namespaces", testNamespaces},
		{"scale", testScale},
		{"logs", testLogs},
	} {
		t.Run(sub.name, func(t *testing.T) { sub.test(p.in(t)) })
	}
}

func testStatusCodes(p *platform) {
	image := p.status("wire").Image
	for _, tt := range []struct {
		method, path, body string
		want               []int
	}{
		{"GET", "/healthz", "", []int{200}},
		{"GET", "/nowhere", "", []int{404}},
		{"GET", "/system/nowhere", "", []int{404}},
		{"PATCH", "/system/functions", "", []int{405}},
		{"HEAD", "/system/functions", "", []int{405}},
		{"GET", "/system/scale-function/wire", "", []int{405}},
		{"TRACE", "/function/wire", "", []int{405}},
		{"GET", "/function/", "", []int{404}},

		{"PUT", "/system/functions", `{"service":"unknown","image":"` + image + `"}`, []int{404}},
		{"POST", "/system/functions", `{"service":"wire","image":"` + image + `"}`, []int{409, 500}},
		{"POST", "/system/functions", `{"service":"two"}`, []int{400}},
		{"POST", "/system/functions", `{"image":"` + image + `"}`, []int{400}},
		{"POST", "/system/functions", `{"service":"Two!","image":"` + image + `"}`, []int{400}},
		{"POST", "/system/functions", `{"service":"` + strings.Repeat("a", 64) + `","image":"` + image + `"}`, []int{400}},
		{"POST", "/system/functions", `{"service":"two","image":"` + image + `","secrets":["unknown"]}`, []int{400}},
		{"POST", "/system/functions", `{"service":"two","image":"` + image + `","namespace":"unknown"}`, []int{400, 404}},
		{"POST", "/system/functions", `{"service":"two","image":"` + image + `","limits":{"memory":"much"}}`, []int{400}},
		{"POST", "/system/functions", `{"service":`, []int{400}},
		{"POST", "/system/functions", ``, []int{400}},
		{"POST", "/system/functions", `[]`, []int{400}},
		{"DELETE", "/system/functions", `{"functionName":"unknown"}`, []int{404}},
		{"DELETE", "/system/functions", `{}`, []int{400}},
		{"DELETE", "/system/functions", `{`, []int{400}},
		{"GET", "/system/functions?namespace=unknown", "", []int{200, 400, 404}},

		{"GET", "/system/function/wire", "", []int{200}},
		{"GET", "/system/function/wire?usage=1", "", []int{200}},
		{"GET", "/system/function/wire?namespace=openfaas-fn", "", []int{200}},
		{"GET", "/system/function/wire.openfaas-fn", "", []int{200}},
		{"GET", "/system/function/unknown", "", []int{404}},
		{"GET", "/system/function/wire?namespace=unknown", "", []int{400, 404}},

		{"POST", "/system/scale-function/unknown", `{"serviceName":"unknown","replicas":1}`, []int{404}},
		{"POST", "/system/scale-function/wire", `{`, []int{400}},
		{"POST", "/system/scale-function/wire", `{"replicas":-1}`, []int{400}},
		{"POST", "/system/scale-function/wire", `{"replicas":18446744073709551615}`, []int{400}},
		{"POST", "/system/scale-function/wire", `{"serviceName":"wire","replicas":1}`, []int{202}},

		{"POST", "/system/secrets", `{"name":"code","value":"x"}`, []int{200, 201, 202}},
		{"POST", "/system/secrets", `{"name":"code","value":"x"}`, []int{409}},
		{"POST", "/system/secrets", `{"name":"../code","value":"x"}`, []int{400, 422}},
		{"POST", "/system/secrets", `{"value":"x"}`, []int{400, 422}},
		{"POST", "/system/secrets", `{"name":`, []int{400}},
		{"PUT", "/system/secrets", `{"name":"code","value":"y"}`, []int{200, 202}},
		{"PUT", "/system/secrets", `{"name":"unknown","value":"y"}`, []int{404}},
		{"DELETE", "/system/secrets", `{"name":"code"}`, []int{200, 202}},
		{"DELETE", "/system/secrets", `{"name":"code"}`, []int{404}},

		{"GET", "/system/namespaces", "", []int{200}},
		{"GET", "/system/namespace/unknown", "", []int{404}},
		{"PUT", "/system/namespace/unknown", `{"name":"unknown","labels":{"openfaas":"1"}}`, []int{404}},
		{"DELETE", "/system/namespace/unknown", `{"name":"unknown"}`, []int{404}},
		{"POST", "/system/namespace/", `{"name":"Bad Name","labels":{"openfaas":"1"},"annotations":{"openfaas":"1"}}`, []int{400}},

		{"GET", "/system/logs?name=wire&tail=many", "", []int{422}},
		{"GET", "/system/logs?name=wire&since=yesterday", "", []int{422}},
		{"GET", "/system/logs", "", []int{400, 422}},
		{"GET", "/system/logs?name=unknown", "", []int{404, 500, 501}},

		{"GET", "/function/unknown", "", []int{404}},
		{"POST", "/function/unknown.openfaas-fn/path", "x", []int{404}},
		{"POST", "/function/wire.unknown", "x", []int{404}},
	} {
		what := tt.method + " " + tt.path + " " + tt.body
		a, err := p.do(tt.method, tt.path, tt.body)
		if err != nil {
			p.t.Errorf("%s: %v", what, err)
			continue
		}
		if !slices.Contains(tt.want, a.status) {
			p.t.Errorf("%s = %d %q, want one of %v", what, a.status, a.body, tt.want)
		}
		if a.status >= 400 && a.status != 405 && tt.method != "HEAD" && (strings.TrimSpace(a.body) == "" || strings.Count(strings.TrimSpace(a.body), "\n") > 0) {
			p.t.Errorf("%s = %d %q: an error is a line of text that says what is wrong", what, a.status, a.body)
		}
	}
	if !onCluster() { // where the kubelet finds out, later
		p.call(400, "POST", "/system/functions", `{"service":"two","image":"unknown:latest"}`)
	}
	if a := p.call(404, "GET", "/nowhere", ""); a.body != "404 page not found\n" {
		p.t.Errorf("an unknown path is answered %q", a.body)
	}
	if a := p.call(405, "PATCH", "/system/functions", ""); a.body != "" {
		p.t.Errorf("a wrong verb is answered %q, want nothing", a.body)
	}
	p.call(404, "GET", "/system/function/two", "") // nothing of all that was deployed
}

func testCredentials(p *platform) {
	for _, user := range []string{"admin", "nobody", ""} {
		req, err := http.NewRequestWithContext(p.t.Context(), "GET", p.url+"/system/functions", nil)
		if err != nil {
			p.t.Fatal(err)
		}
		req.SetBasicAuth(user, "guess")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			p.t.Fatal(err)
		}
		body := make([]byte, 100)
		n, _ := resp.Body.Read(body)
		resp.Body.Close()
		if got := strings.TrimSpace(string(body[:n])); resp.StatusCode != 401 || got != "invalid credentials" || resp.Header.Get("WWW-Authenticate") != `Basic realm="Restricted"` {
			p.t.Errorf("user %q with a wrong password: %d %q %v", user, resp.StatusCode, got, resp.Header)
		}
	}
}

func testInfo(p *platform) {
	var info struct {
		Arch     string
		Provider *struct {
			Provider, Orchestration string
			Version                 *struct{ SHA, Release string }
		}
		Version *struct{ SHA, Release string }
	}
	p.json("/system/info", &info)
	if info.Provider == nil || info.Provider.Version == nil || info.Version == nil {
		p.t.Fatalf("clients panic without these: %+v", info)
	}
	for name, value := range map[string]string{
		"arch": info.Arch, "provider.provider": info.Provider.Provider, "provider.orchestration": info.Provider.Orchestration,
		"provider.version.sha": info.Provider.Version.SHA, "provider.version.release": info.Provider.Version.Release,
		"version.sha": info.Version.SHA, "version.release": info.Version.Release,
	} {
		if value == "" {
			p.t.Errorf("%s is empty", name)
		}
	}
	if info.Provider.Provider == "faasd" {
		p.t.Error("the name faasd makes clients expect less")
	}
}

func testCallHeaders(p *platform) {
	seen := func(a answer) http.Header {
		var got struct{ Header http.Header }
		if err := json.Unmarshal([]byte(a.body), &got); err != nil {
			p.t.Fatalf("%v in %q", err, a.body)
		}
		return got.Header
	}
	before := time.Now()
	a := p.call(200, "GET", "/function/wire/x?y=z", "")
	in := seen(a)
	id, began := a.header.Get("X-Call-Id"), a.header.Get("X-Start-Time")
	if id == "" || in.Get("X-Call-Id") != id {
		p.t.Errorf("call id %q, the function saw %q", id, in.Get("X-Call-Id"))
	}
	if nanos, err := strconv.ParseInt(began, 10, 64); err != nil || time.Unix(0, nanos).Before(before) || time.Unix(0, nanos).After(time.Now()) {
		p.t.Errorf("start time %q, called at %d", began, before.UnixNano())
	}
	if in.Get("X-Start-Time") != began {
		p.t.Errorf("start time %q, the function saw %q", began, in.Get("X-Start-Time"))
	}
	if d, err := strconv.ParseFloat(a.header.Get("X-Duration-Seconds"), 64); err != nil || d < 0 || d > 60 {
		p.t.Errorf("X-Duration-Seconds: %q", a.header.Get("X-Duration-Seconds"))
	}
	for _, part := range []string{"queue;dur=", "handler;dur="} {
		if !strings.Contains(strings.Join(a.header.Values("Server-Timing"), ","), part) {
			p.t.Errorf("no %s in Server-Timing %q", part, a.header.Values("Server-Timing"))
		}
	}
	if in.Get("X-Forwarded-Host") != strings.TrimPrefix(p.url, "http://") || !forwardedFor(in.Get("X-Forwarded-For")) {
		p.t.Errorf("forwarded for %q, host %q", in.Get("X-Forwarded-For"), in.Get("X-Forwarded-Host"))
	}

	a = p.call(200, "GET", "/function/wire/x", "", "X-Call-Id", "mine-17", "X-Forwarded-For", "10.0.0.1", "X-Forwarded-Host", "front")
	in = seen(a)
	want := map[string]string{"X-Call-Id": "mine-17", "X-Forwarded-For": "10.0.0.1", "X-Forwarded-Host": "front"}
	for name, value := range want {
		if in.Get(name) != value {
			p.t.Errorf("%s of the caller reached the function as %q, want %q", name, in.Get(name), value)
		}
	}
	if got := a.header.Get("X-Call-Id"); got != "mine-17" {
		p.t.Errorf("the caller's call id comes back as %q", got)
	}

	if a := p.call(404, "GET", "/function/unknown", "", "X-Call-Id", "lost-1"); a.header.Get("X-Call-Id") != "lost-1" || !strings.Contains(a.body, "unknown") {
		p.t.Errorf("a call of nobody: %q with %v", a.body, a.header)
	}
	for _, id := range []string{"broken\tid", strings.Repeat("x", 10000)} {
		if a := p.call(200, "GET", "/function/wire/x", "", "X-Call-Id", id); a.header.Get("X-Call-Id") == "" || len(a.header.Get("X-Call-Id")) > 1000 {
			p.t.Errorf("a call id that is none comes back as %.40q", a.header.Get("X-Call-Id"))
		}
	}
}

// forwardedFor tells whether a value names this test as the caller. A cluster
// may put an address of its own in its place.
func forwardedFor(value string) bool {
	host, _, err := net.SplitHostPort(value)
	return err == nil && (host == "127.0.0.1" || onCluster() && net.ParseIP(host) != nil)
}

func testFunctionNames(p *platform) {
	for _, name := range []string{"wire", "wire.openfaas-fn"} {
		for _, path := range []string{"", "/", "/a", "/a/"} {
			p.call(200, "GET", "/function/"+name+path, "")
		}
	}
	for _, name := range []string{"wire.", ".wire", "..", "wire.openfaas-fn.", "Wire", "wire_", "%77ire2", "wire.a.b"} {
		if status, body := p.raw("GET /function/" + name + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); status != 404 && status != 400 {
			p.t.Errorf("function %q: %d %q", name, status, body)
		}
	}
}

func testRoundTrip(p *platform) {
	image := p.status("wire").Image
	sent := types.FunctionDeployment{
		Service:     "trip",
		Image:       image,
		Namespace:   "openfaas-fn",
		EnvVars:     map[string]string{"ONE": "1", "two_three": "a b\nc"},
		Labels:      &map[string]string{"com.openfaas.scale.min": "1", "mine": "yes"},
		Annotations: &map[string]string{"note": "{\n  \"json\": [1, 2]\n}\n", "topic": "a,b"},
		Limits:      &types.FunctionResources{Memory: "512Mi", CPU: "1500m"},
		Requests:    &types.FunctionResources{Memory: "5Mi", CPU: ""},
	}
	body, err := json.Marshal(sent)
	if err != nil {
		p.t.Fatal(err)
	}
	p.call(202, "POST", "/system/functions", string(body))
	defer p.call(202, "DELETE", "/system/functions", `{"functionName":"trip"}`)
	testkit.Eventually(p.t, "the function answers", func() bool {
		a, err := p.do("GET", "/function/trip", "")
		return err == nil && a.status == 200
	})
	got := p.status("trip")
	if diff := cmp.Diff(sent.EnvVars, got.EnvVars); diff != "" {
		p.t.Errorf("environment (-want +got):\n%s", diff)
	}
	for name, value := range *sent.Annotations {
		if (*got.Annotations)[name] != value {
			p.t.Errorf("annotation %s is told as %q, want %q", name, (*got.Annotations)[name], value)
		}
	}
	if (*got.Labels)["mine"] != "yes" || (*got.Labels)["faas_function"] != "trip" {
		p.t.Errorf("labels %v", *got.Labels)
	}
	if diff := cmp.Diff(sent.Limits, got.Limits); diff != "" {
		p.t.Errorf("limits (-want +got):\n%s", diff)
	}
	if got.Image != image || got.Namespace != "openfaas-fn" || got.CreatedAt.IsZero() {
		p.t.Errorf("told is %+v", got)
	}
	raw := p.call(200, "GET", "/system/function/wire", "").body
	if strings.Contains(raw, "envVars") {
		p.t.Errorf("a function without environment has one: %s", raw)
	}
}

func testSecrets(p *platform) {
	p.write("secretive/handler.go", `package function

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
)

func Handle(w http.ResponseWriter, r *http.Request) {
	text, err := os.ReadFile(filepath.Join(os.Getenv("SECRETS_DIR"), r.URL.Path))
	writeErr := os.WriteFile(filepath.Join(os.Getenv("SECRETS_DIR"), "api-key"), []byte("stolen"), 0o600)
	fmt.Fprintf(w, "%q %v %t", text, err, writeErr != nil)
}
`)
	p.stack("secretive", "go", "secrets: [api-key, blob]")
	if _, stderr, code := p.try("", "up", "-f", "secretive.yml"); code == 0 || !strings.Contains(stderr, "api-key") {
		p.t.Errorf("up of a function whose secret is missing: exit %d, %s", code, stderr)
	}
	p.call(202, "POST", "/system/secrets", `{"name":"api-key","value":"first\n"}`)
	p.call(202, "POST", "/system/secrets", `{"name":"blob","value":"text","rawValue":"AAH/"}`)
	p.cli("up", "-f", "secretive.yml")
	if a := p.call(200, "GET", "/function/secretive/api-key", ""); a.body != `"first\n" <nil> true` {
		p.t.Errorf("the function reads %s: want the value as it is, in a file that it cannot write", a.body)
	}
	if a := p.call(200, "GET", "/function/secretive/blob", ""); a.body != `"\x00\x01\xff" <nil> true` {
		p.t.Errorf("a binary secret is read as %s", a.body)
	}
	var list []types.Secret
	p.json("/system/secrets", &list)
	names := map[string]bool{}
	for _, s := range list {
		names[s.Name] = true
		if s.Value != "" || len(s.RawValue) > 0 {
			p.t.Errorf("the list tells the value of %s", s.Name)
		}
	}
	if !names["api-key"] || !names["blob"] {
		p.t.Errorf("the list is %v", names)
	}

	p.call(202, "PUT", "/system/secrets", `{"name":"api-key","value":"renewed-4711"}`)
	testkit.Eventually(p.t, "the function sees the new value", func() bool {
		return strings.HasPrefix(p.call(200, "GET", "/function/secretive/api-key", "").body, `"renewed-4711"`)
	})
	if a, err := p.do("DELETE", "/system/secrets", `{"name":"api-key"}`); err != nil || a.status < 400 {
		// A platform may allow it; then the function must go on.
		p.call(200, "GET", "/function/secretive/blob", "")
	}
	p.cli("remove", "secretive")
	if strings.Contains(p.log.String(), "renewed-4711") {
		p.t.Error("a secret is in the log")
	}
}

func testNamespaces(p *platform) {
	list := func() []string {
		var names []string
		p.json("/system/namespaces", &names)
		slices.Sort(names)
		return names
	}
	if diff := cmp.Diff([]string{"openfaas-fn"}, list()); diff != "" {
		p.t.Errorf("namespaces at first (-want +got):\n%s", diff)
	}
	const lab = `{"name":"lab","labels":{"openfaas":"1","team":"a"},"annotations":{"openfaas":"1"}}`
	if a, _ := p.do("POST", "/system/namespace/", lab); a.status != 200 && a.status != 201 && a.status != 202 {
		p.t.Fatalf("create: %d %q", a.status, a.body)
	}
	p.call(409, "POST", "/system/namespace/", lab)
	if diff := cmp.Diff([]string{"lab", "openfaas-fn"}, list()); diff != "" {
		p.t.Errorf("namespaces (-want +got):\n%s", diff)
	}
	p.call(202, "PUT", "/system/namespace/lab", strings.Replace(lab, `"team":"a"`, `"team":"b"`, 1))
	var got types.FunctionNamespace
	p.json("/system/namespace/lab", &got)
	if got.Name != "lab" || got.Labels["team"] != "b" {
		p.t.Errorf("got %+v", got)
	}

	// The same name is another function, with secrets of its own.
	p.goFunction("echo", "lab")
	p.cli("up", "-f", "echo.yml", "--namespace", "lab")
	if a := p.call(200, "GET", "/function/echo.lab", ""); !strings.HasPrefix(a.body, "lab ") {
		p.t.Errorf("answer %q", a.body)
	}
	p.gone("/function/echo")
	p.call(404, "GET", "/system/function/echo", "")
	p.call(200, "GET", "/system/function/echo?namespace=lab", "")
	p.call(202, "POST", "/system/secrets", `{"name":"here","namespace":"lab","value":"x"}`)
	if a := p.call(200, "GET", "/system/secrets", ""); strings.Contains(a.body, "here") {
		p.t.Errorf("a secret of another namespace is listed: %s", a.body)
	}
	if a := p.call(200, "GET", "/system/secrets?namespace=lab", ""); !strings.Contains(a.body, "here") {
		p.t.Errorf("the secret is not listed: %s", a.body)
	}

	if a, _ := p.do("DELETE", "/system/namespace/openfaas-fn", `{"name":"openfaas-fn"}`); a.status < 400 {
		p.t.Errorf("the default namespace was deleted: %d", a.status)
	}
	if a, _ := p.do("DELETE", "/system/namespace/lab", `{"name":"lab"}`); a.status < 400 {
		p.t.Errorf("a namespace in use was deleted: %d", a.status)
	} else if !strings.Contains(a.body, "echo") {
		p.t.Errorf("the refusal does not say what is in the way: %q", a.body)
	}
	p.call(202, "DELETE", "/system/functions", `{"functionName":"echo","namespace":"lab"}`)
	p.call(202, "DELETE", "/system/secrets?namespace=lab", `{"name":"here"}`)
	testkit.Eventually(p.t, "the namespace can be deleted", func() bool {
		a, err := p.do("DELETE", "/system/namespace/lab", `{"name":"lab","labels":{"openfaas":"1"}}`)
		return err == nil && (a.status == 200 || a.status == 202)
	})
	p.call(404, "GET", "/system/namespace/lab", "")
}

func testScale(p *platform) {
	for _, n := range []uint64{3, 0, 1} {
		p.call(202, "POST", "/system/scale-function/wire", fmt.Sprintf(`{"serviceName":"wire","replicas":%d}`, n))
		testkit.Eventually(p.t, fmt.Sprint(n, " replicas"), func() bool {
			s := p.status("wire")
			return s.Replicas == n && s.AvailableReplicas == n
		})
		raw := p.call(200, "GET", "/system/function/wire", "").body
		if n == 0 && (strings.Contains(raw, `"replicas"`) || strings.Contains(raw, `"availableReplicas"`)) {
			p.t.Errorf("zeroes are left out by OpenFaaS, and here: %s", raw)
		}
	}
}

func testLogs(p *platform) {
	p.write("talker/handler.go", `package function

import (
	"fmt"
	"net/http"
	"os"
)

func Handle(w http.ResponseWriter, r *http.Request) {
	fmt.Println("out " + r.URL.Query().Get("say"))
	fmt.Fprintln(os.Stderr, "err " + r.URL.Query().Get("say"))
}
`)
	p.stack("talker", "go")
	p.cli("up", "-f", "talker.yml")
	lines := func(query string) []logs.Message {
		p.t.Helper()
		a := p.call(200, "GET", "/system/logs?name=talker"+query, "")
		if got := a.header.Get("Content-Type"); got != "application/x-ndjson" {
			p.t.Errorf("logs have type %q", got)
		}
		var all []logs.Message
		for line := range strings.Lines(a.body) {
			var m logs.Message
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				p.t.Fatalf("%v in %q", err, line)
			}
			if strings.Contains(m.Text, "out ") || strings.Contains(m.Text, "err ") {
				all = append(all, m)
			}
		}
		return all
	}
	p.call(200, "GET", "/function/talker?say=one", "")
	testkit.Eventually(p.t, "what was printed is in the logs", func() bool { return len(lines("")) >= 2 })
	texts := map[string]bool{}
	var instance string
	for _, m := range lines("") {
		texts[m.Text] = true
		instance = m.Instance
		if m.Name != "talker" || m.Namespace != "openfaas-fn" || m.Instance == "" || m.Timestamp.IsZero() {
			p.t.Errorf("a line is %+v", m)
		}
	}
	if diff := cmp.Diff([]string{"err one\n", "out one\n"}, slices.Sorted(maps.Keys(texts))); diff != "" {
		p.t.Errorf("texts (-want +got):\n%s", diff)
	}
	if got := lines("&instance=" + instance); len(got) < 2 {
		p.t.Errorf("of its replica: %+v", got)
	}
	if got := lines("&instance=another"); len(got) > 0 {
		p.t.Errorf("of another replica: %+v", got)
	}
	since := time.Now().UTC()
	if got := lines("&since=" + since.Add(time.Hour).Format(time.RFC3339)); len(got) > 0 {
		p.t.Errorf("of the future: %+v", got)
	}
	if got := lines("&since=" + since.Add(-time.Hour).Format(time.RFC3339)); len(got) < 2 {
		p.t.Errorf("of the last hour: %+v", got)
	}
	for i := range 10 {
		p.call(200, "GET", fmt.Sprintf("/function/talker?say=more%d", i), "")
	}
	testkit.Eventually(p.t, "the last line is there", func() bool {
		a := p.call(200, "GET", "/system/logs?name=talker&tail=6", "")
		return strings.Count(a.body, "\n") == 6 && strings.Contains(a.body, "more9")
	})

	follow := p.open("GET", "/system/logs?name=talker&follow=true&tail=1", nil)
	defer follow.Body.Close()
	next := make(chan string)
	go func() {
		defer close(next)
		for scan := bufio.NewScanner(follow.Body); scan.Scan(); {
			next <- scan.Text()
		}
	}()
	<-next // the tail
	p.call(200, "GET", "/function/talker?say=live", "")
	for line := range next {
		if strings.Contains(line, "live") {
			break
		}
	}
	// A follower outlives the replicas it began with.
	p.call(202, "POST", "/system/scale-function/talker", `{"replicas":0}`)
	testkit.Eventually(p.t, "talker sleeps", func() bool { return p.status("talker").AvailableReplicas == 0 })
	p.call(200, "GET", "/function/talker?say=reborn", "")
	for line := range next {
		if strings.Contains(line, "reborn") {
			go func() {
				for range next { // until the body is closed
				}
			}()
			return
		}
	}
	p.t.Error("the follower ended")
}

// status is what the platform tells of a function.
func (p *platform) status(name string) types.FunctionStatus {
	p.t.Helper()
	var s types.FunctionStatus
	p.json("/system/function/"+name, &s)
	return s
}

// json decodes the answer of a GET.
func (p *platform) json(path string, into any) {
	p.t.Helper()
	a := p.call(200, "GET", path, "")
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		p.t.Fatalf("GET %s: %v in %q", path, err, a.body)
	}
}
