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
	"github.com/graphene-faas/graphene/internal/function"
)

func pushCommand(f *command.Factory) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:     "push [NAME...]",
		Short:   "Send images of functions to their registry",
		GroupID: "function",
		Long: `Sends the images of the stack file's functions, or of those that are named, to
the registry that their names mean. A name without a host, such as wine:latest,
means the registry of the platform itself.

Images are not kept between commands: what has changed since the last build is
built again first, for the machine that the gateway reports. Of the image only
what the registry does not have is sent.`,
		Example: `  graphene push
  graphene push wine --gateway https://functions.example.com`,
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
	gateway, err := f.GatewayOf(file)
	if err != nil {
		return err
	}
	if b.target, err = b.platformTarget(ctx, gateway); err != nil {
		return err
	}
	return b.all(ctx, functions, func(ctx context.Context, task *term.Task, fn stack.Function) (string, error) {
		img, err := b.build(ctx, task, fn)
		if err != nil {
			return "", err
		}
		if err := b.push(ctx, task, fn, img, gateway); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s is pushed: %s, %s", fn.Name, fn.ImageOrDefault(), term.Size(img.Size)), nil
	})
}

// push sends an image to the registry that its name means.
func (b *builder) push(ctx context.Context, task *term.Task, fn stack.Function, img built, gateway string) error {
	o := image.PushOptions{Progress: task, Transport: b.f.RegistryTransport()}
	ref, err := image.ResolveRef(fn.ImageOrDefault(), gateway)
	if err != nil {
		return err
	}
	if _, host, _ := strings.Cut(gateway, "://"); ref.Context().RegistryStr() == host {
		if o.Username, o.Password, err = b.f.RegistryLogin(gateway); err != nil {
			return err
		}
	}
	return img.push(ctx, fn.ImageOrDefault(), gateway, o)
}

// platformTarget returns what to build for: the flag's target, or what the
// gateway reports. A gateway that reports nothing gets what runs here.
func (b *builder) platformTarget(ctx context.Context, gateway string) (function.Target, error) {
	if b.o.target != "" {
		return b.o.parseTarget()
	}
	c, err := b.f.ClientOf(gateway)
	if err != nil {
		return function.Target{}, err
	}
	ctx, cancel := command.Timeout(ctx)
	defer cancel()
	info, err := c.Info(ctx)
	if err != nil {
		return function.Target{}, fmt.Errorf("ask the gateway what to build for: %w", err)
	}
	if info.Target == nil {
		return function.Target{}, nil
	}
	return *info.Target, nil
}
