package auth

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/function"
)

func authCommand(f *command.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "auth",
		Short:   "Ask what a caller may do",
		GroupID: "platform",
		Long: `What callers may do follows from the gateway's file of issuers, policies and
roles.`,
	}
	cmd.AddCommand(canICommand(f), keyCommand(f), policyCommand(f), signingKeyCommand(f))
	return cmd
}

// verbs are short for actions on functions.
var verbs = map[string]string{
	"invoke": "Function:Invoke",
	"get":    "Function:Get",
	"create": "Function:Create",
	"update": "Function:Update",
	"delete": "Function:Delete",
	"list":   "Function:List",
	"logs":   "Function:Logs",
	"scale":  "Function:Scale",
}

func canICommand(f *command.Factory) *cobra.Command {
	var token string
	var rules []string
	var output term.Format
	cmd := &cobra.Command{
		Use:   "can-i ACTION [RESOURCE]",
		Short: "Ask whether a caller may do something, and why",
		Long: `Asks the gateway whether whoever is logged in may do something, or, with
--as-token, the bearer of a token. It names the role, the policy and the
statement that allow it, or the right that is missing. With --rules the answer
comes from files, and no gateway is asked.

ACTION is one of invoke, get, create, update, delete, list, logs and scale, or
an action as policies write it, such as Secret:Create. RESOURCE is
NAMESPACE/FUNCTION, NAMESPACE:FUNCTION or FUNCTION.NAMESPACE; without a function
it is NAMESPACE/, and without a resource the platform as a whole.

The exit code is 0 for yes and 1 for no.`,
		Example: `  graphene auth can-i invoke acme/echo
  graphene auth can-i invoke acme/echo --as-token "$TOKEN"
  graphene auth can-i Secret:Create acme/
  graphene auth can-i System:Info`,
		Args: command.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			action, resource, err := question(args, f.Flags.Namespace)
			if err != nil {
				return err
			}
			if len(rules) > 0 {
				return canIOffline(f, rules, action, resource, token, output)
			}
			return canI(cmd.Context(), f, action, resource, token, output)
		},
	}
	cmd.Flags().StringVar(&token, "as-token", "", "ask for the bearer of this token")
	cmd.Flags().StringSliceVar(&rules, "rules", nil, "answer from this file of rules, or of resources; may be given several times")
	command.OutputFlag(cmd, &output)
	return cmd
}

func canI(ctx context.Context, f *command.Factory, action, resource, token string, output term.Format) error {
	c, err := f.Client(ctx)
	if token != "" && err == nil {
		c, err = f.ClientWith(c.URL(), logins.Login{Kind: logins.Bearer, Token: token})
	}
	if err != nil {
		return err
	}
	ctx, cancel := command.Timeout(ctx)
	defer cancel()
	answer, err := c.CanI(ctx, action, resource)
	if err != nil {
		return err
	}
	return writeAnswer(f, answer, output)
}

// writeAnswer writes whether somebody may do something, which the exit code
// says too.
func writeAnswer(f *command.Factory, answer client.CanI, output term.Format) error {
	err := output.Write(f.Streams.Out, answer, func(t *term.Table) {
		word := "no: "
		if answer.Allowed {
			word = "yes: "
		}
		t.Row(word + answer.Reason)
	})
	if err != nil {
		return err
	}
	if !answer.Allowed {
		return &command.ExitError{Code: 1}
	}
	return nil
}

// question turns arguments into an action and a resource as policies write
// them.
func question(args []string, namespace string) (action, resource string, err error) {
	action = args[0]
	if short, ok := verbs[action]; ok {
		action = short
	} else if !strings.Contains(action, ":") {
		names := make([]string, 0, len(verbs))
		for v := range verbs {
			names = append(names, v)
		}
		slices.Sort(names)
		return "", "", command.Usagef("%q is no action: want one of %s, or one such as Secret:Create", action, strings.Join(names, ", "))
	}
	if len(args) == 1 {
		if namespace != "" {
			return action, namespace + ":*", nil
		}
		return action, "*", nil
	}
	text := args[1]
	space, name, ok := strings.Cut(text, "/")
	if !ok {
		space, name, ok = strings.Cut(text, ":")
	}
	if ok && (name == "" || name == "*") {
		return action, space + ":*", function.ValidNamespace(space)
	}
	ref := function.Ref{Namespace: space, Name: name}
	if !ok {
		if namespace == "" {
			namespace = function.DefaultNamespace
		}
		ref, err = function.ParseRef(text, namespace)
	} else {
		err = ref.Validate()
	}
	return action, ref.Namespace + ":" + ref.Name, err
}
