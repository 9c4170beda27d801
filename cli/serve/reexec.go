package serve

import (
	"io"

	"github.com/graphene-faas/graphene/provider/local"
	"github.com/graphene-faas/graphene/watchdog"
)

// The names under which the platform starts its own program for a replica.
const (
	helperRole   = "replica-helper" // fences its process in and becomes the function's
	watchdogRole = "fwatchdog"      // stands in for the program of that name in images
)

// Isolation says in one line how far this machine lets a platform fence
// functions in. The executable is as in [Options].
func Isolation(executable string) string { return local.Probe([]string{executable, helperRole}) }

// Reexec runs the role that the platform gave this process, if it gave one,
// and returns its exit status. A main calls it before anything else.
func Reexec(args, environ []string, stderr io.Writer) (handled bool, code int) {
	if len(args) < 2 {
		return false, 0
	}
	switch args[1] {
	case helperRole:
		return true, local.ReplicaMain(args[2:], environ, stderr)
	case watchdogRole:
		return true, watchdog.Main(nil)
	}
	return false, 0
}
