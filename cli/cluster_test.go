package cli_test

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/graphene-faas/graphene/cli/image"
	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/pyenv"
)

// useCluster implements the command cluster.
func useCluster(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) > 1 {
		ts.Fatalf("usage: cluster [registry]")
	}
	short, err := os.MkdirTemp("", "g")
	ts.Check(err)
	ts.Defer(func() { os.RemoveAll(short) })

	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	ts.Defer(images.Close)
	host := strings.TrimPrefix(images.URL, "http://")
	builds := function.Builds{PythonImage: host + "/python:3", WatchdogImage: host + "/graphene/watchdog:test"}
	if len(args) == 1 {
		builds.Registry = host + "/team"
	}
	ctx, cancel := context.WithCancel(context.Background())
	ts.Defer(cancel)
	ts.Check(pushBases(ctx, builds, filepath.Join(short, "cache")))

	url, stop, err := startPlatform(ctx, short, builds)
	ts.Check(err)
	ts.Defer(stop)
	ts.Check(logins.File{Path: ts.Getenv("CONFIG")}.Save(url, logins.NewBasic("admin", password)))
	ts.Setenv("OPENFAAS_URL", url)
	ts.Setenv("URL", url)
	ts.Setenv("REGISTRY", host)
}

// pushBases pushes what a cluster's images are made from: a real watchdog, and
// what says that it is this machine's Python.
func pushBases(ctx context.Context, builds function.Builds, cache string) error {
	dog, err := image.BuildProgram(ctx, image.ProgramOptions{
		Name:     "watchdog",
		Package:  "./watchdog/cmd/fwatchdog",
		Dir:      "..",
		Targets:  []function.Target{{OS: runtime.GOOS, Arch: runtime.GOARCH}},
		Version:  "test",
		CacheDir: cache,
	})
	if err != nil {
		return err
	}
	if err := dog.Copy(ctx, builds.WatchdogImage, image.CopyOptions{}); err != nil {
		return err
	}
	base, err := random.Image(1024, 2)
	if err != nil {
		return err
	}
	config, err := base.ConfigFile()
	if err != nil {
		return err
	}
	config.OS, config.Architecture = runtime.GOOS, runtime.GOARCH
	config.Config = v1.Config{Cmd: []string{"python3"}}
	if python, err := pyenv.Find(ctx, "python3"); err == nil {
		config.Config.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "PYTHON_VERSION=" + python.Version}
	}
	if base, err = mutate.ConfigFile(base, config); err != nil {
		return err
	}
	ref, err := name.ParseReference(builds.PythonImage)
	if err != nil {
		return err
	}
	return remote.Write(ref, base)
}
