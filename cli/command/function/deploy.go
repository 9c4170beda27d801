package function

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/openfaas/faas-provider/types"
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/image"
	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// deployOptions are the flags of the commands that deploy.
type deployOptions struct {
	image, name string // a function without a stack file
	fprocess    string
	env         []string
	labels      []string
	annotations []string
	secrets     []string
	constraints []string
	limits      stack.Resources
	requests    stack.Resources
	readOnly    bool
	replace     bool
	update      bool
	wait        bool
	waitTimeout time.Duration
	timeout     time.Duration
}

func (o *deployOptions) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&o.fprocess, "fprocess", "", "process that the watchdog runs")
	flags.StringArrayVarP(&o.env, "env", "e", nil, "NAME=VALUE for the function's environment; may be repeated")
	flags.StringArrayVarP(&o.labels, "label", "l", nil, "NAME=VALUE label; may be repeated")
	flags.StringArrayVar(&o.annotations, "annotation", nil, "NAME=VALUE annotation; may be repeated")
	flags.StringArrayVar(&o.secrets, "secret", nil, "secret the function may read; may be repeated")
	flags.StringArrayVar(&o.constraints, "constraint", nil, "where the function may run; may be repeated")
	flags.StringVar(&o.limits.Memory, "memory-limit", "", "most memory a replica may use, such as 128Mi")
	flags.StringVar(&o.limits.CPU, "cpu-limit", "", "most processor time a replica may use, such as 500m")
	flags.StringVar(&o.requests.Memory, "memory-request", "", "memory to reserve for a replica")
	flags.StringVar(&o.requests.CPU, "cpu-request", "", "processor time to reserve for a replica")
	flags.BoolVar(&o.readOnly, "readonly", false, "make the replicas' file system read-only")
	flags.BoolVar(&o.replace, "replace", false, "remove the function first, if there is one")
	flags.BoolVar(&o.update, "update", true, "update the function if there is one; otherwise that is an error")
	flags.BoolVar(&o.wait, "wait", true, "wait until the function is ready, or cannot start")
	flags.DurationVar(&o.waitTimeout, "wait-timeout", 10*time.Minute, "longest time to wait for it")
	flags.DurationVar(&o.timeout, "timeout", time.Minute, "longest time the gateway may take to accept it")
}

func deployCommand(f *command.Factory) *cobra.Command {
	var o deployOptions
	cmd := &cobra.Command{
		Use:     "deploy [NAME...]",
		Short:   "Deploy functions whose images are in a registry",
		GroupID: "function",
		Long: `Deploys the functions of the stack file, or those that are named, or one that
--image and --name describe without a file.

A function that exists is updated: the new version takes over when it is ready,
and no call is lost. A version that does not start changes nothing: its last
log lines are shown, the exit code is 7, and the one before it goes on serving.`,
		Example: `  graphene deploy
  graphene deploy wine --env LEVEL=debug --label com.openfaas.scale.max=4
  graphene deploy --image ghcr.io/openfaas/figlet:latest --name figlet`,
		ValidArgsFunction: f.CompleteStack,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDeploy(cmd.Context(), f, o, args, cmd.Flags().Changed("readonly"))
		},
	}
	o.addFlags(cmd)
	flags := cmd.Flags()
	flags.StringVar(&o.image, "image", "", "image of a function without a stack file")
	flags.StringVar(&o.name, "name", "", "name of a function without a stack file")
	return cmd
}

func runDeploy(ctx context.Context, f *command.Factory, o deployOptions, names []string, readOnly bool) error {
	d := deployer{f: f, o: o, readOnly: readOnly}
	if o.image != "" || o.name != "" {
		if o.image == "" || o.name == "" || len(names) > 0 {
			return command.Usagef("to deploy without a stack file, give --image and --name, and no other name")
		}
		url, err := f.GatewayOf(command.StackFile{})
		if err != nil {
			return err
		}
		functions := []stack.Function{{Name: o.name, Image: o.image}}
		if err := d.connect(ctx, url, functions); err != nil {
			return err
		}
		return d.all(ctx, functions)
	}
	file, functions, err := f.Selected(ctx, names)
	if err != nil {
		return err
	}
	url, err := f.GatewayOf(file)
	if err != nil {
		return err
	}
	d.file = file
	if err := d.connect(ctx, url, functions); err != nil {
		return err
	}
	return d.all(ctx, functions)
}

// connect makes the client of the platform at url, which is asked about itself
// only if a function's image does not say where it is: who may deploy need not
// be allowed to ask.
func (d *deployer) connect(ctx context.Context, url string, functions []stack.Function) (err error) {
	if d.client, err = d.f.ClientOf(url); err != nil {
		return err
	}
	if slices.ContainsFunc(functions, func(fn stack.Function) bool { return !image.HasHost(fn.ImageOrDefault()) }) {
		d.platform, err = askPlatform(ctx, d.f, url)
	}
	return err
}

// A deployer deploys functions through one gateway.
type deployer struct {
	f        *command.Factory
	o        deployOptions
	readOnly bool // --readonly was given, so it wins over the stack file
	file     command.StackFile
	client   *client.Client
	platform platform
	pushed   map[string]string // names of images that are known better, by function
}

// all deploys functions and waits for them. All are tried even if one fails.
func (d *deployer) all(ctx context.Context, functions []stack.Function) error {
	d.f.WarnInsecure(d.client.URL())
	var errs []error
	var deployed []function.Ref
	for _, fn := range functions {
		ref, err := d.deploy(ctx, fn)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		deployed = append(deployed, ref)
	}
	for _, ref := range deployed {
		if !d.o.wait {
			d.f.Streams.Printf("%s is deployed: %s\n", ref.Name, callURL(d.client.URL(), ref))
			continue
		}
		if err := d.wait(ctx, ref); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// deploy sends one function to the gateway.
func (d *deployer) deploy(ctx context.Context, fn stack.Function) (function.Ref, error) {
	spec, err := d.spec(fn)
	if err != nil {
		return function.Ref{}, err
	}
	ref := function.Ref{Name: spec.Service, Namespace: spec.Namespace}
	ctx, cancel := context.WithTimeout(ctx, d.o.timeout)
	defer cancel()
	switch {
	case d.o.replace:
		if err = d.client.Remove(ctx, ref); err == nil || errors.Is(err, fault.NotFound) {
			err = d.client.Create(ctx, spec)
		}
	case d.o.update:
		err = d.client.Deploy(ctx, spec)
	default:
		err = d.client.Create(ctx, spec)
	}
	if err != nil {
		return function.Ref{}, fmt.Errorf("deploy %s: %w", fn.Name, err)
	}
	return ref, nil
}

// spec returns what the gateway is asked for: the stack file's function, with
// what the flags say on top.
func (d *deployer) spec(fn stack.Function) (types.FunctionDeployment, error) {
	o := d.o
	env := maps.Clone(fn.Environment)
	if env == nil {
		env = map[string]string{}
	}
	for _, name := range fn.EnvironmentFiles {
		text, err := os.ReadFile(d.file.Path(d.f, name))
		if err != nil {
			return types.FunctionDeployment{}, fault.Invalid.Errorf("read an environment_file of %s: %w", fn.Name, err)
		}
		more, err := stack.ParseEnvironment(name, text)
		if err != nil {
			return types.FunctionDeployment{}, err
		}
		maps.Copy(env, more)
	}
	labels, annotations := maps.Clone(fn.Labels), maps.Clone(fn.Annotations)
	for _, m := range []struct {
		flag string
		args []string
		to   *map[string]string
	}{{"env", o.env, &env}, {"label", o.labels, &labels}, {"annotation", o.annotations, &annotations}} {
		more, err := keyValues(m.flag, m.args)
		if err != nil {
			return types.FunctionDeployment{}, err
		}
		if *m.to == nil {
			*m.to = map[string]string{} // the wire has objects, not null
		}
		maps.Copy(*m.to, more)
	}
	img, ok := d.pushed[fn.Name]
	if !ok {
		var err error
		if img, err = d.platform.imageName(fn.ImageOrDefault()); err != nil {
			return types.FunctionDeployment{}, fmt.Errorf("deploy %s: %w", fn.Name, err)
		}
	}
	spec := types.FunctionDeployment{
		Service:                fn.Name,
		Namespace:              d.f.Namespace(fn.Namespace),
		Image:                  img,
		EnvProcess:             cmp.Or(o.fprocess, fn.FProcess),
		EnvVars:                env,
		Constraints:            union(fn.Constraints, o.constraints),
		Secrets:                union(fn.Secrets, o.secrets),
		Labels:                 &labels,
		Annotations:            &annotations,
		Limits:                 resources(fn.Limits, o.limits),
		Requests:               resources(fn.Requests, o.requests),
		ReadOnlyRootFilesystem: fn.ReadOnlyRootFilesystem,
	}
	if d.readOnly {
		spec.ReadOnlyRootFilesystem = o.readOnly
	}
	if _, err := function.ReadSettings(annotations, env); err != nil {
		return types.FunctionDeployment{}, fmt.Errorf("deploy %s: %w", fn.Name, err)
	}
	return spec, nil
}

// union returns what is in a or b, once each, in their order.
func union(a, b []string) []string {
	var all []string
	for _, s := range slices.Concat(a, b) {
		if !slices.Contains(all, s) {
			all = append(all, s)
		}
	}
	return all
}

// resources returns the file's resources with those of flags on top; nil if
// neither says anything.
func resources(file, flags stack.Resources) *types.FunctionResources {
	r := types.FunctionResources{Memory: cmp.Or(flags.Memory, file.Memory), CPU: cmp.Or(flags.CPU, file.CPU)}
	if r == (types.FunctionResources{}) {
		return nil
	}
	return &r
}
