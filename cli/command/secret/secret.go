// Package secret holds the commands about secrets: what functions need to
// know and their images must not hold.
package secret

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/openfaas/faas-provider/types"
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// maxValue bounds a secret in bytes. It is a file, not a data set.
const maxValue = 1 << 19

// localDir holds the secrets of a project, one file each, beside the stack file.
const localDir = ".secrets"

// Command returns the command about secrets.
func Command(f *command.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "secret",
		Short:   "Manage secrets",
		GroupID: "resource",
		Long: `Manages secrets. A function that names a secret (secrets: in the stack file, or
--secret) can read it from a file of that name in the directory that its
environment variable SECRETS_DIR names, which is /var/openfaas/secrets where
possible. Values can be written and replaced, and never read back.`,
	}
	cmd.AddCommand(createCommand(f), listCommand(f), updateCommand(f), removeCommand(f), applyCommand(f))
	return cmd
}

// A value is where the value of a secret comes from.
type value struct {
	f       *command.Factory
	literal string
	file    string
	trim    bool
	set     func(flag string) bool // whether a flag was given
}

func (v *value) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&v.literal, "from-literal", "", "the value itself; others on this machine can see it in the list of processes")
	cmd.Flags().StringVar(&v.file, "from-file", "", "file with the value")
	cmd.Flags().BoolVar(&v.trim, "trim", true, "remove white space around the value")
	v.set = cmd.Flags().Changed
}

// read returns the value: of the flags, or else of standard input.
func (v *value) read() ([]byte, error) {
	var text []byte
	var err error
	switch {
	case v.set("from-literal") && v.set("from-file"):
		return nil, command.Usagef("--from-literal and --from-file exclude each other")
	case v.set("from-literal"):
		text = []byte(v.literal)
	case v.set("from-file"):
		if text, err = os.ReadFile(v.f.Path(v.file)); err != nil {
			return nil, command.NotFoundError(err, "--from-file names the file with the value")
		}
	case v.f.Streams.InTTY:
		line, err := v.f.Streams.ReadPassword("value: ")
		if err != nil {
			return nil, err
		}
		text = []byte(line)
	default:
		if text, err = io.ReadAll(io.LimitReader(v.f.Streams.In, maxValue+1)); err != nil {
			return nil, fmt.Errorf("read the value from standard input: %w", err)
		}
	}
	return check(text, v.trim)
}

// check returns text as the value of a secret, or what is wrong with it.
func check(text []byte, trim bool) ([]byte, error) {
	if trim {
		text = []byte(strings.TrimSpace(string(text)))
	}
	switch {
	case len(text) == 0:
		return nil, command.Usagef("the value is empty: give it by --from-literal, --from-file or standard input")
	case len(text) > maxValue:
		return nil, fault.TooLarge.Errorf("the value has more than %d bytes", maxValue)
	}
	return text, nil
}

// secret returns the secret as it is sent: text as text, so that it is
// readable for servers of every age, and everything else as bytes.
func secret(name, namespace string, text []byte) types.Secret {
	s := types.Secret{Name: name, Namespace: namespace}
	if utf8.Valid(text) && !slices.Contains(text, 0) {
		s.Value = string(text)
	} else {
		s.RawValue = text
	}
	return s
}

func createCommand(f *command.Factory) *cobra.Command {
	v := &value{f: f}
	var replace bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Keep a new secret",
		Long: `Keeps a new secret. Its value comes from --from-file, --from-literal or standard
input.`,
		Example: `  graphene secret create api-key --from-file key.txt
  pass show api-key | graphene secret create api-key --replace`,
		Args: command.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := function.ValidSecretName(args[0]); err != nil {
				return err
			}
			text, err := v.read()
			if err != nil {
				return err
			}
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				s := secret(args[0], f.Flags.Namespace, text)
				err = c.CreateSecret(ctx, s)
				if errors.Is(err, fault.Exists) && replace {
					if err := c.UpdateSecret(ctx, s); err != nil {
						return err
					}
					f.Streams.Printf("secret %s is replaced\n", s.Name)
					return nil
				}
				if errors.Is(err, fault.Exists) {
					return command.ExistsError(err, "--replace gives it the new value")
				}
				if err != nil {
					return err
				}
				f.Streams.Printf("secret %s is created\n", s.Name)
				return nil
			})
		},
	}
	v.addFlags(cmd)
	cmd.Flags().BoolVar(&replace, "replace", false, "replace the value if the secret exists")
	return cmd
}

func updateCommand(f *command.Factory) *cobra.Command {
	v := &value{f: f}
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Replace the value of a secret",
		Long: `Replaces the value of a secret that exists. Functions that use it find the new
value in the file, without being deployed again.`,
		Example:           `  graphene secret update api-key --from-file key.txt`,
		Args:              command.ExactArgs(1),
		ValidArgsFunction: complete(f),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := v.read()
			if err != nil {
				return err
			}
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if err := c.UpdateSecret(ctx, secret(args[0], f.Flags.Namespace, text)); err != nil {
					return err
				}
				f.Streams.Printf("secret %s is updated\n", args[0])
				return nil
			})
		},
	}
	v.addFlags(cmd)
	return cmd
}

func listCommand(f *command.Factory) *cobra.Command {
	return command.Show(f, &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List secrets, without their values",
		Example: `  graphene secret list -o json`,
		Args:    command.NoArgs,
	}, func(ctx context.Context, c *client.Client, _ []string) ([]types.Secret, error) {
		return c.Secrets(ctx, f.Flags.Namespace)
	}, func(t *term.Table, all []types.Secret) {
		t.Header("NAME", "NAMESPACE")
		for _, s := range all {
			t.Row(s.Name, s.Namespace)
		}
	})
}

func removeCommand(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:               "remove NAME",
		Aliases:           []string{"rm", "delete"},
		Short:             "Remove a secret",
		Example:           `  graphene secret remove api-key`,
		Args:              command.ExactArgs(1),
		ValidArgsFunction: complete(f),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if err := c.RemoveSecret(ctx, f.Flags.Namespace, args[0]); err != nil {
					return err
				}
				f.Streams.Printf("secret %s is removed\n", args[0])
				return nil
			})
		},
	}
}

func applyCommand(f *command.Factory) *cobra.Command {
	var trim bool
	cmd := &cobra.Command{
		Use:   "apply [FILE...]",
		Short: "Create or update secrets from files",
		Long: `Creates a secret from each file, named like the file, or gives it the file's
value if it exists. Without arguments it takes the files in the directory
.secrets, which should be kept out of version control.`,
		Example: `  graphene secret apply
  graphene secret apply keys/api-key keys/db-password`,
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := secretFiles(f, args)
			if err != nil {
				return err
			}
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				return apply(ctx, f, c, files, trim)
			})
		},
	}
	cmd.Flags().BoolVar(&trim, "trim", true, "remove white space around the values")
	return cmd
}

// secretFiles returns the files to apply: those named, or those of localDir.
func secretFiles(f *command.Factory, args []string) ([]string, error) {
	var files []string
	for _, a := range args {
		files = append(files, f.Path(a))
	}
	if len(args) > 0 {
		return files, nil
	}
	dir := f.Path(localDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, command.NotFoundError(err, "put one file for each secret there, or name files")
	}
	if err != nil {
		return nil, fmt.Errorf("read secrets: %w", err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fault.NotFound.Errorf("%s has no files: put one for each secret there", localDir)
	}
	return files, nil
}

// apply sends every file. All of them are read before the first is sent.
func apply(ctx context.Context, f *command.Factory, c *client.Client, files []string, trim bool) error {
	var secrets []types.Secret
	var errs []error
	for _, file := range files {
		name := filepath.Base(file)
		text, err := os.ReadFile(file)
		if err == nil {
			text, err = check(text, trim)
		} else if errors.Is(err, fs.ErrNotExist) {
			err = fault.NotFound.Errorf("%w", err)
		}
		if err = errors.Join(err, function.ValidSecretName(name)); err != nil {
			errs = append(errs, fmt.Errorf("secret %s: %w", name, err))
			continue
		}
		secrets = append(secrets, secret(name, f.Flags.Namespace, text))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, s := range secrets {
		done := "created"
		err := c.CreateSecret(ctx, s)
		if errors.Is(err, fault.Exists) {
			done, err = "updated", c.UpdateSecret(ctx, s)
		}
		if err != nil {
			return fmt.Errorf("secret %s: %w", s.Name, err)
		}
		f.Streams.Printf("secret %s is %s\n", s.Name, done)
	}
	return nil
}

// complete proposes the names of secrets to a shell.
func complete(f *command.Factory) cobra.CompletionFunc {
	return f.CompleteNames(func(ctx context.Context, c *client.Client) (names []string, err error) {
		all, err := c.Secrets(ctx, f.Flags.Namespace)
		for _, s := range all {
			names = append(names, s.Name)
		}
		return names, err
	})
}
