package auth

import (
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/signin"
)

func logoutCommand(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:     "logout",
		Short:   "End the login to a gateway",
		GroupID: "platform",
		Long: `Removes what is kept for a gateway from the file of logins, and has the issuer,
if there is one and it can, forget the login too.`,
		Example: `  graphene logout --gateway https://functions.example.com`,
		Args:    command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			gateway, err := f.Gateway(cmd.Context())
			if err != nil {
				return err
			}
			file, err := f.Logins()
			if err != nil {
				return err
			}
			login, _, err := file.Lookup(gateway)
			if err != nil {
				return err
			}
			if err := file.Remove(gateway); err != nil {
				return err
			}
			if s, ok := signin.Of(login); ok {
				ctx, cancel := command.Timeout(cmd.Context())
				defer cancel()
				if err := s.End(ctx, f.World(gateway)); err != nil {
					f.Streams.Notef("warning: the login is forgotten here, but not by its issuer: %v\n", err)
				}
			}
			f.Streams.Printf("logged out of %s\n", gateway)
			return nil
		},
	}
}
