package gateway_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/async"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/invoke"
	"github.com/graphene-faas/graphene/gateway/quota"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
	"github.com/graphene-faas/graphene/internal/web"
)

// limited has a gateway keep account of its callers and enforce limits.
func limited(t *testing.T, text string) func(*gateway.Options) {
	t.Helper()
	nc := natstest.Start(t)
	store, err := quota.NewBucket(nc, 1)
	if err != nil {
		t.Fatal(err)
	}
	queue, err := async.Open(t.Context(), nc, async.Options{Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	edge := gateway.Edge{LimitsConfig: filepath.Join(t.TempDir(), "limits.yaml")}
	if err := os.WriteFile(edge.LimitsConfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(o *gateway.Options) {
		o.Queue = queue
		if o.Limits, o.Account, err = edge.Metering(true, store, nil, testkit.Log(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCallersAreHeldToTheirLimitsAndTheirUseIsReported(t *testing.T) {
	i := startIssuer(t)
	p := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(http.StatusInternalServerError)
		}
		fmt.Fprint(w, "answer")
	}, guard(t, i), limited(t, `
limits:
  - {name: plan, roles: callers, calls: {day: 3}, queuedBytes: {day: 10}}
  - {name: doors, per: address, rate: 1000/s}
`))
	p.deploy(t, "echo")
	member, stranger := "Bearer "+i.logIn(t, "test-user2"), "Bearer "+i.logIn(t, "test-user@127.0.0.1")

	post := func(authorization, uri, body string) int {
		r, err := http.NewRequestWithContext(t.Context(), "POST", p.url+uri, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", authorization)
		resp, text := p.send(t, r)
		if resp.StatusCode == 429 {
			if !strings.Contains(text, `limit "plan" is reached`) || resp.Header.Get("Retry-After") == "" || resp.Header.Get(web.HeaderInternal) != "gateway" {
				t.Errorf("the refusal %q, %v does not say enough", text, resp.Header)
			}
		}
		return resp.StatusCode
	}
	got := []int{
		post(member, "/function/echo", "12345"),
		post(member, "/function/echo/bad", "12"),
		post(stranger, "/function/echo", "x"),
		post(member, "/async-function/echo", "12345678"),
		post(member, "/async-function/echo", "123"), // more than the ten bytes of the day
		post(member, "/function/echo", "x"),         // the fourth call: the one that was too much counts for nothing
		post("", "/function/echo", "x"),
		post(basic("admin", "s3cret"), "/function/echo", "x"), // of another role
	}
	if diff := cmp.Diff([]int{200, 500, 403, 202, 429, 429, 401, 200}, got); diff != "" {
		t.Fatal(diff)
	}

	resp, text := p.do(t, "GET", "/system/usage", "")
	var lines []quota.Line
	if err := json.Unmarshal([]byte(text), &lines); err != nil || resp.StatusCode != 200 {
		t.Fatalf("%d %s: %v", resp.StatusCode, text, err)
	}
	for n := range lines {
		lines[n].BusyMillis = 0
	}
	const echo = "openfaas-fn:echo"
	want := []quota.Line{
		{Caller: "(anonymous)", Function: echo, Counts: quota.Counts{Refused: 1}},
		{Caller: "admin", Function: echo, Counts: quota.Counts{Calls: 1, BytesIn: 1, BytesOut: 6}},
		{Caller: "corp/id1", Function: echo, Counts: quota.Counts{Refused: 1}},
		{Caller: "corp/id2", Function: echo, Counts: quota.Counts{Calls: 2, Errors: 1, Refused: 2, Queued: 1, QueuedBytes: 8, BytesIn: 7, BytesOut: 12}},
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Error(diff)
	}

	for uri, status := range map[string]int{
		"/system/usage?from=yesterday":                400,
		"/system/usage?by=colour":                     400,
		"/system/usage?from=2026-02-01&to=2026-01-01": 400,
		"/system/usage?from=2026-01-01&to=2026-01-31": 200,
	} {
		if resp, text := p.do(t, "GET", uri, ""); resp.StatusCode != status {
			t.Errorf("%s: %d %s, want %d", uri, resp.StatusCode, text, status)
		}
	}
	if resp, _ := p.as(t, member, "GET", "/system/usage"); resp.StatusCode != 403 {
		t.Errorf("somebody without the right sees what all others use: %d", resp.StatusCode)
	}
}

func TestGuessingPasswordsIsAsFastAsTheLimitsAllow(t *testing.T) {
	p := start(t, nothing, limited(t, "limits: [{name: doors, per: address, rate: 1/h, burst: 3}]"))
	var got []int
	for range 5 {
		resp, _ := p.as(t, basic("admin", "guess"), "GET", "/system/functions")
		got = append(got, resp.StatusCode)
	}
	if diff := cmp.Diff([]int{401, 401, 401, 429, 429}, got); diff != "" {
		t.Error(diff)
	}
}

func TestALoadOfCallsAtOnceIsCutToTheLimit(t *testing.T) {
	arrived, finish := make(chan struct{}, 10), make(chan struct{})
	p := start(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-finish
	}, limited(t, "limits: [{name: few, per: all, concurrent: 2}]"))
	p.deploy(t, "echo")
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			if resp, _ := p.as(t, "", "GET", "/function/echo"); resp.StatusCode != 200 {
				t.Errorf("a call within the limit got %d", resp.StatusCode)
			}
		})
	}
	<-arrived
	<-arrived
	if resp, text := p.as(t, "", "GET", "/function/echo"); resp.StatusCode != 429 {
		t.Errorf("the third call at once got %d %s", resp.StatusCode, text)
	}
	close(finish)
	running.Wait()
	if resp, _ := p.as(t, "", "GET", "/function/echo"); resp.StatusCode != 200 {
		t.Errorf("a call after the others got %d", resp.StatusCode)
	}
}

func TestProxiesAreToldWhoSentARequest(t *testing.T) {
	i := startIssuer(t)
	p := start(t, nothing, guard(t, i))
	member, stranger := "Bearer "+i.logIn(t, "test-user2"), "Bearer "+i.logIn(t, "test-user@127.0.0.1")
	for _, tt := range []struct {
		name, authorization, query string
		status                     int
		user                       string
	}{
		{"a caller", member, "", 200, "id2"},
		{"a caller of a role", member, "?role=callers", 200, "id2"},
		{"a caller of one of the roles", member, "?role=bosses&role=callers", 200, "id2"},
		{"a caller of another role", member, "?role=bosses", 403, ""},
		{"a caller without a role", stranger, "?role=callers", 403, ""},
		{"a caller without a role, where none is asked for", stranger, "", 200, "id1"},
		{"the administrator", basic("admin", "s3cret"), "?role=bosses", 200, "admin"},
		{"a wrong password", basic("admin", "wrong"), "", 401, ""},
		{"nobody", "", "", 401, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp, text := p.as(t, tt.authorization, "GET", "/auth/verify"+tt.query)
			if resp.StatusCode != tt.status || resp.Header.Get("X-Auth-Request-User") != tt.user {
				t.Errorf("%d %q, user %q; want %d, %q", resp.StatusCode, text, resp.Header.Get("X-Auth-Request-User"), tt.status, tt.user)
			}
		})
	}
	if resp, _ := p.as(t, member, "GET", "/auth/verify"); resp.Header.Get("X-Auth-Request-Roles") != "callers" || resp.Header.Get("X-Auth-Request-Issuer") != "corp" {
		t.Errorf("the proxy learns %v", resp.Header)
	}
}

func TestTheAuditLogSaysWhoDidWhatAndKeepsSecrets(t *testing.T) {
	i := startIssuer(t)
	name := filepath.Join(t.TempDir(), "audit.log")
	file, err := gateway.Edge{AuditLog: name}.Audit()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	p := start(t, nothing, guard(t, i), func(o *gateway.Options) {
		o.Audit = file.Handler()
		o.Proxies.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	p.deploy(t, "echo")
	member := "Bearer " + i.logIn(t, "test-user2")
	r, err := http.NewRequestWithContext(t.Context(), "POST", p.url+"/system/secrets", strings.NewReader(`{"name":"api","value":"t0p-secret"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", member)
	r.Header.Set("X-Forwarded-For", "192.0.2.7")
	p.send(t, r)
	p.do(t, "POST", "/system/secrets", `{"name":"api","value":"t0p-secret"}`)
	p.do(t, "GET", "/system/secrets", "") // looking changes nothing
	p.as(t, basic("admin", "gue55"), "GET", "/system/functions?password=hunter2")
	p.as(t, "", "GET", "/function/echo?key=hunter2")

	type line struct {
		Caller, From, Action, Resource, Rule, Reason, Path string
		Allowed                                            *bool
		Status                                             int
		Time                                               time.Time
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for entry := range strings.Lines(string(text)) {
		var l line
		if err := json.Unmarshal([]byte(entry), &l); err != nil || l.Time.IsZero() || l.From == "" {
			t.Errorf("%q is no line of the log: %v", entry, err)
		}
		allowed := "?"
		if l.Allowed != nil {
			allowed = fmt.Sprint(*l.Allowed)
		}
		got = append(got, strings.Join([]string{l.Caller, l.Action, l.Resource, allowed, l.Rule, fmt.Sprint(l.Status)}, " "))
	}
	want := []string{
		"admin Function:Update openfaas-fn:echo true administrator 404", // there was none to update
		"admin Function:Create openfaas-fn:echo true administrator 202",
		"corp/id2 Secret:Create openfaas-fn:* false  403",
		"admin Secret:Create openfaas-fn:* true administrator 202",
		"   ?  401", // a wrong password: whose, nobody knows
		" Function:Invoke openfaas-fn:echo ?  0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !strings.Contains(string(text), `"from":"192.0.2.7"`) {
		t.Error("the log does not have the address that the proxy saw")
	}
	for _, secret := range []string{"t0p-secret", "hunter2", "gue55", "s3cret", strings.TrimPrefix(member, "Bearer ")} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func TestSettingsOfTheEdgeThatCannotWorkAreRefused(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "limits.yaml")
	if err := os.WriteFile(broken, []byte("limits: [{}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	for why, try := range map[string]func() error{
		"a proxy by name":          func() error { _, err := gateway.Edge{TrustedProxies: "proxy"}.Proxies(); return err },
		"a prefix without a slash": func() error { _, err := gateway.Edge{PathPrefix: "functions"}.Proxies(); return err },
		"TLS without a key":        func() error { _, _, err := gateway.Edge{TLSListen: ":0"}.Encrypted(log); return err },
		"a key without TLS":        func() error { _, _, err := gateway.Edge{TLSKey: broken}.Encrypted(log); return err },
		"limits that bound nothing": func() error {
			_, _, err := gateway.Edge{LimitsConfig: broken}.Metering(false, nil, nil, log)
			return err
		},
		"an audit log in no directory": func() error { _, err := gateway.Edge{AuditLog: filepath.Join(dir, "no", "log")}.Audit(); return err },
	} {
		if err := try(); err == nil {
			t.Errorf("%s is taken", why)
		}
	}
}

func TestWhatTheQueueRunsCountsForWhoSubmittedIt(t *testing.T) {
	i := startIssuer(t)
	var queue *async.Queue
	p := start(t, func(_ http.ResponseWriter, r *http.Request) {
		if who := r.Header.Get(invoke.HeaderSubmitter); who != "" {
			t.Errorf("the function sees who submitted its call: %q", who)
		}
	}, guard(t, i), limited(t, "limits: []"), func(o *gateway.Options) { queue = o.Queue })
	worker(t, queue, &auth.Transport{Header: "Proxy-Authorization", User: "admin", Password: "s3cret", Next: inProcess(p)})
	p.deploy(t, "echo")
	member := "Bearer " + i.logIn(t, "test-user2")
	for uri, body := range map[string]string{"/async-function/echo": "12345", "/async-batch/echo": "{}\n"} {
		r, err := http.NewRequestWithContext(t.Context(), "POST", p.url+uri, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", member)
		r.Header.Set(invoke.HeaderSubmitter, "corp/somebody-else")
		if resp, text := p.send(t, r); resp.StatusCode != 202 {
			t.Fatalf("%s: %d %s", uri, resp.StatusCode, text)
		}
	}
	var lines []quota.Line
	for end := time.Now().Add(time.Minute); len(lines) == 0 || lines[0].Calls < 2; time.Sleep(20 * time.Millisecond) {
		_, text := p.do(t, "GET", "/system/usage", "")
		if err := json.Unmarshal([]byte(text), &lines); err != nil || time.Now().After(end) {
			t.Fatalf("the report stays %s: %v", text, err)
		}
	}
	if len(lines) != 1 || lines[0].Caller != "corp/id2" || lines[0].Queued != 2 || lines[0].Calls != 2 {
		t.Errorf("the report is %+v", lines)
	}
}
