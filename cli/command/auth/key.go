package auth

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/iam"
)

func keyCommand(f *command.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Manage API keys",
		Long: `Manages API keys, by which programs are known that have no issuer. A key is sent
as "Authorization: Bearer KEY" or as "X-API-Key: KEY". The gateway shows it once
and keeps only its hash; a key that is revoked is refused at once.`,
		Args: command.NoArgs,
	}
	cmd.AddCommand(createKeyCommand(f), listKeysCommand(f), revokeKeyCommand(f))
	return cmd
}

func createKeyCommand(f *command.Factory) *cobra.Command {
	var k client.NewAPIKey
	var actions, resources []string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make an API key",
		Long: `Makes an API key and prints it. It cannot be shown again. NAME says what it is for.

The key is good for --action on --resource, and nothing else; nobody can make one
that is good for more than they may do themselves. Actions are as for "auth
can-i", or patterns such as "Function:*"; resources are NAMESPACE/FUNCTION,
NAMESPACE/ or "*".`,
		Example: `  graphene auth key create etl --action invoke --resource acme/ --expires 2160h
  graphene auth key create ci --action "Function:*" --resource acme/`,
		Args: command.MaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				k.Name = args[0]
			}
			if len(actions) == 0 || len(resources) == 0 {
				return command.Usagef("say what the key is for, by --action and --resource")
			}
			for _, a := range actions {
				if short, ok := verbs[a]; ok {
					a = short
				}
				k.Action = append(k.Action, a)
			}
			for _, r := range resources {
				k.Resource = append(k.Resource, resourcePattern(r))
			}
			if expires < 0 || expires > 0 && expires < time.Second {
				return command.Usagef("--expires is %v, want a second or more", expires)
			}
			k.ExpiresIn = int64(expires / time.Second)
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				made, err := c.CreateAPIKey(ctx, k)
				if err != nil {
					return err
				}
				f.Streams.Printf("%s\n", made.Key)
				f.Streams.Notef("API key %s was made; it is not shown again\n", made.ID)
				return nil
			})
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&actions, "action", nil, "what the key is good for; may be given several times")
	flags.StringSliceVar(&resources, "resource", nil, "on what; may be given several times")
	flags.DurationVar(&expires, "expires", 0, "for how long the key is good, such as 720h (default: until it is revoked)")
	return cmd
}

// resourcePattern writes a resource as policies do.
func resourcePattern(text string) string {
	namespace, name, ok := strings.Cut(text, "/")
	switch {
	case !ok:
		return text
	case name == "":
		return namespace + ":*"
	}
	return namespace + ":" + name
}

func listKeysCommand(f *command.Factory) *cobra.Command {
	var output term.Format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List API keys",
		Long: `Lists what is kept of API keys: what they are for, and when the gateway that
answers saw them last since it started.`,
		Example: `  graphene auth key list
  graphene auth key list --output json`,
		Args: command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				all, err := c.APIKeys(ctx)
				if err != nil {
					return err
				}
				return output.Write(f.Streams.Out, all, func(t *term.Table) {
					t.Header("ID", "NAME", "ACTIONS", "RESOURCES", "EXPIRES", "LAST USED", "MADE BY")
					for _, k := range all {
						t.Row(k.ID, k.Name, strings.Join(k.Action, ","), strings.Join(k.Resource, ","), when(k.Expires, "never"), when(k.LastUsed, "-"), k.CreatedBy)
					}
				})
			})
		},
	}
	command.OutputFlag(cmd, &output)
	return cmd
}

func when(t *time.Time, none string) string {
	if t == nil {
		return none
	}
	return t.Local().Format(time.DateTime)
}

func revokeKeyCommand(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke ID",
		Short:   "Have an API key refused from now on",
		Long:    `Has an API key refused by all gateways, within a second. ID is what "auth key list" shows, or the key itself.`,
		Example: `  graphene auth key revoke 5k2j9x0q1z`,
		Args:    command.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := args[0]
			if rest, ok := strings.CutPrefix(id, iam.APIKeyPrefix); ok {
				id, _, _ = strings.Cut(rest, "_")
			}
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if err := c.RevokeAPIKey(ctx, id); err != nil {
					return err
				}
				f.Streams.Printf("API key %s is revoked\n", id)
				return nil
			})
		},
	}
}
