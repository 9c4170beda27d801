// Package auth holds the commands that log in to a gateway and out again, and
// the one that asks what a caller may do.
package auth

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/internal/fault"
)

// Commands returns login, logout and auth.
func Commands(f *command.Factory) []*cobra.Command {
	return []*cobra.Command{loginCommand(f), logoutCommand(f), authCommand(f)}
}

// maxPassword bounds what is read as a password, in bytes.
const maxPassword = 4096

type loginOptions struct {
	f *command.Factory

	username string
	password string
	stdin    bool
	timeout  time.Duration
}

func loginCommand(f *command.Factory) *cobra.Command {
	o := &loginOptions{f: f}
	cmd := &cobra.Command{
		Use:     "login",
		Short:   "Log in to a gateway",
		GroupID: "platform",
		Long: `Asks the gateway whether a user and a password are right, and keeps them for
the commands that follow, in the file that faas-cli uses too:
~/.openfaas/config.yml, or what $OPENFAAS_CONFIG names. With --token it keeps a
bearer token instead.

"graphene serve" logs its own user in when it starts for the first time.`,
		Example: `  graphene login --gateway https://functions.example.com --username admin
  cat password.txt | graphene login --password-stdin
  graphene login --token "$TOKEN"`,
		Args: command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.username, "username", "u", "admin", "user")
	flags.StringVarP(&o.password, "password", "p", "", "password; others on this machine can see it in the list of processes")
	flags.BoolVarP(&o.stdin, "password-stdin", "s", false, "read the password from standard input")
	flags.DurationVar(&o.timeout, "timeout", 5*time.Second, "longest time the gateway may take")
	return cmd
}

func (o *loginOptions) run(ctx context.Context) error {
	gateway, err := o.f.Gateway(ctx)
	if err != nil {
		return err
	}
	login := logins.Login{Kind: logins.Bearer, Token: o.f.Flags.Token}
	if login.Token == "" {
		password, err := o.readPassword()
		if err != nil {
			return err
		}
		if o.username == "" || strings.Contains(o.username, ":") {
			return command.Usagef("--username is %q; it must not be empty, or have a colon", o.username)
		}
		login = logins.NewBasic(o.username, password)
	}
	o.f.WarnInsecure(gateway)
	c, err := o.f.ClientWith(gateway, login)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	if _, err := c.Functions(ctx, ""); errors.Is(err, fault.Unauthenticated) {
		return fault.Denied.Errorf("log in to %s: the gateway refuses these credentials", gateway)
	} else if err != nil && !errors.Is(err, fault.Denied) { // who may not list may still be who they say
		return err
	}
	file, err := o.f.Logins()
	if err != nil {
		return err
	}
	if err := file.Save(gateway, login); err != nil {
		return err
	}
	o.f.Streams.Printf("logged in to %s; the login is kept in %s\n", gateway, file.Path)
	return nil
}

func (o *loginOptions) readPassword() (string, error) {
	switch {
	case o.stdin && o.password != "":
		return "", command.Usagef("--password and --password-stdin exclude each other")
	case o.stdin:
		text, err := io.ReadAll(io.LimitReader(o.f.Streams.In, maxPassword+1))
		if err != nil {
			return "", err
		}
		password := strings.TrimRight(string(text), "\r\n")
		if password == "" || len(password) > maxPassword {
			return "", command.Usagef("standard input holds no password: it has %d bytes", len(text))
		}
		return password, nil
	case o.password != "":
		return o.password, nil
	case o.f.Streams.InTTY:
		password, err := o.f.Streams.ReadPassword("password of " + o.username + ": ")
		if err == nil && password == "" {
			err = command.Usagef("the password is empty")
		}
		return password, err
	}
	return "", command.Usagef("give the password with --password-stdin, or --password")
}

func logoutCommand(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:     "logout",
		Short:   "Forget the login for a gateway",
		GroupID: "platform",
		Long:    `Removes what is kept for a gateway from the file of logins.`,
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
			if err := file.Remove(gateway); err != nil {
				return err
			}
			f.Streams.Printf("logged out of %s\n", gateway)
			return nil
		},
	}
}
