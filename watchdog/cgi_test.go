package watchdog

import (
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"testing"
)

// FuzzCGIEnvironment checks what must hold of any request: every variable can
// be given to a process, none has a name outside our own, and headers cannot
// say what the request's line says.
func FuzzCGIEnvironment(f *testing.F) {
	f.Add("X-Thing", "value", "GET", "/path", "a=1")
	f.Add("Method", "DELETE", "GET", "/%00", "")
	f.Add("Ld_Preload=x", "/evil.so", "", "/\x00", "\x00")
	f.Add("pRoxy", "http://evil", "POST", "", "")
	f.Add("BASH_FUNC_x%%", "() { :;}; echo", "PUT", "\n", "=")
	f.Fuzz(func(t *testing.T, header, value, method, path, query string) {
		r := &http.Request{Method: method, URL: &url.URL{Path: path, RawQuery: query}, Header: http.Header{header: {value}}}
		env := cgiEnvironment(r)
		names := map[string]bool{}
		for _, kv := range env {
			name, _, _ := strings.Cut(kv, "=")
			if names[name] {
				t.Errorf("%s is there twice in %q", name, env)
			}
			names[name] = true
			rest, ours := strings.CutPrefix(name, "Http_")
			if !ours || rest == "" || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
				t.Errorf("a variable is called %q", name)
			}
			if strings.EqualFold(name, "http_proxy") {
				t.Errorf("%q would be taken for a client's configuration", kv)
			}
			if strings.ContainsRune(kv, 0) {
				t.Errorf("%q cannot be given to a process", kv)
			}
		}
		if !names["Http_Method"] {
			t.Errorf("no method in %q", env)
		}
		cmd := exec.Cmd{Env: env}
		if len(cmd.Environ()) < len(env) {
			t.Errorf("some of %q are lost", env)
		}
	})
}
