package function

import (
	"context"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/cli/term"
)

type upOptions struct {
	build      buildOptions
	deploy     deployOptions
	skipPush   bool
	skipDeploy bool
	watch      bool
}

func upCommand(f *command.Factory) *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:        "up [NAME...]",
		SuggestFor: []string{"apply", "dev", "publish"},
		Short:      "Build, push and deploy functions",
		GroupID:    "function",
		Long: `Builds the functions of the stack file, or those that are named, for the
platform that the gateway reports, sends what changed of their images to the
registry, deploys them, and waits until they are ready.

Nothing is deployed unless everything could be built. With --watch the command
stays, and does it again for a function whenever its files change.

"up -f NAME.yml" also works where the function NAME is in stack.yaml.`,
		Example: `  graphene up
  graphene up wine --env LEVEL=debug
  graphene up -f https://example.com/stack.yaml --skip-push
  graphene up --watch`,
		ValidArgsFunction: f.CompleteStack,
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := newUp(f, o, cmd.Flags().Changed("readonly"), args)
			if err != nil {
				return err
			}
			if o.watch {
				return u.watch(cmd.Context())
			}
			return u.run(cmd.Context(), nil)
		},
	}
	o.build.addFlags(cmd)
	o.deploy.addFlags(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&o.skipPush, "skip-push", false, "do not send images to the registry")
	flags.BoolVar(&o.skipDeploy, "skip-deploy", false, "do not deploy")
	flags.BoolVar(&o.watch, "watch", false, "stay, and do it again when files change")
	return cmd
}

// An up builds, pushes and deploys the functions that its names pick.
type up struct {
	f        *command.Factory
	o        upOptions
	readOnly bool
	names    []string
}

func newUp(f *command.Factory, o upOptions, readOnly bool, names []string) (*up, error) {
	if o.watch && stack.IsURL(f.Flags.StackFile) {
		return nil, command.Usagef("--watch watches files, and %s is none", f.Flags.StackFile)
	}
	return &up{f: f, o: o, readOnly: readOnly, names: names}, nil
}

// run does everything once, for the functions called only, or all if it is
// nil. It reads the stack file anew.
func (u *up) run(ctx context.Context, only []string) error {
	if only == nil {
		only = u.names
	}
	file, functions, err := u.f.Selected(ctx, only)
	if err != nil {
		return err
	}
	b, err := newBuilder(u.f, u.o.build, file)
	if err != nil {
		return err
	}
	if b.platform, err = b.ask(ctx); err != nil {
		return err
	}
	pushed, err := u.images(ctx, b, functions)
	if err != nil {
		return err
	}
	if u.o.skipDeploy {
		return nil
	}
	d := deployer{f: u.f, o: u.o.deploy, readOnly: u.readOnly, file: file, platform: b.platform, pushed: pushed}
	if d.client, err = u.f.ClientOf(b.platform.gateway); err != nil {
		return err
	}
	return d.all(ctx, functions)
}

// images builds everything, and then pushes it. It returns the names that the
// platform is to run the images by, by function.
func (u *up) images(ctx context.Context, b *builder, functions []stack.Function) (map[string]string, error) {
	var mu sync.Mutex // guards images and pushed
	images, pushed := map[string]built{}, map[string]string{}
	err := b.all(ctx, functions, func(ctx context.Context, task *term.Task, fn stack.Function) (string, error) {
		img, err := b.build(ctx, task, fn)
		if err != nil {
			return "", err
		}
		mu.Lock()
		defer mu.Unlock()
		images[fn.Name] = img
		return "", nil
	})
	if err != nil || u.o.skipPush {
		return nil, err
	}
	var made []stack.Function
	for _, fn := range functions {
		if _, ok := images[fn.Name]; ok {
			made = append(made, fn)
		}
	}
	err = b.all(ctx, made, func(ctx context.Context, task *term.Task, fn stack.Function) (string, error) {
		img := images[fn.Name]
		name, err := b.push(ctx, task, fn, img)
		if err != nil {
			return "", err
		}
		mu.Lock()
		defer mu.Unlock()
		pushed[fn.Name] = name
		return fmt.Sprintf("%s is built and pushed: %s%s", fn.Name, term.Size(img.Size), forTarget(img.Target)), nil
	})
	return pushed, err
}
