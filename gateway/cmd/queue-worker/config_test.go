package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestTheReferencePageListsEverySetting(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# The program queue-worker

Runs the asynchronous calls of one queue, in a cluster: it takes them from NATS JetStream and sends them to the gateway.
Several may work on one queue. [The queue](queue.md) says what it does with a call. This page is generated.

It needs NATS and the gateway, and waits for both: it starts without them, says so in its log, and begins when they are
there. SIGTERM lets the calls that run finish, within ` + "`drain_timeout`" + `, and gives back the others at once.

On ` + "`metrics_listen`" + ` it answers ` + "`/metrics`" + `; ` + "`/healthz`" + `, with 200 as long as it lives; and ` + "`/ready`" + `, with 503 while it is not
connected to NATS or the gateway has not made the queue.

| variable | default | |
|---|---|---|
`)
	for _, f := range conf.Fields[config]() {
		value := ""
		if f.Default != "" {
			value = "`" + f.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", f.Env, value, f.Doc)
	}
	testkit.Golden(t, "../../../docs/reference/queue-worker.md", []byte(b.String()))
}

func read(t *testing.T, environ ...string) config {
	t.Helper()
	c, err := conf.Read[config](environ)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestEveryBadSettingIsNamed(t *testing.T) {
	c := read(t, "gateway_url=nowhere", "max_inflight=0", "retry_http_codes=5xx", "callback_permit=10.0.0.0", "callback_secret_file=/nonexistent", "secret_mount_path=/nonexistent")
	_, err := c.worker()
	if err == nil {
		t.Fatal("everything is wrong, and nothing is said")
	}
	for _, part := range []string{"gateway_url", "max_inflight", "retry_http_codes", "callback_permit", "secret that signs", "read credentials"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s:\n%v", part, err)
		}
	}
}

func TestWhereNATSIs(t *testing.T) {
	for want, environ := range map[string][]string{
		"nats://nats:4222":          nil,
		"nats://[::1]:14222":        {"nats_host=::1", "nats_port=14222"},
		"tls://a:4222":              {"nats_host=tls://a:4222"},
		"nats://a:4222,nats://b:42": {"nats_host=c", "nats_url=nats://a:4222,nats://b:42"},
	} {
		if got := read(t, environ...).natsURL(); got != want {
			t.Errorf("%v gives %s, want %s", environ, got, want)
		}
	}
}

func TestCallsKeepTheirCallersAuthorizationAndCarryTheWorkersBesides(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"basic-auth-user": "admin", "basic-auth-password": "secret\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got http.Header
	gateway := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header }))
	defer gateway.Close()
	o, err := read(t, "gateway_url="+gateway.URL, "secret_mount_path="+dir).worker()
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", gateway.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer the caller's")
	resp, err := o.Gateway.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got.Get("Authorization") != "Bearer the caller's" || got.Get("Proxy-Authorization") != "Basic YWRtaW46c2VjcmV0" {
		t.Errorf("the gateway sees %v", got)
	}
}
