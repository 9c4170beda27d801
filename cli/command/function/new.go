package function

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/templates"
)

type newOptions struct {
	f *command.Factory

	name    string
	lang    string
	append  string
	prefix  string
	handler string
	list    bool
	quiet   bool

	limits, requests stack.Resources
}

func newCommand(f *command.Factory) *cobra.Command {
	o := &newOptions{f: f}
	cmd := &cobra.Command{
		Use:        "new NAME --lang TEMPLATE",
		SuggestFor: []string{"init", "create"},
		Short:      "Start a function from a template",
		GroupID:    "function",
		Long: `Makes a directory with a handler that works, and an entry for it in the stack
file: stack.yaml, or the file that --yaml names, which is made if there is none.

Nothing is overwritten. "graphene up" then builds and deploys the function.`,
		Example: `  graphene new hello --lang go
  graphene new --lang python3-model wine --prefix ghcr.io/me
  graphene new --lang python3 python3-fn -f python3-fn.yml
  graphene new second --lang go --append stack.yaml
  graphene new --list`,
		Args: command.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.name = args[0]
			}
			return o.run()
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	flags := cmd.Flags()
	flags.StringVar(&o.lang, "lang", "", "template to start from; --list shows them")
	flags.StringVarP(&o.append, "append", "a", "", "stack file to add the function to; it must exist")
	flags.StringVarP(&o.prefix, "prefix", "p", "", "what the image's name begins with: a registry and a user (default $OPENFAAS_PREFIX)")
	flags.StringVar(&o.handler, "handler", "", "directory for the handler (default ./NAME)")
	flags.BoolVar(&o.list, "list", false, "list the templates and do nothing")
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing when it is done")
	flags.StringVar(&o.limits.Memory, "memory-limit", "", "most memory a replica may use, such as 128Mi")
	flags.StringVar(&o.limits.CPU, "cpu-limit", "", "most processor time a replica may use, such as 500m")
	flags.StringVar(&o.requests.Memory, "memory-request", "", "memory to reserve for a replica")
	flags.StringVar(&o.requests.CPU, "cpu-request", "", "processor time to reserve for a replica")
	command.CompleteFlag(cmd, "lang", func(context.Context) []string {
		var names []string
		for _, t := range command.Templates(f.Dir) {
			names = append(names, t.Name+"\t"+t.Description)
		}
		return names
	})
	return cmd
}

func (o *newOptions) run() error {
	if o.list {
		var table term.Table
		table.Header("NAME", "DESCRIPTION")
		for _, t := range command.Templates(o.f.Dir) {
			table.Row(t.Name, t.Description)
		}
		o.f.Streams.Printf("%s", table.String())
		return nil
	}
	switch {
	case o.name == "":
		return command.Usagef("name the function: graphene new NAME --lang TEMPLATE")
	case o.lang == "":
		return command.Usagef("name a template with --lang; \"graphene new --list\" shows them")
	case o.append != "" && o.f.Flags.StackFile != "":
		return command.Usagef("--append and --yaml exclude each other")
	}
	if err := (function.Ref{Name: o.name, Namespace: function.DefaultNamespace}).Validate(); err != nil {
		return err
	}
	t, err := command.Template(o.f.Dir, o.lang)
	if err != nil {
		return err
	}
	file, text, err := o.stackFile()
	if err != nil {
		return err
	}
	dir, entry := o.handlerDir(file)
	text, err = stack.Append(o.f.Rel(file), text, stack.Function{
		Name:     o.name,
		Lang:     o.lang, // as it was asked for, with an alias or a pin
		Handler:  entry,
		Image:    o.image(),
		Limits:   o.limits,
		Requests: o.requests,
	})
	if err != nil {
		return err
	}
	if err := scaffold(t, o.name, dir); err != nil {
		return err
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return fmt.Errorf("write the stack file: %w", err)
	}
	if !o.quiet {
		o.f.Streams.Printf("made %s, and added %s to %s\n", o.f.Rel(dir), o.name, o.f.Rel(file))
		o.f.Streams.Notef("%s", t.Config.WelcomeMessage)
	}
	return nil
}

func scaffold(t templates.Template, name, dir string) error {
	err := templates.Scaffold(t, name, dir)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, fault.Exists) {
		return command.ExistsError(err, "choose another name, or another directory with --handler")
	}
	return err
}

// stackFile returns the stack file to add to, absolute, and its text, that of
// a new one if there is none.
func (o *newOptions) stackFile() (path string, text []byte, err error) {
	name := o.append
	if name == "" {
		name = o.f.Flags.StackFile
	}
	if stack.IsURL(name) {
		return "", nil, command.Usagef("a function can be added to a file, not to %s", name)
	}
	if name == "" {
		name = stack.DefaultFiles[0]
		for _, file := range stack.DefaultFiles {
			if _, err := os.Stat(o.f.Path(file)); err == nil {
				name = file
				break
			}
		}
	}
	path = o.f.Path(name)
	text, err = os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && o.append == "":
		// $OPENFAAS_URL stays out of the file: it is of this shell, and the file
		// is for everybody.
		if o.f.Flags.Gateway == "" {
			return path, stack.New(command.DefaultGateway), nil
		}
		gateway, err := o.f.GatewayOf(command.StackFile{})
		return path, stack.New(gateway), err
	case errors.Is(err, fs.ErrNotExist):
		return "", nil, command.NotFoundError(err, "leave --append away to make a stack file")
	case err != nil:
		return "", nil, fmt.Errorf("read the stack file: %w", err)
	}
	return path, text, nil
}

// handlerDir returns the handler's directory, and how the stack file calls it:
// relative to itself.
func (o *newOptions) handlerDir(file string) (dir, entry string) {
	dir = filepath.Join(filepath.Dir(file), o.name)
	if o.handler != "" {
		dir = o.f.Path(o.handler)
	}
	rel, err := filepath.Rel(filepath.Dir(file), dir)
	if err != nil {
		return dir, dir
	}
	rel = filepath.ToSlash(rel)
	if !strings.HasPrefix(rel, "../") {
		rel = "./" + rel
	}
	return dir, rel
}

func (o *newOptions) image() string {
	prefix := o.prefix
	if prefix == "" {
		prefix = o.f.Getenv("OPENFAAS_PREFIX")
	}
	if prefix = strings.TrimRight(prefix, "/"); prefix != "" {
		return prefix + "/" + o.name + ":latest"
	}
	return o.name + ":latest"
}
