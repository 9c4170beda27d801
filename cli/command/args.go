package command

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
)

// MaxArgs accepts up to n arguments.
func MaxArgs(n int) cobra.PositionalArgs { return args(cobra.MaximumNArgs(n)) }

// ExactArgs accepts n arguments.
func ExactArgs(n int) cobra.PositionalArgs { return args(cobra.ExactArgs(n)) }

// RangeArgs accepts from least to most arguments.
func RangeArgs(least, most int) cobra.PositionalArgs { return args(cobra.RangeArgs(least, most)) }

// MinArgs accepts n arguments or more.
func MinArgs(n int) cobra.PositionalArgs { return args(cobra.MinimumNArgs(n)) }

// NoArgs accepts no argument.
var NoArgs = args(cobra.NoArgs)

// Below refuses a word that is none of the commands below cmd, and names those
// that may have been meant.
func Below(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return Usagef("there is no command %q%s; \"%s --help\" lists all", cmd.CommandPath()+" "+args[0], near(cmd, args[0], ""), cmd.CommandPath())
}

// FlagError says what is wrong with a command's flags, and which may have been
// meant by one that there is not.
func FlagError(cmd *cobra.Command, err error) error {
	meant := ""
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		var flags cobra.Command // cobra compares words with the names of commands alone
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				flags.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
			}
		})
		meant = near(&flags, unknown.GetSpecifiedName(), "--")
	}
	return Usagef("%w%s; \"%s --help\" shows what there is", err, meant, cmd.CommandPath())
}

// near asks whether one of the commands below cmd was meant by a word that is
// similar; "" if none is. Each gets the prefix.
func near(cmd *cobra.Command, word, prefix string) string {
	cmd.SuggestionsMinimumDistance = min(2, len(word)/2) // any two words of three letters are alike by two
	names := cmd.SuggestionsFor(word)
	if len(names) == 0 {
		return ""
	}
	return "; did you mean " + prefix + strings.Join(names, " or "+prefix) + "?"
}

// args makes the errors of check errors of the command line.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return Usagef("%w; usage: %s", err, cmd.UseLine())
		}
		return nil
	}
}

// CompleteFlag proposes values for a flag to a shell. It panics if cmd has no
// such flag.
func CompleteFlag(cmd *cobra.Command, flag string, values func(context.Context) []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return values(cmd.Context()), cobra.ShellCompDirectiveNoFileComp
	})
	if err != nil {
		panic(err)
	}
}

// OneOf is what CompleteFlag takes for a flag with few values.
func OneOf(values ...string) func(context.Context) []string {
	return func(context.Context) []string { return values }
}

// ExistsError gives err the kind fault.Exists and says what to do about it.
func ExistsError(err error, remedy string) error {
	return fault.Exists.Errorf("%w; %s", err, remedy)
}

// NotFoundError gives err the kind fault.NotFound and says what to do about it.
func NotFoundError(err error, remedy string) error {
	return fault.NotFound.Errorf("%w; %s", err, remedy)
}

// OutputFlag adds the flag for the format of what a command prints.
func OutputFlag(cmd *cobra.Command, format *term.Format) {
	cmd.Flags().VarP(format, "output", "o", "format of the result")
	CompleteFlag(cmd, "output", OneOf("table", "json", "yaml"))
}

// Show has cmd print what get finds at the gateway, in the format of a flag that
// it adds. For people it is a table.
func Show[T any](f *Factory, cmd *cobra.Command, get func(context.Context, *client.Client, []string) (T, error), table func(*term.Table, T)) *cobra.Command {
	var output term.Format
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			found, err := get(ctx, c, args)
			if err != nil {
				return err
			}
			return output.Write(f.Streams.Out, found, func(t *term.Table) { table(t, found) })
		})
	}
	OutputFlag(cmd, &output)
	return cmd
}
