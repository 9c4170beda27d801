// Package namespace holds the commands about namespaces: the places that
// functions and secrets belong to.
package namespace

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/openfaas/faas-provider/types"
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/function"
)

// Command returns the command about namespaces.
func Command(f *command.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "namespace",
		Aliases: []string{"ns"},
		Short:   "Manage namespaces",
		GroupID: "resource",
		Long: `Manages namespaces. Functions and secrets belong to one: ` + function.DefaultNamespace + ` unless
--namespace or the stack file names another. The function wine of the namespace
lab is called at /function/wine.lab.`,
	}
	cmd.AddCommand(createCommand(f), listCommand(f), getCommand(f), updateCommand(f), removeCommand(f))
	return cmd
}

// metadata are the flags that describe a namespace.
type metadata struct{ labels, annotations []string }

func (m *metadata) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&m.labels, "label", "l", nil, "NAME=VALUE label; may be repeated")
	cmd.Flags().StringArrayVar(&m.annotations, "annotation", nil, "NAME=VALUE annotation; may be repeated")
}

// namespace returns the namespace that the flags describe. openfaas=1, as
// label and annotation, is what marks a namespace as one of functions.
func (m *metadata) namespace(name string) (types.FunctionNamespace, error) {
	n := types.FunctionNamespace{
		Name:        name,
		Labels:      map[string]string{"openfaas": "1"},
		Annotations: map[string]string{"openfaas": "1"},
	}
	if err := function.ValidNamespace(name); err != nil {
		return n, err
	}
	for _, kv := range m.labels {
		if err := add(n.Labels, "label", kv); err != nil {
			return n, err
		}
	}
	for _, kv := range m.annotations {
		if err := add(n.Annotations, "annotation", kv); err != nil {
			return n, err
		}
	}
	return n, nil
}

func add(m map[string]string, flag, kv string) error {
	k, v, ok := strings.Cut(kv, "=")
	if !ok || k == "" {
		return command.Usagef("--%s is %q, want NAME=VALUE", flag, kv)
	}
	m[k] = v
	return nil
}

func createCommand(f *command.Factory) *cobra.Command {
	var m metadata
	cmd := &cobra.Command{
		Use:     "create NAME",
		Short:   "Make a namespace",
		Example: `  graphene namespace create lab --label team=vision`,
		Args:    command.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := m.namespace(args[0])
			if err != nil {
				return err
			}
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if err := c.CreateNamespace(ctx, n); err != nil {
					return err
				}
				f.Streams.Printf("namespace %s is created\n", n.Name)
				return nil
			})
		},
	}
	m.addFlags(cmd)
	return cmd
}

func updateCommand(f *command.Factory) *cobra.Command {
	var m metadata
	cmd := &cobra.Command{
		Use:               "update NAME",
		Short:             "Replace the labels and annotations of a namespace",
		Example:           `  graphene namespace update lab --label team=audio`,
		Args:              command.ExactArgs(1),
		ValidArgsFunction: complete(f),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := m.namespace(args[0])
			if err != nil {
				return err
			}
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if err := c.UpdateNamespace(ctx, n); err != nil {
					return err
				}
				f.Streams.Printf("namespace %s is updated\n", n.Name)
				return nil
			})
		},
	}
	m.addFlags(cmd)
	return cmd
}

func listCommand(f *command.Factory) *cobra.Command {
	return command.Show(f, &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List namespaces",
		Example: `  graphene namespace list`,
		Args:    command.NoArgs,
	}, func(ctx context.Context, c *client.Client, _ []string) ([]string, error) {
		all, err := c.Namespaces(ctx)
		slices.Sort(all)
		return all, err
	}, func(t *term.Table, all []string) {
		t.Header("NAME")
		for _, name := range all {
			t.Row(name)
		}
	})
}

func getCommand(f *command.Factory) *cobra.Command {
	return command.Show(f, &cobra.Command{
		Use:               "get NAME",
		Aliases:           []string{"describe"},
		Short:             "Show a namespace",
		Example:           `  graphene namespace get lab -o yaml`,
		Args:              command.ExactArgs(1),
		ValidArgsFunction: complete(f),
	}, func(ctx context.Context, c *client.Client, args []string) (types.FunctionNamespace, error) {
		return c.Namespace(ctx, args[0])
	}, func(t *term.Table, n types.FunctionNamespace) {
		t.Row("Name:", n.Name)
		pairs(t, "Labels:", n.Labels)
		pairs(t, "Annotations:", n.Annotations)
	})
}

func pairs(t *term.Table, title string, m map[string]string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		t.Row(title, k+"="+m[k])
		title = ""
	}
}

func removeCommand(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME",
		Aliases:           []string{"rm", "delete"},
		Short:             "Remove a namespace that nothing belongs to",
		Example:           `  graphene namespace remove lab`,
		Args:              command.ExactArgs(1),
		ValidArgsFunction: complete(f),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if err := c.RemoveNamespace(ctx, args[0]); err != nil {
					return err
				}
				f.Streams.Printf("namespace %s is removed\n", args[0])
				return nil
			})
		},
	}
}

// complete proposes the names of namespaces to a shell.
func complete(f *command.Factory) cobra.CompletionFunc {
	return f.CompleteNames(func(ctx context.Context, c *client.Client) ([]string, error) {
		return c.Namespaces(ctx)
	})
}
