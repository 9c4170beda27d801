package function

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/image"
	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/pyenv"
	"github.com/graphene-faas/graphene/templates"
)

// buildOptions are the flags of every command that builds.
type buildOptions struct {
	target    string
	builds    function.Builds // the images of the flags only
	noCache   bool
	buildArgs []string
	parallel  int
	python    string
	pipArgs   []string
	quiet     bool
}

func (o *buildOptions) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.target, "target", "", "machine to build for: os/arch, or os/arch/python/libc such as linux/amd64/cp311/glibc")
	flags.StringVar(&o.builds.PythonImage, "python-image", "", "base image for Python functions (default: what the gateway says)")
	flags.StringVar(&o.builds.WatchdogImage, "watchdog-image", "", "image to take the watchdog from (default: what the gateway says)")
	flags.BoolVar(&o.noCache, "no-cache", false, "make everything again")
	flags.StringArrayVarP(&o.buildArgs, "build-arg", "b", nil, "NAME=VALUE for a Dockerfile; may be repeated")
	flags.IntVar(&o.parallel, "parallel", 1, "number of functions to build at once")
	flags.StringVar(&o.python, "python", "", "Python interpreter to build with (default python3)")
	flags.StringArrayVar(&o.pipArgs, "pip-arg", nil, "argument for pip install, such as --pip-arg=--no-index; may be repeated")
	flags.BoolVar(&o.quiet, "quiet", false, "do not show what compilers and pip print")
}

func buildCommand(f *command.Factory) *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:     "build [NAME...]",
		Short:   "Build images of functions, without Docker",
		GroupID: "function",
		Long: `Builds the functions of the stack file, or those that are named, into images.

Go handlers are compiled and Python handlers get their packages by pip; no
container engine is needed, and what has not changed is not made again. A
handler whose template brings a Dockerfile is built by docker, podman, buildah
or nerdctl, whichever is installed.

Images are built for this machine unless --target names another. "graphene up"
and "graphene push" build for the platform that the gateway reports: for its
machine, and on its base images if it is a cluster.`,
		Example: `  graphene build
  graphene build wine --target linux/arm64/cp311/glibc
  graphene build --filter 'hel*' --parallel 2`,
		ValidArgsFunction: f.CompleteStack,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runBuild(cmd.Context(), f, o, args)
		},
	}
	o.addFlags(cmd)
	return cmd
}

func runBuild(ctx context.Context, f *command.Factory, o buildOptions, names []string) error {
	file, functions, err := f.Selected(ctx, names)
	if err != nil {
		return err
	}
	b, err := newBuilder(f, o, file)
	if err != nil {
		return err
	}
	b.platform.builds = o.builds
	if b.platform.target, err = o.parseTarget(); err != nil {
		return err
	}
	return b.all(ctx, functions, func(ctx context.Context, task *term.Task, fn stack.Function) (string, error) {
		img, err := b.build(ctx, task, fn)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s is built: %s%s", fn.Name, term.Size(img.Size), forTarget(img.Target)), nil
	})
}

func forTarget(t function.Target) string {
	if t == (function.Target{}) {
		return ""
	}
	return " for " + t.String()
}

func (o buildOptions) parseTarget() (function.Target, error) {
	if o.target == "" {
		return function.Target{}, nil
	}
	t, err := function.ParseTarget(o.target)
	if err != nil {
		return function.Target{}, command.Usagef("--target: %w", err)
	}
	return t, nil
}

// A builder builds the functions of one stack file.
type builder struct {
	f        *command.Factory
	o        buildOptions
	file     command.StackFile
	cache    string
	args     map[string]string
	platform platform
	board    *term.Board
}

func newBuilder(f *command.Factory, o buildOptions, file command.StackFile) (*builder, error) {
	if o.parallel < 1 {
		return nil, command.Usagef("--parallel is %d, want 1 or more", o.parallel)
	}
	args, err := keyValues("build-arg", o.buildArgs)
	if err != nil {
		return nil, err
	}
	cache, err := f.CacheDir()
	if err != nil {
		return nil, err
	}
	return &builder{f: f, o: o, file: file, cache: cache, args: args, board: term.NewBoard(f.Streams)}, nil
}

// all runs do for each function that is to be built, some at once, and shows
// what it returns. All are tried even if one fails; the errors are joined.
func (b *builder) all(ctx context.Context, functions []stack.Function, do func(context.Context, *term.Task, stack.Function) (string, error)) error {
	errs := make([]error, len(functions))
	var g errgroup.Group
	g.SetLimit(b.o.parallel)
	for i, fn := range functions {
		if fn.SkipBuild || fn.Lang == "" {
			b.board.Println(fmt.Sprintf("%s is not built here: its image is %s", fn.Name, fn.ImageOrDefault()))
			continue
		}
		g.Go(func() error {
			if ctx.Err() != nil {
				errs[i] = ctx.Err()
				return nil
			}
			task := b.board.Task()
			line, err := do(ctx, task, fn)
			task.Done(line)
			errs[i] = err
			return nil
		})
	}
	return errors.Join(g.Wait(), errors.Join(errs...))
}

// A built image is ready to be pushed.
type built struct {
	image.Info
	// push sends the image to the registry that name means on p, and returns
	// the name that p is to run it by.
	push func(ctx context.Context, name string, p platform, o image.PushOptions) (string, error)
}

// options returns what package image wants to know of a function.
func (b *builder) options(ctx context.Context, task *term.Task, fn stack.Function) (image.Options, error) {
	t, err := b.f.TemplateFor(ctx, b.file, fn)
	if err != nil {
		return image.Options{}, fmt.Errorf("build %s: %w", fn.Name, err)
	}
	dir := b.file.Path(b.f, fn.Handler)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		if err == nil {
			err = &fs.PathError{Op: "open", Path: dir, Err: errors.New("not a directory")}
		}
		return image.Options{}, fault.Invalid.Errorf("build %s: its handler is not there: %w", fn.Name, err)
	}
	o := image.Options{
		Name:          fn.Name,
		Kind:          image.Kind(t.Kind),
		Language:      t.Name,
		Dir:           dir,
		Runtime:       t.Runtime,
		Sources:       b.f.Sources,
		HandlerFolder: t.Config.HandlerFolder,
		Target:        b.platform.target,
		PythonImage:   b.platform.builds.PythonImage,
		WatchdogImage: b.platform.builds.WatchdogImage,
		Transport:     b.f.RegistryTransport(),
		Python:        b.interpreter(ctx, t.Kind),
		PipArgs:       b.o.pipArgs,
		BuildArgs:     b.buildArgs(fn, t.Config.BuildOptions),
		Env:           t.Config.Env,
		CacheDir:      b.cache,
		NoCache:       b.o.noCache,
		Progress:      task,
	}
	if !b.o.quiet {
		o.Output = task
	}
	for _, path := range b.file.Copy {
		o.Extras = append(o.Extras, b.f.Rel(b.file.Path(b.f, path)))
	}
	return o, nil
}

// build makes the image of one function.
func (b *builder) build(ctx context.Context, task *term.Task, fn stack.Function) (built, error) {
	o, err := b.options(ctx, task, fn)
	if err != nil {
		return built{}, err
	}
	if err := b.platform.canRun(o.Kind); err != nil {
		return built{}, fmt.Errorf("build %s: %w", fn.Name, err)
	}
	img, err := image.Build(ctx, o)
	if err != nil {
		return built{}, err
	}
	info, err := image.Inspect(img)
	if err != nil {
		return built{}, fmt.Errorf("build %s: %w", fn.Name, err)
	}
	return built{Info: info, push: func(ctx context.Context, name string, p platform, o image.PushOptions) (string, error) {
		ref, err := image.Resolve(name, p.gateway, p.builds)
		if err != nil {
			return "", err
		}
		if err := image.Push(ctx, img, ref, o); err != nil || p.builds.OwnRegistry {
			return name, err
		}
		return image.Pinned(ref, info.Digest), nil
	}}, nil
}

// interpreter returns the Python to build with: the flag's, or else one that
// is what the target has, since only that can run a build.py and compile for
// it, or else the usual one.
func (b *builder) interpreter(ctx context.Context, kind templates.Kind) string {
	if b.o.python != "" || kind != templates.Python || b.platform.target.Python == "" {
		return b.o.python
	}
	minor := strings.TrimPrefix(b.platform.target.Python, "cp3")
	for _, name := range []string{"python3", "python3." + minor, "/usr/bin/python3", "/usr/local/bin/python3"} {
		if found, err := pyenv.Find(ctx, name); err == nil && found.Target == b.platform.target {
			return name
		}
	}
	return ""
}

// buildArgs returns what a Dockerfile gets: the proxies of this environment,
// the packages of the function's build options, its own arguments and those of
// the command line, of which the later win.
func (b *builder) buildArgs(fn stack.Function, options []templates.BuildOption) map[string]string {
	args := map[string]string{}
	for _, name := range []string{"http_proxy", "https_proxy", "no_proxy"} {
		if v := b.f.Getenv(name); v != "" {
			args[name] = v
		}
	}
	var packages []string
	for _, option := range options {
		if slices.Contains(fn.BuildOptions, option.Name) {
			packages = append(packages, option.Packages...)
		}
	}
	slices.Sort(packages)
	args["ADDITIONAL_PACKAGE"] = strings.Join(slices.Compact(packages), " ")
	maps.Copy(args, fn.BuildArgs)
	maps.Copy(args, b.args)
	return args
}
