package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
)

// exitPlugin is the exit code when a plugin cannot be run.
const exitPlugin = 127

// runPlugin runs the program of the same name as an unknown first argument,
// from the directory plugins beside the file of logins; ok is false if there
// is none. It gets the other arguments, and its exit code becomes ours.
func runPlugin(ctx context.Context, env Env, f *command.Factory, root *cobra.Command) (code int, ok bool) {
	args := env.Args
	if len(args) == 0 || strings.HasPrefix(args[0], "-") || strings.HasPrefix(args[0], "_") || args[0] == "help" || args[0] == "completion" || args[0] != filepath.Base(args[0]) {
		return 0, false
	}
	if cmd, _, err := root.Find(args); err == nil && cmd != root {
		return 0, false
	}
	file, err := f.Logins()
	if err != nil {
		return 0, false
	}
	path := filepath.Join(filepath.Dir(file.Path), "plugins", args[0])
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	cmd := exec.CommandContext(ctx, path, args[1:]...)
	cmd.Env, cmd.Dir = env.Environ, env.Dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = env.Stdin, env.Stdout, env.Stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.Exited() {
		return exit.ExitCode(), true
	}
	if err != nil {
		fmt.Fprintf(env.Stderr, "graphene: plugin %s: %v\n", args[0], err)
		return exitPlugin, true
	}
	return 0, true
}
