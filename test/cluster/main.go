//go:build linux

// Command cluster brings up a real Kubernetes of one node on this machine, for
// tests, and takes it down again without a trace.
//
// The node is a set of namespaces (mount, network, process, host name, control
// group): what runs in it is etcd, the control plane, a kubelet with
// containerd, a DNS server and an image registry, as ordinary processes. There
// is no container engine below it, and nothing of the machine outside changes.
// A process outside, the keeper, forwards three ports of the machine's
// loopback into the node: to the API server, to the registry and to the
// platform's gateway.
//
// It needs root, Linux with control groups of version 1, and Debian's packages,
// which it installs. Everything else is built from source at versions that
// go.mod pins, once, into the user's cache directory.
//
// README.md shows its use.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `Usage: cluster [-name NAME] COMMAND

Commands:
  up             bring the cluster up; do nothing if it is
  down           take it down
  exec CMD...    run a command inside the node
  restart-api    kill the API server, which is started again
  env            print the shell's variables for using it from outside
  build          build its binaries, which up does if they are missing
  light up       only etcd and an API server, on loopback, without root
  light down     end them
`

func main() {
	flags := flag.NewFlagSet("cluster", flag.ExitOnError)
	name := flags.String("name", "graphene", "name of the cluster: several can be up at once")
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	_ = flags.Parse(os.Args[1:]) // exits on an error

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *name, flags.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("unknown command; -h lists them")

func run(ctx context.Context, name string, args []string) error {
	c, err := newCluster(name)
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return errUsage
	}
	switch args[0] {
	case "up":
		return c.up(ctx)
	case "down":
		return c.down()
	case "exec":
		return c.exec(args[1:])
	case "restart-api":
		return c.restartAPI()
	case "env":
		return c.printEnv(os.Stdout)
	case "build":
		return c.build(ctx)
	case "light":
		if c, err = newCluster("light-" + name); err != nil {
			return err
		}
		switch {
		case len(args) == 2 && args[1] == "up":
			return c.lightUp(ctx)
		case len(args) == 2 && args[1] == "down":
			return c.lightDown()
		}
	case "keep", "node": // the parts of up that go on running
		if args[0] == "keep" {
			return c.keep(ctx)
		}
		return c.node(ctx)
	}
	return errUsage
}
