package auth

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/cli/signin"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
)

// An identity is who somebody is to a gateway, and how they proved it.
type identity struct {
	Gateway string `json:"gateway"`
	Login   string `json:"login"` // how they logged in
	client.Me
	// Prolonged tells that the login goes on after its token's end.
	Prolonged bool `json:"prolonged"`
}

func whoamiCommand(f *command.Factory) *cobra.Command {
	var output term.Format
	cmd := &cobra.Command{
		Use:     "whoami",
		Short:   "Say who you are to a gateway",
		GroupID: "platform",
		Long: `Asks the gateway who whoever is logged in is: the name that rules and logs know,
groups, the roles that follow from the rules, and until when the proof is good.`,
		Example: `  graphene whoami
  graphene whoami --gateway https://functions.example.com -o json`,
		Args: command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := command.Timeout(cmd.Context())
			defer cancel()
			who, err := whoami(ctx, f)
			if err != nil {
				return err
			}
			return output.Write(f.Streams.Out, who, func(t *term.Table) { who.print(t) })
		},
	}
	command.OutputFlag(cmd, &output)
	return cmd
}

func whoami(ctx context.Context, f *command.Factory) (identity, error) {
	gateway, err := f.Gateway(ctx)
	if err != nil {
		return identity{}, err
	}
	login, err := f.Login(ctx, gateway)
	if err != nil {
		return identity{}, err
	}
	c, err := f.ClientWith(gateway, login)
	if err != nil {
		return identity{}, err
	}
	who := identity{Gateway: gateway, Login: loginKind(login)}
	if s, ok := signin.Of(login); ok {
		who.Prolonged = s.Refresh != "" || s.SecretFile != ""
	}
	who.Me, err = c.Me(ctx)
	if errors.Is(err, fault.NotFound) {
		return who, fault.Unsupported.Errorf("the gateway %s does not say who its callers are", gateway)
	}
	return who, err
}

// loginKind names the way somebody has logged in.
func loginKind(l logins.Login) string {
	if l.Kind == logins.Basic {
		return "password"
	}
	if flow := l.Option("flow"); flow != "" {
		return flow
	}
	return string(signin.Given)
}

func (i identity) print(t *term.Table) {
	row := func(name, value string) {
		if value != "" {
			t.Row(name, term.Clean(value))
		}
	}
	row("caller", i.Caller)
	row("name", i.Name)
	row("email", i.Email)
	row("issuer", i.Issuer)
	row("groups", strings.Join(i.Groups, ", "))
	switch {
	case i.Admin:
		row("roles", "administrator")
	case len(i.Roles) == 0:
		row("roles", "none: the gateway's rules give you no role")
	default:
		row("roles", strings.Join(i.Roles, ", "))
	}
	row("login", i.Login)
	if i.Expiry != nil {
		until := i.Expiry.Local().Format(time.DateTime)
		if i.Prolonged {
			until += ", and then prolonged"
		}
		row("good until", until)
	}
	row("gateway", i.Gateway)
}
