package cli_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/gateway/quota"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/pyenv"
	"github.com/graphene-faas/graphene/internal/web"
	"github.com/graphene-faas/graphene/provider"
	"github.com/graphene-faas/graphene/provider/local"
	"github.com/graphene-faas/graphene/provider/runtimetest"
)

const password = "open sesame"

// numpyMissing is what functions print whose image has "broken" in its name,
// before they end.
const numpyMissing = "ModuleNotFoundError: No module named 'numpy'"

// startPlatform serves a real gateway and a real provider over a runtime that
// runs nothing, until stop is called. Its functions answer what they are asked. It
// is an embedded platform unless builds says how a cluster's images are made.
func startPlatform(ctx context.Context, dir string, builds function.Builds) (url string, stop func(), err error) {
	replicas := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	socket := filepath.Join(dir, "s")
	if replicas.Listener, err = net.Listen("unix", socket); err != nil {
		return "", nil, err
	}
	replicas.Start()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		replicas.Close()
		return "", nil, err
	}

	python, err := pyenv.Find(ctx, "python3")
	if err != nil {
		python.Target = function.Target{OS: runtime.GOOS, Arch: runtime.GOARCH}
	}
	fake := runtimetest.NewFake("unix:" + socket)
	fake.Now = func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }
	fake.Says = func(types.FunctionDeployment) []string { return []string{"starting", "import numpy", numpyMissing} }
	fake.Fails = func(d types.FunctionDeployment) string {
		if strings.Contains(d.Image, "broken") {
			return "exit status 1: " + numpyMissing
		}
		return ""
	}
	version := types.VersionInfo{Release: "v1.2.3", SHA: "abc"}
	keys, err := local.OpenAPIKeys(filepath.Join(dir, "api-keys.json"))
	if err != nil {
		replicas.Close()
		return "", nil, err
	}
	functions := provider.New(provider.Options{
		APIKeys:    keys,
		Objects:    keys,
		Runtime:    fake,
		Secrets:    fake,
		Logs:       fake,
		Namespaces: fake,
		Info:       types.ProviderInfo{Name: "fake", Orchestration: "nothing", Version: &version},
	})
	calls, err := openQueue(dir)
	if err != nil {
		replicas.Close()
		return "", nil, err
	}
	usage, err := quota.NewBucket(calls.conn, 1)
	if err != nil {
		replicas.Close()
		return "", nil, err
	}
	var own http.Handler
	if builds == (function.Builds{}) {
		own = registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	}
	front := gateway.New(gateway.Options{
		Queue:         calls.Queue,
		Account:       quota.NewAccount(usage, discard()),
		Listener:      listener,
		Provider:      web.InProcess(functions.Handler()),
		Authenticator: auth.NewBasic("admin", password),
		Registry:      own,
		Builds:        builds,
		Version:       version,
		Target:        func(context.Context) (function.Target, error) { return python.Target, nil },
		Log:           discard(),
	})
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { _ = functions.Run(ctx) })
	wg.Go(func() { _ = front.Run(ctx) })
	wg.Go(func() { _ = calls.work(ctx, front.Handler()) })
	return "http://" + listener.Addr().String(), func() {
		cancel()
		wg.Wait()
		calls.close()
		replicas.Close()
	}, nil
}

// answer is what every function of the platform does.
func answer(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/_/ready" || r.URL.Path == "/_/health" {
		return
	}
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Server-Timing", "handler;dur=1.5")
	w.Header().Set("X-Asked", r.Header.Get("X-Ask"))
	if r.URL.Path == "/fail" {
		w.WriteHeader(http.StatusTeapot)
	}
	fmt.Fprintf(w, "%s %s?%s %s %s\n", r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("Content-Type"), body)
}
