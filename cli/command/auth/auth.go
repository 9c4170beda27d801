// Package auth holds the commands that log in to a gateway and out again, that
// say who somebody is, and the one that asks what a caller may do.
package auth

import (
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
)

// Commands returns login, logout, whoami and auth.
func Commands(f *command.Factory) []*cobra.Command {
	return []*cobra.Command{loginCommand(f), logoutCommand(f), whoamiCommand(f), authCommand(f)}
}
