// Package system holds the commands about the platform and this machine rather
// than about functions: version, usage and doctor.
package system

import (
	"context"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
)

// version is what the command of that name writes for programs.
type version struct {
	Client  clientVersion  `json:"client"`
	Gateway gatewayVersion `json:"gateway"`
}

type clientVersion struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

type gatewayVersion struct {
	URL   string       `json:"url"`
	Info  *client.Info `json:"info,omitempty"`
	Error string       `json:"error,omitempty"`
}

// VersionCommand returns the command version.
func VersionCommand(f *command.Factory) *cobra.Command {
	var output term.Format
	var short bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the versions of this program and of the gateway",
		GroupID: "platform",
		Long: `Shows the version of this program, and those of the gateway and of what runs
its functions. A gateway that does not answer is no error here.`,
		Example: `  graphene version
  graphene version --short-version`,
		Args: command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if short {
				f.Streams.Printf("%s\n", f.Version)
				return nil
			}
			return showVersion(cmd.Context(), f, output)
		},
	}
	cmd.Flags().BoolVar(&short, "short-version", false, "show this program's version only")
	command.OutputFlag(cmd, &output)
	return cmd
}

func showVersion(ctx context.Context, f *command.Factory, output term.Format) error {
	v := version{Client: clientVersion{Version: f.Version, Commit: f.Commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}}
	url, err := f.Gateway(ctx)
	if err != nil {
		return err
	}
	v.Gateway.URL = url
	info, err := gatewayInfo(ctx, f, url)
	if err != nil {
		v.Gateway.Error = err.Error()
	} else {
		v.Gateway.Info = &info
	}
	return output.Write(f.Streams.Out, v, func(t *term.Table) {
		t.Row("Client:", v.Client.Version)
		if v.Client.Commit != "" {
			t.Row("  commit", v.Client.Commit)
		}
		t.Row("  built by", v.Client.Go+" for "+v.Client.OS+"/"+v.Client.Arch)
		t.Row("Gateway:", v.Gateway.URL)
		if v.Gateway.Info == nil {
			t.Row("  no answer", v.Gateway.Error)
			return
		}
		t.Row("  version", info.Version.Release)
		t.Row("  commit", info.Version.SHA)
		t.Row("  architecture", info.Arch)
		if info.Target != nil {
			t.Row("  builds for", info.Target.String())
		}
		t.Row("Provider:", info.Provider.Name)
		t.Row("  orchestration", info.Provider.Orchestration)
		if pv := info.Provider.Version; pv != nil {
			t.Row("  version", pv.Release)
			t.Row("  commit", pv.SHA)
		}
	})
}

func gatewayInfo(ctx context.Context, f *command.Factory, url string) (client.Info, error) {
	c, err := f.ClientOf(url)
	if err != nil {
		return client.Info{}, err
	}
	ctx, cancel := command.Timeout(ctx)
	defer cancel()
	return c.Info(ctx)
}
