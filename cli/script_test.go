package cli_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/graphene-faas/graphene"
	"github.com/graphene-faas/graphene/cli"
	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/internal/function"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"graphene": func() { os.Exit(runGraphene()) }})
}

// runGraphene is what a script's graphene does: a process of its own.
func runGraphene() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return cli.Main(ctx, cli.Env{
		Args:    os.Args[1:],
		Environ: os.Environ(),
		Dir:     dir,
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Version: "v9.9.9",
		Commit:  "0123abc",
		Sources: graphene.Sources(),
	})
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// TestScripts runs the sessions in testdata/script. Each has a platform of its
// own at $OPENFAAS_URL, and is logged in to it.
//
//	cluster [registry]        goes on with a platform that is a cluster, logged in to it;
//	                          its images are in $REGISTRY, where it names that for those
//	                          without a host if it is told to
//	code N graphene …         runs a command that must end with exit code N
//	mkprogress FILE IN KEY ID
//	                          writes the file by which a batch of echo is continued
//	until REGEXP graphene …   repeats a command until what it prints matches
func TestScripts(t *testing.T) {
	ctx := t.Context()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		UpdateScripts:       os.Getenv("UPDATE") != "",
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup:               func(env *testscript.Env) error { return setUp(ctx, env) },
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"cluster":    useCluster,
			"code":       exitsWith,
			"until":      until,
			"mkprogress": makeProgress,
		},
	})
}

func setUp(ctx context.Context, env *testscript.Env) error {
	// A socket's path must be short.
	short, err := os.MkdirTemp("", "g")
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(short) })
	url, stop, err := startPlatform(ctx, short, function.Builds{})
	if err != nil {
		return err
	}
	env.Defer(stop)

	home := filepath.Join(env.WorkDir, "home")
	config := filepath.Join(home, ".openfaas", "config.yml")
	if err := (logins.File{Path: config}).Save(url, logins.NewBasic("admin", password)); err != nil {
		return err
	}
	env.Setenv("OPENFAAS_URL", url)
	env.Setenv("URL", url)
	env.Setenv("SOCKET", filepath.Join(short, "s"))
	env.Setenv("HOME", home)
	env.Setenv("CONFIG", config)
	env.Setenv("PASSWORD", password)
	// Builds use the caches of whoever runs the test, and no network.
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOROOT", "GOFLAGS"} {
		if value, ok := os.LookupEnv(name); ok {
			env.Setenv(name, value)
		}
	}
	cache, err := os.UserCacheDir()
	if err == nil && env.Getenv("GOCACHE") == "" {
		env.Setenv("GOCACHE", filepath.Join(cache, "go-build"))
	}
	env.Setenv("GOPROXY", "off")
	env.Setenv("GOTOOLCHAIN", "local")
	return nil
}

// exitsWith implements the command code.
func exitsWith(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// until implements the command of that name.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until REGEXP COMMAND [ARG...]")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	giveUp := time.After(time.Minute)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil && want.MatchString(ts.ReadFile("stdout")) {
			return
		}
		select {
		case <-tick.C:
		case <-giveUp:
			ts.Fatalf("%s did not print %s in a minute: %v", strings.Join(args[1:], " "), want, err)
		}
	}
}

// makeProgress implements the command mkprogress.
func makeProgress(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 4 {
		ts.Fatalf("usage: mkprogress FILE IN KEY ID")
	}
	text := fmt.Sprintf(`{"key":%q,"gateway":%q,"function":"echo.openfaas-fn","input":%q,"id":%q}`, args[2], ts.Getenv("URL"), ts.MkAbs(args[1]), args[3])
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o666))
}
