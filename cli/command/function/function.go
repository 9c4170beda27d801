// Package function holds the commands about functions: new, test, build, push,
// deploy and up bring one from nothing to an address; list, describe, invoke,
// logs and scale look after it; remove ends it.
package function

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/internal/function"
)

// Commands returns all commands about functions, in the order of help.
func Commands(f *command.Factory) []*cobra.Command {
	return []*cobra.Command{
		newCommand(f),
		upCommand(f),
		testCommand(f),
		buildCommand(f),
		pushCommand(f),
		deployCommand(f),
		invokeCommand(f),
		listCommand(f),
		describeCommand(f),
		logsCommand(f),
		scaleCommand(f),
		removeCommand(f),
	}
}

// callURL returns where a function is called.
func callURL(gateway string, ref function.Ref) string {
	name := ref.Name
	if ref.Namespace != "" && ref.Namespace != function.DefaultNamespace {
		name = ref.String()
	}
	return gateway + "/function/" + name
}

// keyValues reads NAME=VALUE arguments of a flag.
func keyValues(flag string, args []string) (map[string]string, error) {
	m := map[string]string{}
	for _, arg := range args {
		k, v, ok := strings.Cut(arg, "=")
		if !ok || k == "" {
			return nil, command.Usagef("--%s is %q, want NAME=VALUE", flag, arg)
		}
		m[k] = v
	}
	return m, nil
}
