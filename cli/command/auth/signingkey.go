package auth

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
)

func signingKeyCommand(f *command.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "signing-key",
		Short: "Manage the keys that sign the platform's own tokens",
		Long: `Manages the keys by which the platform signs tokens of its own: those that it
exchanges for an issuer's, and those for functions.`,
		Args: command.NoArgs,
	}
	cmd.AddCommand(listSigningKeysCommand(f), rotateSigningKeysCommand(f))
	return cmd
}

func listSigningKeysCommand(f *command.Factory) *cobra.Command {
	var output term.Format
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List signing keys",
		Long: `Lists the signing keys that the gateway which answers knows, the newest first: the
one that signs, one that will, and those whose tokens are still good.`,
		Example: `  graphene auth signing-key list`,
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				all, err := c.SigningKeys(ctx)
				if err != nil {
					return err
				}
				return output.Write(f.Streams.Out, all, func(t *term.Table) {
					t.Header("ID", "STATE", "MADE", "SIGNS FROM", "FORGOTTEN")
					for _, k := range all {
						t.Row(k.ID, k.State, when(k.Created, "-"), when(k.Signs, "-"), when(k.Until, "-"))
					}
				})
			})
		},
	}
	command.OutputFlag(cmd, &output)
	return cmd
}

func rotateSigningKeysCommand(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate",
		Short: "Have a new key sign",
		Long: `Makes a new signing key, which signs as soon as everybody may have seen it: two
minutes after a gateway has. Tokens of the keys before stay good until they
expire. In a cluster it takes a minute or two until gateways see the new key.

This is for routine. A key that was stolen must go at once; the guide says how.`,
		Example: `  graphene auth signing-key rotate`,
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				id, err := c.RotateSigningKeys(ctx)
				if err != nil {
					return err
				}
				f.Streams.Printf("%s\n", id)
				f.Streams.Notef("signing key %s was made; it signs in some minutes\n", id)
				return nil
			})
		},
	}
}
