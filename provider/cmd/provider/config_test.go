package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/openfaas/faas-provider/auth"

	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/provider/kube"
)

func TestTheReferencePageListsEverySetting(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# The program provider

Deploys functions to a Kubernetes cluster: it serves the API that gateways speak, tells them where functions live, and
makes Deployments and Services of [Function resources](kubernetes.md). Several may run side by side; one of them is the
controller, and the others take over when it ends. This page is generated.

It needs the Kubernetes API, and waits for it. While that is away, gateways go on calling what they know. SIGTERM lets
requests finish, within ` + "`drain_timeout`" + `, and ends streams at once: their readers come back and find another provider.

` + "`/healthz`" + ` answers 200 as long as the program lives; ` + "`/ready`" + ` answers 503 until everything in the cluster has been seen.

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
	testkit.Golden(t, "../../../docs/reference/provider.md", []byte(b.String()))
}

func TestSettingsReachTheRuntime(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(`{
		"clusters": [{"name": "it", "cluster": {"server": "http://127.0.0.1:1"}}],
		"contexts": [{"name": "it", "context": {"cluster": "it"}}], "current-context": "it"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	read := func(environ ...string) kube.Options {
		t.Helper()
		c, err := conf.Read[config](append(environ, "KUBECONFIG="+kubeconfig))
		if err == nil {
			err = c.check()
		}
		if err != nil {
			t.Fatal(err)
		}
		o, err := c.options("me", nil)
		if err != nil {
			t.Fatal(err)
		}
		o.Client = nil // which is not among the settings
		return o
	}
	want := kube.Options{
		DefaultNamespace: "fn", ProfilesNamespace: "fn", Identity: "me", Workers: 4,
		Pods: kube.PodConfig{ImagePullPolicy: kube.PullAuto, Settle: 2 * time.Second},
	}
	if diff := cmp.Diff(want, read("function_namespace=fn")); diff != "" {
		t.Errorf("without further settings (-want +got):\n%s", diff)
	}
	want = kube.Options{
		DefaultNamespace: "fn", Namespaces: []string{"a", "b"}, AllNamespaces: true, ProfilesNamespace: "system",
		IAM: true, ServiceAccounts: []string{"graphene", "other"}, APIKeySecret: true, SigningKeySecret: true,
		ThroughService: true, Workers: 7, Pods: kube.PodConfig{ImagePullPolicy: "Never", ImageUser: true, Settle: 5 * time.Second},
	}
	got := read("function_namespace=fn", "namespaces=a, b", "cluster_role=true", "profiles_namespace=system", "iam=true", "service_account_audience=graphene,other",
		"api_keys=true", "signing_keys=true", "endpoints=service", "leader_election=false", "reconcile_workers=7", "image_pull_policy=Never", "set_nonroot_user=false", "settle=5s")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("with every setting (-want +got):\n%s", diff)
	}
}

func TestEveryBadSettingIsNamed(t *testing.T) {
	c, err := conf.Read[config]([]string{"endpoints=dns", "image_pull_policy=sometimes", "log_format=xml", "reconcile_workers=0", "namespaces=a,B", "service_account_audience=graphene"})
	if err != nil {
		t.Fatal(err)
	}
	err = c.check()
	if err == nil {
		t.Fatal("everything is wrong, and nothing is said")
	}
	for _, part := range []string{"endpoints", "image_pull_policy", "log_format", "reconcile_workers", `"B"`, "service_account_audience"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s:\n%v", part, err)
		}
	}
}

type always bool

func (a always) Ready() bool { return bool(a) }

func TestOnlyHealthIsAnsweredWithoutALogin(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"basic-auth-user": "admin", "basic-auth-password": "secret\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := conf.Read[config]([]string{"secret_mount_path=" + dir})
	if err != nil {
		t.Fatal(err)
	}
	known, err := c.credentials()
	if err != nil {
		t.Fatal(err)
	}
	api := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	ask := func(h http.Handler, path, user, password string) int {
		r := httptest.NewRequest("GET", path, nil)
		if user != "" {
			r.SetBasicAuth(user, password)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	guarded, open := routes(api, always(false), known), routes(api, always(true), (*auth.BasicAuthCredentials)(nil))
	for _, tt := range []struct {
		h                    http.Handler
		path, user, password string
		want                 int
	}{
		{guarded, "/healthz", "", "", 200},
		{guarded, "/ready", "", "", 503},
		{guarded, "/system/functions", "", "", 401},
		{guarded, "/endpoints", "", "", 401},
		{guarded, "/load", "admin", "wrong", 401},
		{guarded, "/healthz/../system/functions", "", "", 401},
		{guarded, "/system/functions", "admin", "secret", 200},
		{open, "/ready", "", "", 200},
		{open, "/system/functions", "", "", 200},
	} {
		if got := ask(tt.h, tt.path, tt.user, tt.password); got != tt.want {
			t.Errorf("%s as %q: %d, want %d", tt.path, tt.user, got, tt.want)
		}
	}
}

func TestAnEmptyPasswordIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"basic-auth-user", "basic-auth-password"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := (config{BasicAuth: true, SecretMountPath: dir}).credentials(); err == nil {
		t.Error("anybody could come in")
	}
}
