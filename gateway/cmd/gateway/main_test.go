package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// secrets makes the files of the administrator's credentials.
func secrets(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"basic-auth-user": "admin", "basic-auth-password": "s3cret"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestTheGatewayServesWhatTheProviderHasAndStopsWhenAsked(t *testing.T) {
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "admin" || password != "s3cret" {
			t.Errorf("%s reached the provider with %q and %q", r.URL, user, password)
		}
		switch r.URL.Path {
		case "/endpoints":
			io.WriteString(w, `{"epoch":"1","synced":true,"reset":true}`)
			http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/system/functions":
			io.WriteString(w, `[]`)
		}
	}))
	defer provider.Close()
	ctx, stop := context.WithCancel(t.Context())
	out, in := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		defer in.Close()
		ended <- serve(ctx, []string{
			"functions_provider_url=" + provider.URL, "secret_mount_path=" + secrets(t),
			"listen=127.0.0.1:0", "metrics_listen=none", "shutdown_delay=0s",
		}, in)
	}()
	lines := bufio.NewReader(out)
	first, err := lines.ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var said struct{ Msg, Listen string }
	if err := json.Unmarshal(first, &said); err != nil || said.Msg != "serving" {
		t.Fatalf("the first line of the log is %q, want JSON that says where it serves", first)
	}
	rest := make(chan []byte)
	go func() {
		text, _ := io.ReadAll(lines)
		rest <- text
	}()
	get := func(path string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+said.Listen+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("admin", "s3cret")
		resp, err := http.DefaultTransport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	for code := 0; code != 200; code, _ = get("/healthz") {
		if t.Context().Err() != nil {
			t.Fatal("the gateway does not get healthy")
		}
	}
	if code, body := get("/system/functions"); code != 200 || body != "[]\n" {
		t.Errorf("functions: %d %q", code, body)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if text := <-rest; !bytes.Contains(text, []byte("gateway stopped")) || bytes.Contains(text, []byte("s3cret")) {
		t.Errorf("log: %s", text)
	}
}

func TestWhatIsWrongWithTheSettingsIsSaidAtOnce(t *testing.T) {
	for want, environ := range map[string][]string{
		"functions_provider_url is not set": nil,
		"nats_creds_file":                   {"functions_provider_url=http://127.0.0.1:1", "nats_host=nats", "nats_token_file=t", "nats_creds_file=c", "basic_auth=false", "listen=127.0.0.1:0", "metrics_listen=none"},
		"belong together":                   {"functions_provider_url=http://127.0.0.1:1", "build_watchdog_image=w"},
		"build_registry is":                 {"functions_provider_url=http://127.0.0.1:1", "build_registry=https://r"},
		"log_format is \"xml\"":             {"functions_provider_url=http://127.0.0.1:1", "log_format=xml"},
	} {
		var stderr bytes.Buffer
		code := run(nil, environ, io.Discard, &stderr)
		if got := stderr.String(); code != 1 || !strings.Contains(got, want) || strings.Contains(got, "hush") {
			t.Errorf("exit %d, %q; want 1 and %q", code, got, want)
		}
	}
}

func TestItSaysWhatItIsAndWhatItReads(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run([]string{"-version"}, nil, &stdout, &stderr); code != 0 || stdout.String() != "gateway dev unknown\n" {
		t.Errorf("-version: %d %q", code, stdout.String())
	}
	if code := run([]string{"-help"}, nil, &stdout, &stderr); code != 0 || !strings.Contains(stderr.String(), "functions_provider_url") {
		t.Errorf("-help: %d %q", code, stderr.String())
	}
}
