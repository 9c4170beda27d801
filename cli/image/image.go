// Package image makes a function's container image and moves it to a registry,
// without a container engine.
//
// [Build] turns a handler directory into an image of a few layers: a static
// binary for Go; dependencies, the platform's runtime and the handler for
// Python. Layers are reproducible: the same input gives the same digest on any
// machine with the same tools, from any directory, so [Push] sends only what
// changed. What is expensive to make again (dependencies, the output of a
// build.py) is cached in Options.CacheDir, where the images returned by Build
// keep their layers too: push an image before the cache is cleaned.
//
// Handlers whose template brings a Dockerfile are built by whichever container
// tool is installed. [ResolveRef] says which registry an image's name means.
package image

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A Kind says how an image is made from a handler directory.
type Kind string

// The kinds of templates.
const (
	Go         Kind = "go"         // one static binary; builder "layers"
	Python     Kind = "python"     // layers for the target's interpreter; builder "layers"
	Dockerfile Kind = "dockerfile" // a container tool; builder "docker"
)

// home is where everything of a function is in its image, and its working
// directory. Paths in the configuration are relative to it, because the local
// runtime unpacks images below a directory of its own and does not change root.
const home = "home/app"

// userID owns the function's process, not its files: those belong to root, so
// that a function cannot change itself.
const userID = "12000"

// epoch is the time of every file and of the image itself: equal inputs must
// give equal digests. It is the first moment that a zip file can express.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// Options say what to build. Name, Kind, Dir and CacheDir are required.
type Options struct {
	// Name is the function's, for messages and as a container tool's tag.
	Name string
	// Kind is the template's; Language is its name, recorded in the image.
	Kind     Kind
	Language string
	// Dir holds the handler. It is read, never written. Its .dockerignore is
	// honoured; version control, caches and virtual environments are left out.
	Dir string
	// Extras are further files or directories laid into the handler directory
	// under the same relative path. They must not leave the working directory.
	Extras []string
	// Runtime is what the template adds: main.go for Go, graphene_function
	// for Python, the Dockerfile and what it needs for Dockerfile.
	Runtime fs.FS
	// Sources are Graphene's own Go packages that a Go function links, laid
	// out as in the repository. A go.mod is added if there is none.
	Sources fs.FS
	// HandlerFolder is where a Dockerfile expects the handler; "function" if
	// empty.
	HandlerFolder string
	// Target is the machine to build for; the zero Target is this one, with
	// Python's interpreter where that matters.
	Target function.Target
	// PythonImage is what a Python function's layers are put on, together with
	// the watchdog of WatchdogImage; a Go function's are put on what is below
	// the watchdog in that image. Where they are empty there is no base, and
	// only a platform with an interpreter and a watchdog of its own can run
	// the image.
	PythonImage, WatchdogImage string
	// Transport carries requests to the registries of those; nil means the
	// network.
	Transport http.RoundTripper
	// Python is the interpreter that installs, checks and compiles: a path or
	// a name in PATH; "python3" if empty.
	Python string
	// PipArgs are added to every pip install.
	PipArgs []string
	// BuildArgs are handed to a container tool as --build-arg.
	BuildArgs map[string]string
	// Env and Labels go into the image's configuration. The labels by which a
	// platform knows what it may run (see package function) cannot be changed.
	Env    map[string]string
	Labels map[string]string
	// CacheDir keeps layers, dependencies and build output between builds. It
	// may be shared by builds at the same time. Whatever was not used for a
	// month is removed.
	CacheDir string
	// NoCache makes everything again, and caches that.
	NoCache bool
	// Output receives what compilers, pip and build.py print; nil discards it.
	Output io.Writer
	// Progress is told what is being done; nil is silent.
	Progress Progress
}

// Progress shows how far a build or a push is. Calls do not overlap.
type Progress interface {
	// Step says that something new has begun.
	Step(name string)
	// Update says how many bytes of the step are done, of total; total is 0
	// if that is not known, and may grow.
	Update(done, total int64)
}

// Build makes the image. It is safe to call for several functions at once.
// What the author of the handler can correct (a missing handler, an error of
// syntax, a requirement that does not exist) is fault.Invalid and names the
// file; a missing compiler, interpreter or container tool is fault.NotFound.
func Build(ctx context.Context, o Options) (v1.Image, error) {
	if o.Progress == nil {
		o.Progress = silent{}
	}
	if o.Output == nil {
		o.Output = io.Discard
	}
	img, err := buildKind(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("build %s: %w", o.Name, err)
	}
	return img, nil
}

func buildKind(ctx context.Context, o Options) (v1.Image, error) {
	b, err := newBuild(o)
	if err != nil {
		return nil, err
	}
	defer b.close()

	switch o.Kind {
	case Go:
		return b.buildGo(ctx)
	case Python:
		return b.buildPython(ctx)
	case Dockerfile:
		return b.buildDocker(ctx)
	}
	return nil, fault.Invalid.Errorf("no builder makes images of kind %q", o.Kind)
}

// A build is one call of Build: its options, the cache, and a directory for
// what is needed only meanwhile.
type build struct {
	Options
	cache cache
	work  string
}

func newBuild(o Options) (*build, error) {
	c, err := openCache(o.CacheDir)
	if err != nil {
		return nil, err
	}
	work, err := c.temp()
	if err != nil {
		return nil, err
	}
	return &build{Options: o, cache: c, work: work}, nil
}

func (b *build) close() { removeTemp(b.work) }

// assemble puts a function's layers on a base, nil for none, and adds the
// configuration.
func (b *build) assemble(on *base, layers []v1.Layer, target function.Target, entrypoint []string, env map[string]string) (v1.Image, error) {
	maps.Copy(env, b.Env)
	return assembleImage(on, layers, func(cfg *v1.ConfigFile) {
		cfg.OS, cfg.Architecture = target.OS, target.Arch
		cfg.Config = v1.Config{
			WorkingDir: "/" + home,
			User:       userID,
			Entrypoint: entrypoint,
			Labels:     b.labels("layers", target),
		}
		if on != nil {
			cfg.Config.Env = on.environ(env)
			cfg.Config.Labels[function.ImageBaseLayers] = strconv.Itoa(len(on.layers))
			cfg.Config.Labels[function.ImageBaseEnv] = strconv.Itoa(len(cfg.Config.Env))
		}
		for _, name := range slices.Sorted(maps.Keys(env)) {
			cfg.Config.Env = append(cfg.Config.Env, name+"="+env[name])
		}
	})
}

// assembleImage puts layers on a base, nil for none, into an OCI image whose
// configuration is what configure makes of it.
func assembleImage(on *base, layers []v1.Layer, configure func(*v1.ConfigFile)) (v1.Image, error) {
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	if on != nil {
		layers = slices.Concat(on.layers, layers)
		img = mutate.Annotations(img, map[string]string{
			"org.opencontainers.image.base.name":   on.ref.Name(),
			"org.opencontainers.image.base.digest": on.digest.String(),
		}).(v1.Image)
	}
	for _, l := range layers {
		var err error
		img, err = mutate.Append(img, mutate.Addendum{
			Layer:   l,
			History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "graphene build"},
		})
		if err != nil {
			return nil, fmt.Errorf("append a layer: %w", err)
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	cfg = cfg.DeepCopy()
	cfg.Created = v1.Time{Time: epoch}
	configure(cfg)
	img, err = mutate.ConfigFile(img, cfg)
	if err != nil {
		return nil, fmt.Errorf("write the configuration: %w", err)
	}
	return img, nil
}

func (b *build) labels(builder string, target function.Target) map[string]string {
	labels := maps.Clone(b.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[function.ImageBuilder] = builder
	labels[function.ImageLang] = b.Language
	if target != (function.Target{}) {
		labels[function.ImageTarget] = target.String()
	}
	return labels
}

type silent struct{}

func (silent) Step(string)         {}
func (silent) Update(int64, int64) {}
