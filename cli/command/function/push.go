package function

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/image"
	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/cli/term"
)

func pushCommand(f *command.Factory) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:        "push [NAME...]",
		SuggestFor: []string{"publish"},
		Short:      "Send images of functions to their registry",
		GroupID:    "function",
		Long: `Sends the images of the stack file's functions, or of those that are named, to
the registry that their names mean. A name without a host, such as wine:latest,
means the registry of the platform, or the one that the platform names.

Images are not kept between commands: what has changed since the last build is
built again first, for the platform that the gateway reports. Of the image only
what the registry does not have is sent.

The gateway is not asked if --target and --watchdog-image are given, and
--python-image for functions in Python.`,
		Example: `  graphene push
  graphene push wine --gateway https://functions.example.com`,
		ValidArgsFunction: f.CompleteStack,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPush(cmd.Context(), f, o, args)
		},
	}
	o.addFlags(cmd)
	return cmd
}

func runPush(ctx context.Context, f *command.Factory, o buildOptions, names []string) error {
	file, functions, err := f.Selected(ctx, names)
	if err != nil {
		return err
	}
	b, err := newBuilder(f, o, file)
	if err != nil {
		return err
	}
	if b.platform, err = b.ask(ctx); err != nil {
		return err
	}
	return b.all(ctx, functions, func(ctx context.Context, task *term.Task, fn stack.Function) (string, error) {
		img, err := b.build(ctx, task, fn)
		if err != nil {
			return "", err
		}
		name, err := b.push(ctx, task, fn, img)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s is pushed: %s, %s", fn.Name, name, term.Size(img.Size)), nil
	})
}

// push sends an image to the registry that its name means, and returns the
// name that the platform is to run it by.
func (b *builder) push(ctx context.Context, task *term.Task, fn stack.Function, img built) (string, error) {
	o := image.PushOptions{Progress: task, Transport: b.f.RegistryTransport(), CacheDir: b.cache}
	ref, err := image.Resolve(fn.ImageOrDefault(), b.platform.gateway, b.platform.builds)
	if err != nil {
		return "", err
	}
	if _, host, _ := strings.Cut(b.platform.gateway, "://"); ref.Context().RegistryStr() == host {
		if o.Username, o.Password, err = b.f.RegistryLogin(ctx, b.platform.gateway); err != nil {
			return "", err
		}
	}
	return img.push(ctx, fn.ImageOrDefault(), b.platform, o)
}
