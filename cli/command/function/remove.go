package function

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/internal/function"
)

func removeCommand(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:     "remove [NAME...]",
		Aliases: []string{"rm", "delete"},
		Short:   "Remove functions",
		GroupID: "function",
		Long: `Removes the functions that are named or, without a name, those of the stack
file. Calls in progress are finished.`,
		Example: `  graphene remove wine
  graphene remove -f stack.yaml --filter 'test-*'`,
		ValidArgsFunction: f.CompleteFunctions,
		RunE:              func(cmd *cobra.Command, args []string) error { return runRemove(cmd.Context(), f, args) },
	}
}

func runRemove(ctx context.Context, f *command.Factory, names []string) error {
	var refs []function.Ref
	var file command.StackFile
	for _, name := range names {
		ref, err := f.Ref(name)
		if err != nil {
			return err
		}
		refs = append(refs, ref)
	}
	if len(names) == 0 {
		read, functions, err := f.Selected(ctx, nil)
		if errors.Is(err, command.ErrNoStack) {
			return command.Usagef("name the functions to remove, or a stack file with -f")
		}
		if err != nil {
			return err
		}
		file = read
		for _, fn := range functions {
			refs = append(refs, function.Ref{Name: fn.Name, Namespace: f.Namespace(fn.Namespace)})
		}
	}
	url, err := f.Gateway(ctx)
	if file.Stack != nil {
		url, err = f.GatewayOf(file)
	}
	if err != nil {
		return err
	}
	c, err := f.ClientOf(url)
	if err != nil {
		return err
	}
	ctx, cancel := command.Timeout(ctx)
	defer cancel()
	var errs []error
	for _, ref := range refs {
		if err := c.Remove(ctx, ref); err != nil {
			errs = append(errs, err)
			continue
		}
		f.Streams.Printf("%s is removed\n", ref.Name)
	}
	return errors.Join(errs...)
}
