// Command graphene is the one program that a user of Graphene needs: it makes,
// builds, deploys and calls functions, and `graphene serve` is a whole
// platform on this machine.
package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/openfaas/faas-provider/types"
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene"
	"github.com/graphene-faas/graphene/cli"
	"github.com/graphene-faas/graphene/cli/command/system"
	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/cli/serve"
)

// Set by the linker.
var (
	version = "dev"
	commit  = ""
)

func main() {
	if handled, code := serve.Reexec(os.Args, os.Environ(), os.Stderr); handled {
		os.Exit(code)
	}
	os.Exit(run())
}

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// The first signal asks; with the second the process ends as it would have.
	context.AfterFunc(ctx, stop)

	dir, err := os.Getwd()
	if err != nil {
		fmt.Fprintf(os.Stderr, "graphene: find the working directory: %v\n", err)
		return 1
	}
	// Replicas start this program again; without knowing where it is, only
	// serve fails, and says so.
	executable, _ := os.Executable()
	return cli.Main(ctx, cli.Env{
		Args:    os.Args[1:],
		Environ: os.Environ(),
		Dir:     dir,
		Stdin:   os.Stdin,
		Stdout:  os.Stdout,
		Stderr:  os.Stderr,
		Version: version,
		Commit:  commit,
		Sources: graphene.Sources(),
		Commands: []*cobra.Command{serve.NewCommand(serve.CommandOptions{
			Environ:    os.Environ(),
			Executable: executable,
			Version:    types.VersionInfo{Release: version, SHA: cmp.Or(commit, "unknown"), CommitMessage: "built from " + cmp.Or(commit, "unknown sources")},
			LogIn:      logIn(dir),
			Stdout:     os.Stdout,
			Stderr:     os.Stderr,
		})},
		Checks: []system.Check{{
			Name: "isolation",
			Run: func(context.Context) (string, error) {
				return "functions of a platform on this machine get: " + serve.Isolation(executable), nil
			},
		}},
	})
}

// logIn keeps logins where the other commands, and faas-cli, look for them.
func logIn(dir string) func(gateway, user, password string) error {
	return func(gateway, user, password string) error {
		path, err := logins.Path(os.Getenv, dir)
		if err != nil {
			return err
		}
		return logins.File{Path: path}.Save(gateway, logins.NewBasic(user, password))
	}
}
