package function

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/function"
)

type listOptions struct {
	f *command.Factory

	output  term.Format
	verbose bool
	quiet   bool
	sort    string
}

func listCommand(f *command.Factory) *cobra.Command {
	o := &listOptions{f: f}
	cmd := &cobra.Command{
		Use:        "list",
		SuggestFor: []string{"get", "ps"},
		Aliases:    []string{"ls"},
		Short:      "List functions",
		GroupID:    "function",
		Long: `Lists the functions of a namespace. READY counts the replicas that can take
calls, of those that there should be. A function that sleeps until it is called
has 0/0 and how warm it is kept: frozen, zygote or asleep.`,
		Example: `  graphene list
  graphene list --quiet | xargs graphene remove
  graphene list -o json --namespace lab`,
		Args: command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "show images and times too")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "show names only")
	flags.StringVar(&o.sort, "sort", "name", "order: name, invocations or created")
	command.OutputFlag(cmd, &o.output)
	command.CompleteFlag(cmd, "sort", command.OneOf("name", "invocations", "created"))
	return cmd
}

func (o *listOptions) run(ctx context.Context) error {
	less, err := order(o.sort)
	if err != nil {
		return err
	}
	c, err := o.f.Client(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := command.Timeout(ctx)
	defer cancel()
	all, err := c.List(ctx, o.f.Flags.Namespace)
	if err != nil {
		return err
	}
	if ns := o.f.Flags.Namespace; len(all) == 0 && ns != "" {
		// The API lists nothing in a namespace that is not there, as OpenFaaS's does.
		if there, err := c.Namespaces(ctx); err == nil && !slices.Contains(there, ns) {
			return command.NotFoundError(fmt.Errorf("there is no namespace %q", ns), "\"graphene namespace list\" shows those there are")
		}
	}
	slices.SortFunc(all, less)
	if o.quiet && o.output.IsTable() {
		for _, s := range all {
			o.f.Streams.Printf("%s\n", term.Clean(s.Name))
		}
		return nil
	}
	return o.output.Write(o.f.Streams.Out, all, func(t *term.Table) {
		header := []string{"NAME", "INVOCATIONS", "READY"}
		if o.verbose {
			header = append(header, "NAMESPACE", "IMAGE", "CREATED")
		}
		t.Header(header...)
		for _, s := range all {
			row := []string{s.Name, strconv.FormatFloat(s.InvocationCount, 'f', -1, 64), readiness(s)}
			if o.verbose {
				row = append(row, s.Namespace, s.Image, s.CreatedAt.Format(time.RFC3339))
			}
			t.Row(row...)
		}
	})
}

// readiness is what the column READY says.
func readiness(s client.Listed) string {
	text := fmt.Sprintf("%d/%d", s.AvailableReplicas, s.Replicas)
	if s.Tier != "" && s.Tier != function.Hot.String() {
		text += " " + s.Tier
	}
	return text
}

// order returns how --sort orders functions.
func order(name string) (func(a, b client.Listed) int, error) {
	switch name {
	case "name":
		return byName, nil
	case "invocations":
		return func(a, b client.Listed) int {
			return cmp.Or(cmp.Compare(b.InvocationCount, a.InvocationCount), byName(a, b))
		}, nil
	case "created":
		return func(a, b client.Listed) int { return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), byName(a, b)) }, nil
	}
	return nil, command.Usagef("--sort is %q, want name, invocations or created", name)
}

func byName(a, b client.Listed) int { return strings.Compare(a.Name, b.Name) }
