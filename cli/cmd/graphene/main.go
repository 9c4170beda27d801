// Command graphene is the one program that a user of Graphene needs: it makes,
// builds, deploys and calls functions, and `graphene serve` is a whole
// platform on this machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/graphene-faas/graphene"
	"github.com/graphene-faas/graphene/cli"
)

// Set by the linker.
var (
	version = "dev"
	commit  = ""
)

func main() {
	if handled, code := reexec(os.Args); handled {
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
	})
}

// reexec runs one of the hidden programs that this one is besides: those that
// `graphene serve` starts for the functions' replicas.
func reexec(args []string) (handled bool, code int) { return false, 0 }
