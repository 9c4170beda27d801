// Package template holds the commands about language templates: what a new
// function can start from.
package template

import (
	"io/fs"
	"strings"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/templates"
)

// Command returns the command about templates.
func Command(f *command.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "template",
		SuggestFor: []string{"store"},
		Short:      "Look at language templates, and get others",
		GroupID:    "resource",
		Long: `Looks at the templates that "graphene new" can start from, and gets others.

Some are built in. Others come from a directory or a git repository into the
directory template beside the stack file, where they win over a built-in one of
the same name.`,
	}
	cmd.AddCommand(listCommand(f), describeCommand(f), pullCommand(f), storeCommand(f))
	return cmd
}

// summary is what a template is to programs.
type summary struct {
	Name        string            `json:"name"`
	Kind        templates.Kind    `json:"kind"`
	Description string            `json:"description"`
	Aliases     []string          `json:"aliases,omitempty"`
	Process     string            `json:"fprocess,omitempty"`
	Environment map[string]string `json:"environment,omitempty"`
	Files       []string          `json:"files,omitempty"`
}

func summarize(t templates.Template) summary {
	return summary{
		Name:        t.Name,
		Kind:        t.Kind,
		Description: t.Description,
		Aliases:     t.Config.Aliases,
		Process:     t.Config.Fprocess,
		Environment: t.Config.Env,
	}
}

func write(f *command.Factory, output term.Format, list []templates.Template) error {
	all := []summary{}
	for _, t := range list {
		all = append(all, summarize(t))
	}
	return output.Write(f.Streams.Out, all, func(table *term.Table) {
		table.Header("NAME", "KIND", "DESCRIPTION")
		for _, s := range all {
			table.Row(s.Name, string(s.Kind), s.Description)
		}
	})
}

func listCommand(f *command.Factory) *cobra.Command {
	var output term.Format
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List templates, those in ./template too",
		Example: `  graphene template list`,
		Args:    command.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return write(f, output, command.Templates(f.Dir))
		},
	}
	command.OutputFlag(cmd, &output)
	return cmd
}

func describeCommand(f *command.Factory) *cobra.Command {
	var output term.Format
	cmd := &cobra.Command{
		Use:     "describe NAME",
		Short:   "Show a template",
		Example: `  graphene template describe python3-model`,
		Args:    command.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			t, err := command.Template(f.Dir, args[0])
			if err != nil {
				return err
			}
			s := summarize(t)
			err = fs.WalkDir(t.Files, ".", func(path string, entry fs.DirEntry, err error) error {
				if err == nil && !entry.IsDir() {
					s.Files = append(s.Files, path)
				}
				return err
			})
			if err != nil {
				return err
			}
			return output.Write(f.Streams.Out, s, func(table *term.Table) {
				row := func(name, value string) {
					if value != "" {
						table.Row(name, value)
					}
				}
				row("Name:", s.Name)
				row("Description:", s.Description)
				row("Kind:", string(s.Kind))
				row("Also called:", strings.Join(s.Aliases, ", "))
				row("Process:", s.Process)
				row("Files:", strings.Join(s.Files, ", "))
			})
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var names []string
			for _, t := range command.Templates(f.Dir) {
				names = append(names, t.Name)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
	command.OutputFlag(cmd, &output)
	return cmd
}

func pullCommand(f *command.Factory) *cobra.Command {
	var overwrite bool
	var only string
	cmd := &cobra.Command{
		Use:   "pull SOURCE",
		Short: "Get templates from a directory or a git repository",
		Long: `Copies the templates of a directory or a git repository, which has them in a
directory called template, into ./template. #REF behind the address of a
repository names a branch or a tag. Git itself is needed for repositories.`,
		Example: `  graphene template pull https://github.com/openfaas/templates
  graphene template pull https://example.com/templates.git#v2 --name rust
  graphene template pull ../our-templates --overwrite`,
		Args: command.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := f.PullTemplates(cmd.Context(), args[0], only, f.Dir, overwrite)
			if err != nil {
				return err
			}
			f.Streams.Printf("pulled %s\n", strings.Join(names, ", "))
			return nil
		},
	}
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace templates that are there already")
	cmd.Flags().StringVar(&only, "name", "", "get this template only")
	return cmd
}

func storeCommand(f *command.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "The templates that come with Graphene",
		Long: `The templates that come with Graphene: they are part of this program, so there
is nothing to download.`,
	}
	var output term.Format
	list := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the built-in templates",
		Example: `  graphene template store list`,
		Args:    command.NoArgs,
		RunE:    func(*cobra.Command, []string) error { return write(f, output, templates.List()) },
	}
	command.OutputFlag(list, &output)
	cmd.AddCommand(list)
	return cmd
}
