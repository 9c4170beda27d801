package function

import (
	"cmp"
	"context"
	"fmt"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/image"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A platform is what a gateway says of itself to those who make images for it.
// The zero platform is this machine.
type platform struct {
	gateway string
	target  function.Target
	builds  function.Builds
}

// askPlatform asks the gateway at url.
func askPlatform(ctx context.Context, f *command.Factory, url string) (platform, error) {
	c, err := f.ClientOf(url)
	if err != nil {
		return platform{}, err
	}
	ctx, cancel := command.Timeout(ctx)
	defer cancel()
	info, err := c.Info(ctx)
	if err != nil {
		return platform{}, fmt.Errorf("ask the gateway what to build for: %w", err)
	}
	p := platform{gateway: url}
	if info.Target != nil {
		p.target = *info.Target
	}
	if info.Builds != nil {
		p.builds = *info.Builds
	}
	return p, nil
}

// ask returns the platform to build for: what the gateway says, with what the
// flags say on top. If they say everything, the gateway need not exist.
func (b *builder) ask(ctx context.Context) (p platform, err error) {
	gateway, err := b.f.GatewayOf(b.file)
	if err != nil {
		return platform{}, err
	}
	p.gateway = gateway
	if b.o.target == "" || b.o.builds.WatchdogImage == "" {
		if p, err = askPlatform(ctx, b.f, gateway); err != nil {
			return platform{}, err
		}
	}
	if b.o.target != "" {
		if p.target, err = b.o.parseTarget(); err != nil {
			return platform{}, err
		}
	}
	p.builds.PythonImage = cmp.Or(b.o.builds.PythonImage, p.builds.PythonImage)
	p.builds.WatchdogImage = cmp.Or(b.o.builds.WatchdogImage, p.builds.WatchdogImage)
	return p, nil
}

// canRun reports why the platform could not run an image of the kind that is
// built with what it says of itself.
func (p platform) canRun(kind image.Kind) error {
	switch {
	case p.gateway == "" || p.builds.OwnRegistry || kind == image.Dockerfile:
		return nil // it has an interpreter and a watchdog, or the image does
	case p.builds.WatchdogImage == "":
		return fault.Invalid.Errorf("the platform at %s does not say which image its watchdog is in: have its build_watchdog_image set, or give --watchdog-image", p.gateway)
	case kind == image.Python && p.builds.PythonImage == "":
		return fault.Invalid.Errorf("the platform at %s does not say which image Python functions are put on: have its build_python_image set, or give --python-image", p.gateway)
	}
	return nil
}

// imageName returns the name that the platform is to run an image by that was
// not just pushed. Without a registry to put before it, a name without a host
// is left to the platform.
func (p platform) imageName(name string) (string, error) {
	if p.builds.OwnRegistry || p.builds.Registry == "" {
		return name, nil
	}
	ref, err := image.Resolve(name, p.gateway, p.builds)
	if err != nil {
		return "", err
	}
	return ref.Name(), nil
}
