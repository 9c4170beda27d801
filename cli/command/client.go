package command

import (
	"context"
	"crypto/tls"
	"net/http"
	"runtime"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/cli/signin"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/function"
)

// ClientOf returns a client of the gateway at url, with the token of the flag
// or the login that is kept for it, which the client prolongs as needed.
func (f *Factory) ClientOf(url string) (*client.Client, error) {
	login, err := f.loginFor(url)
	if err != nil {
		return nil, err
	}
	if _, ok := signin.Of(login); ok {
		return f.newClient(url, client.Options{Renew: func(ctx context.Context) (string, error) {
			login, err := f.Login(ctx, url)
			return login.Token, err
		}})
	}
	return f.ClientWith(url, login)
}

// ClientWith returns a client of the gateway at url that logs in with login;
// the zero login is none.
func (f *Factory) ClientWith(url string, login logins.Login) (*client.Client, error) {
	var o client.Options
	if user, password, ok := login.UserPassword(); ok {
		o.User, o.Password = user, password
	} else {
		o.Token = login.Token
	}
	return f.newClient(url, o)
}

func (f *Factory) newClient(url string, o client.Options) (*client.Client, error) {
	f.spoken = url
	o.URL, o.Insecure = url, f.Flags.TLSNoVerify
	o.UserAgent = "graphene/" + f.Version + " (" + runtime.GOOS + "; " + runtime.GOARCH + ")"
	return client.New(o)
}

// World is what logging in to the gateway at url needs of the world.
func (f *Factory) World(url string) signin.World {
	return signin.World{Gateway: func() (*client.Client, error) { return f.newClient(url, client.Options{}) }}
}

// Login returns what the flags or the file of logins hold for the gateway at
// url, prolonged if it is about to end. Without either it is the zero login.
func (f *Factory) Login(ctx context.Context, url string) (logins.Login, error) {
	if f.Flags.Token != "" {
		return f.loginFor(url)
	}
	file, err := f.Logins()
	if err != nil {
		return logins.Login{}, nil // no place for logins is no login
	}
	login, _, err := signin.Current(ctx, file, url, f.World(url))
	return login, err
}

// Spoken returns the URL of the gateway that a client was made for last, "" if
// none was: hints name it.
func (f *Factory) Spoken() string { return f.spoken }

// loginFor returns what the flags or the file of logins hold for url.
func (f *Factory) loginFor(url string) (logins.Login, error) {
	if f.Flags.Token != "" {
		return logins.Login{Kind: logins.Bearer, Token: f.Flags.Token}, nil
	}
	file, err := f.Logins()
	if err != nil {
		return logins.Login{}, nil // no place for logins is no login
	}
	login, _, err := file.Lookup(url)
	return login, err
}

// requestTimeout bounds what a command asks of the gateway, unless it is made
// to take long.
const requestTimeout = time.Minute

// Ask lets ask speak with the gateway, for as long as a command may take that
// is not made to take long.
func (f *Factory) Ask(ctx context.Context, ask func(context.Context, *client.Client) error) error {
	c, err := f.Client(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := Timeout(ctx)
	defer cancel()
	return ask(ctx, c)
}

// Timeout bounds a command that asks the gateway for something.
func Timeout(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, requestTimeout)
}

// RegistryTransport carries requests to registries; nil is the usual one.
func (f *Factory) RegistryTransport() http.RoundTripper {
	if !f.Flags.TLSNoVerify {
		return nil
	}
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	return t
}

// RegistryLogin returns the user and password that the registry of the
// platform at url takes; both are empty if there is no login.
func (f *Factory) RegistryLogin(ctx context.Context, url string) (user, password string, err error) {
	login, err := f.Login(ctx, url)
	if err != nil {
		return "", "", err
	}
	if user, password, ok := login.UserPassword(); ok {
		return user, password, nil
	}
	if login.Token != "" {
		// A registry's clients know only basic authentication; a token goes
		// in as the password of nobody in particular.
		return "token", login.Token, nil
	}
	return "", "", nil
}

// CompleteFunctions proposes the names of deployed functions to a shell.
func (f *Factory) CompleteFunctions(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	return f.CompleteNames(func(ctx context.Context, c *client.Client) (names []string, err error) {
		all, err := c.Functions(ctx, f.Flags.Namespace)
		for _, status := range all {
			names = append(names, status.Name)
		}
		return names, err
	})(cmd, args, typed)
}

// CompleteStack proposes the functions of the stack file to a shell, as any
// number of arguments.
func (f *Factory) CompleteStack(cmd *cobra.Command, args []string, _ string) (names []string, do cobra.ShellCompDirective) {
	_, functions, err := f.Selected(cmd.Context(), nil)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	for _, fn := range functions {
		if !slices.Contains(args, fn.Name) {
			names = append(names, fn.Name)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// CompleteNames proposes to a shell, as a command's one argument, the names
// that list gets of the gateway.
func (f *Factory) CompleteNames(list func(context.Context, *client.Client) ([]string, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) (names []string, do cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		err := f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) (err error) {
			names, err = list(ctx, c)
			return err
		})
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// Ref reads a function's name as it is given to a command: NAME or
// NAME.NAMESPACE. Without a namespace it has the flag's, or OpenFaaS's default.
func (f *Factory) Ref(name string) (function.Ref, error) {
	fallback := f.Flags.Namespace
	if fallback == "" {
		fallback = function.DefaultNamespace
	}
	ref, err := function.ParseRef(name, fallback)
	if err != nil {
		return function.Ref{}, Usagef("%w", err)
	}
	return ref, nil
}
