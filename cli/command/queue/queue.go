// Package queue holds the commands about the queues that asynchronous calls
// wait in.
package queue

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
)

// Command returns the command about queues.
func Command(f *command.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "queue",
		Aliases: []string{"queues"},
		Short:   "Look at the queues of asynchronous calls",
		GroupID: "platform",
		Long: `Looks at the queues that asynchronous calls wait in. Functions share one, unless
their annotation com.openfaas.queue names another.`,
	}
	cmd.AddCommand(listCommand(f), describeCommand(f))
	return cmd
}

func listCommand(f *command.Factory) *cobra.Command {
	return command.Show(f, &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List queues: how many calls wait, and since when",
		Example: `  graphene queue list`,
		Args:    command.NoArgs,
	}, func(ctx context.Context, c *client.Client, _ []string) ([]client.Queue, error) {
		return c.Queues(ctx)
	}, func(t *term.Table, all []client.Queue) {
		t.Header("NAME", "BACKLOG", "RETRIES", "FUNCTIONS", "AGE")
		for _, q := range all {
			t.Row(q.Name, strconv.Itoa(q.Backlog), strconv.Itoa(q.Waiting), strconv.Itoa(len(q.Functions)), age(q))
		}
	})
}

// age is how long the oldest call has waited.
func age(q client.Queue) string {
	if q.Oldest == nil {
		return "-"
	}
	return max(0, time.Since(*q.Oldest)).Round(time.Second).String()
}

func describeCommand(f *command.Factory) *cobra.Command {
	return command.Show(f, &cobra.Command{
		Use:     "describe NAME",
		Aliases: []string{"get"},
		Short:   "Show a queue, and which functions' calls wait in it",
		Example: `  graphene queue describe faas-request`,
		Args:    command.ExactArgs(1),
		ValidArgsFunction: f.CompleteNames(func(ctx context.Context, c *client.Client) (names []string, err error) {
			all, err := c.Queues(ctx)
			for _, q := range all {
				names = append(names, q.Name)
			}
			return names, err
		}),
	}, func(ctx context.Context, c *client.Client, args []string) (client.Queue, error) {
		return c.Queue(ctx, args[0])
	}, func(t *term.Table, q client.Queue) {
		t.Row("Name:", q.Name)
		t.Row("Backlog:", strconv.Itoa(q.Backlog))
		t.Row("Waiting for a retry:", strconv.Itoa(q.Waiting))
		t.Row("Age of the oldest:", age(q))
		title := "Functions:"
		names := slices.SortedFunc(maps.Keys(q.Functions), func(a, b string) int {
			return cmp.Or(cmp.Compare(q.Functions[b], q.Functions[a]), strings.Compare(a, b))
		})
		for _, name := range names {
			t.Row(title, name+": "+strconv.Itoa(q.Functions[name]))
			title = ""
		}
	})
}
