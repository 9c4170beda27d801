package function

import (
	"context"
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
)

func scaleCommand(f *command.Factory) *cobra.Command {
	var replicas int
	cmd := &cobra.Command{
		Use:     "scale NAME --replicas N",
		Short:   "Set how many replicas a function has",
		GroupID: "function",
		Long: `Sets how many replicas a function should have. 0 puts it to sleep; the next
call wakes it. The command does not wait for the replicas.

Where the platform scales by itself it takes over again: replicas that nobody
needs go after a while, and calls bring more.`,
		Example: `  graphene scale wine --replicas 2
  graphene scale wine --replicas 0`,
		Args:              command.ExactArgs(1),
		ValidArgsFunction: f.CompleteFunctions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("replicas") {
				return command.Usagef("say how many with --replicas")
			}
			if replicas < 0 {
				return command.Usagef("--replicas is %d, want 0 or more", replicas)
			}
			ref, err := f.Ref(args[0])
			if err != nil {
				return err
			}
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if err := c.Scale(ctx, ref, replicas); err != nil {
					return err
				}
				f.Streams.Printf("%s is scaled to %s\n", args[0], term.Count(replicas, "replica"))
				return nil
			})
		},
	}
	cmd.Flags().IntVar(&replicas, "replicas", 0, "number of replicas")
	return cmd
}
