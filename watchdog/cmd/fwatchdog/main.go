// Command fwatchdog runs a function's process or serves its files, as its
// environment says. It is the entrypoint of function images.
package main

import (
	"flag"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/graphene-faas/graphene/watchdog"
)

func main() {
	version := flag.Bool("version", false, "print the version and exit")
	check := flag.Bool("run-healthcheck", false, "exit 0 if the watchdog of this container is healthy")
	flag.Parse()
	switch {
	case *version:
		if info, ok := debug.ReadBuildInfo(); ok {
			fmt.Println("fwatchdog", info.Main.Version)
		}
	case *check:
		os.Exit(watchdog.Healthcheck())
	default:
		os.Exit(watchdog.Main(nil))
	}
}
