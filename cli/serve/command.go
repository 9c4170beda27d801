package serve

import (
	"fmt"
	"io"
	"strings"

	"github.com/openfaas/faas-provider/types"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/fault"
)

// CommandOptions are what the command needs from its program.
type CommandOptions struct {
	Environ        []string
	Executable     string
	Version        types.VersionInfo
	LogIn          func(gateway, user, password string) error
	Stdout, Stderr io.Writer
}

// NewCommand returns the command `serve`. Each setting of [Config] is a flag
// and an environment variable; the flag wins.
func NewCommand(o CommandOptions) *cobra.Command {
	var long strings.Builder
	long.WriteString(`Run a whole platform in this process: gateway, function runtime and image
registry, with its state in one directory. It stops on SIGTERM or Ctrl-C, after
the calls in flight.

The first start makes an administrator, whose password is in the file
auth/basic-auth-password of the data directory. Every start logs this command
line in at the address it listens on.

Every flag can be given as an environment variable too:

`)
	for _, f := range conf.Fields[Config]() {
		fmt.Fprintf(&long, "  --%-24s %s\n", f.Flag(envPrefix), f.Env)
	}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a platform on this machine",
		Long:  long.String(),
		Example: `  graphene serve
  graphene serve --listen 0.0.0.0:8080 --data-dir /srv/graphene
  graphene serve --listen 127.0.0.1:0 --metrics-listen off`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fault.Invalid.Errorf("serve takes no arguments, and got %q", args)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			given := map[string]string{}
			cmd.Flags().Visit(func(f *pflag.Flag) { given[f.Name] = f.Value.String() })
			cfg, err := conf.ReadFlags[Config](o.Environ, envPrefix, given)
			if err != nil {
				return err
			}
			log, err := newLog(o.Stderr, cfg.LogFormat, cfg.LogLevel)
			if err != nil {
				return err
			}
			return Run(cmd.Context(), Options{
				Config:     cfg,
				Version:    o.Version,
				Executable: o.Executable,
				Getenv:     lookup(o.Environ),
				LogIn:      o.LogIn,
				Stdout:     o.Stdout,
				Log:        log,
			})
		},
	}
	for _, f := range conf.Fields[Config]() {
		name := f.Flag(envPrefix)
		if f.Type == "bool" {
			cmd.Flags().Bool(name, f.Default == "true", f.Doc)
			continue
		}
		cmd.Flags().String(name, f.Default, f.Doc)
	}
	return cmd
}
