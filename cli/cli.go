// Package cli is the command line of Graphene, assembled.
//
// [Main] runs one command in the world that an [Env] describes and returns the
// exit code. The commands are in packages below command, one for each noun;
// the parts that they use (stack files, images, logins, the terminal) are
// siblings of this one. Errors end up here, and only here are they shown.
package cli

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/command/auth"
	"github.com/graphene-faas/graphene/cli/command/calls"
	"github.com/graphene-faas/graphene/cli/command/function"
	"github.com/graphene-faas/graphene/cli/command/namespace"
	"github.com/graphene-faas/graphene/cli/command/queue"
	"github.com/graphene-faas/graphene/cli/command/secret"
	"github.com/graphene-faas/graphene/cli/command/system"
	"github.com/graphene-faas/graphene/cli/command/template"
	"github.com/graphene-faas/graphene/cli/term"
)

// An Env is everything of the outside world that a command may touch besides
// the file system and the network.
type Env struct {
	Args           []string // without the program's name
	Environ        []string // NAME=VALUE
	Dir            string   // working directory, absolute
	Stdin          io.Reader
	Stdout, Stderr io.Writer

	Version, Commit string
	// Sources are what a Go function links: see package graphene.
	Sources fs.FS
	// Commands are added to those of this package.
	Commands []*cobra.Command
	// Checks are added to those of doctor.
	Checks []system.Check
}

// Main runs the command that env.Args name, until it is done or ctx ends, and
// returns the exit code. "graphene help exit-codes" lists them.
func Main(ctx context.Context, env Env) int {
	f := &command.Factory{
		Streams: term.New(env.Stdin, env.Stdout, env.Stderr),
		Environ: env.Environ,
		Dir:     env.Dir,
		Version: env.Version,
		Commit:  env.Commit,
		Sources: env.Sources,
	}
	if slices.Contains(env.Environ, "TERM=dumb") {
		f.Streams.ErrTTY = false // it cannot go back to a line
	}
	root := New(f, env.Commands, env.Checks)
	if code, ok := runPlugin(ctx, env, f, root); ok {
		return code
	}
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(f.Streams.Out)
	root.SetErr(env.Stderr)

	err := root.ExecuteContext(ctx)
	if err == nil {
		err = f.Streams.Lost()
	}
	if err != nil {
		if message := command.Message(err, f.Spoken()); message != "" {
			fmt.Fprintf(env.Stderr, "graphene: %s\n", message)
		}
	}
	return command.ExitCode(err)
}

// New returns the root of all commands.
func New(f *command.Factory, more []*cobra.Command, checks []system.Check) *cobra.Command {
	root := &cobra.Command{
		Use:   "graphene",
		Short: "Functions as a service, for machine-learning handlers and everything else",
		Long: `Graphene builds, runs and calls functions written in Go and Python. It speaks
OpenFaaS: stack files, logins, gateways and function images are the same.

    graphene serve                   a whole platform on this machine
    graphene new hello --lang go     a function that works
    graphene up                      build, push and deploy it
    graphene invoke hello            call it`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		DisableAutoGenTag: true,
		Args:              command.Below,
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		// Asked for by --version; the command of that name says more.
		Version: f.Version,
	}
	root.SetVersionTemplate("graphene {{.Version}}\n")
	root.AddGroup(
		&cobra.Group{ID: "function", Title: "Functions:"},
		&cobra.Group{ID: "resource", Title: "What functions need:"},
		&cobra.Group{ID: "platform", Title: "The platform:"},
	)
	f.Flags.Add(root.PersistentFlags())
	completeFlags(f, root)

	root.AddCommand(function.Commands(f)...)
	root.AddCommand(calls.Command(f), queue.Command(f))
	root.AddCommand(secret.Command(f), namespace.Command(f), template.Command(f))
	root.AddCommand(auth.Commands(f)...)
	root.AddCommand(system.VersionCommand(f), system.UsageCommand(f), system.DoctorCommand(f, checks))
	for _, c := range more {
		c.GroupID = "platform"
		root.AddCommand(c)
	}
	root.AddCommand(exitCodes(), stackFile())
	root.SetHelpCommandGroupID("platform")
	root.SetCompletionCommandGroupID("platform")
	root.SetFlagErrorFunc(command.FlagError)
	root.SetHelpCommand(help())
	root.InitDefaultCompletionCmd() // now, and not when it runs, so that it is a noun like others
	nounsWantVerbs(root)
	return root
}

// completeFlags proposes values for the flags that all commands have.
func completeFlags(f *command.Factory, root *cobra.Command) {
	command.CompleteFlag(root, "namespace", func(ctx context.Context) []string {
		c, err := f.Client(ctx)
		if err != nil {
			return nil
		}
		all, err := c.Namespaces(ctx)
		if err != nil {
			return nil
		}
		return all
	})
}

// nounsWantVerbs makes a command that has others below it say so when it is
// given a word that is none of them.
func nounsWantVerbs(root *cobra.Command) {
	for _, c := range root.Commands() {
		if !c.HasSubCommands() || c.Runnable() {
			continue
		}
		c.Args = command.Below
		c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		nounsWantVerbs(c)
	}
}

// help returns the command that shows the help of another.
func help() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]...",
		Short: "Show the help of a command",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err == nil && about.HasSubCommands() {
				err = command.Below(about, rest)
			}
			if err != nil {
				return err
			}
			return about.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if about, rest, err := cmd.Root().Find(args); err == nil && len(rest) == 0 {
				for _, c := range about.Commands() {
					if c.IsAvailableCommand() || c.IsAdditionalHelpTopicCommand() {
						names = append(names, cobra.CompletionWithDesc(c.Name(), c.Short))
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

// exitCodes returns the help on exit codes.
func exitCodes() *cobra.Command {
	var long strings.Builder
	long.WriteString("The program ends with one of these codes:\n\n")
	for _, o := range command.Outcomes() {
		fmt.Fprintf(&long, "    %3d  %s\n", o.Code, o.Doc)
	}
	long.WriteString("\nA plugin ends with its own.\n")
	return &cobra.Command{Use: "exit-codes", Short: "What the program's exit codes mean", Long: long.String()}
}
