package auth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
)

func policyCommand(f *command.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check rules before they are in force",
		Args:  command.NoArgs,
	}
	cmd.AddCommand(testPolicyCommand(f))
	return cmd
}

func testPolicyCommand(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:   "test FILE...",
		Short: "Check files of rules, and ask them the questions in them",
		Long: `Reads files of rules, or resources JwtIssuer, Policy and Role, and says what is
wrong with them. No gateway is asked.

A document with the list "tests" has cases: the claims of a caller, an action, a
resource, and whether that is to be allowed. Each is answered with the rule that
decides. The exit code is 1 if an answer is another than expected.

  tests:
    - name: customers of acme call echo
      claims: {sub: alice, groups: [acme]}
      action: Function:Invoke
      resource: acme:echo
      allowed: true`,
		Example: `  graphene auth policy test auth.yaml cases.yaml
  graphene auth can-i invoke acme/echo --rules auth.yaml --as-token "$TOKEN"`,
		Args: command.MinArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			documents, err := readRules(f, args)
			if err != nil {
				return err
			}
			failed := 0
			for i, c := range documents.Cases {
				rule, err := documents.Decide(c.Claims, c.Action, c.Resource)
				if err != nil {
					return fmt.Errorf("case %d, %s: %w", i+1, c.Name, err)
				}
				verdict, reason := "ok  ", rule
				if rule == "" {
					reason = "nothing allows it"
				}
				if (rule != "") != c.Allowed {
					verdict = "FAIL"
					failed++
				}
				f.Streams.Printf("%s  %s: %s on %s: %s\n", verdict, c.Name, c.Action, c.Resource, reason)
			}
			f.Streams.Printf("issuers: %d, policies: %d, roles: %d; %d of %d cases as expected\n", len(documents.Rules.Issuers),
				len(documents.Rules.Policies), len(documents.Rules.Roles), len(documents.Cases)-failed, len(documents.Cases))
			if failed > 0 {
				return &command.ExitError{Code: 1}
			}
			return nil
		},
	}
}

// readRules reads files of rules, and what is wrong with them together.
func readRules(f *command.Factory, files []string) (*iam.Documents, error) {
	all := new(iam.Documents)
	for _, file := range files {
		text, err := os.ReadFile(f.Path(file))
		if err != nil {
			return nil, command.NotFoundError(err, "name files of rules")
		}
		if err := all.Add(text); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	if missing := all.Missing(); len(missing) > 0 {
		return nil, fault.Invalid.Errorf("roles give policies that none of the files has: %s", strings.Join(missing, ", "))
	}
	return all, nil
}

// canIOffline answers from files what a gateway with their rules would, for the
// bearer of a token that its issuer vouches for.
func canIOffline(f *command.Factory, files []string, action, resource, token string, output term.Format) error {
	documents, err := readRules(f, files)
	if err != nil {
		return err
	}
	claims, err := claimsOf(token)
	if err != nil {
		return err
	}
	rule, err := documents.Decide(claims, action, resource)
	if err != nil {
		return err
	}
	subject, _ := claims["sub"].(string)
	answer := client.CanI{Caller: subject, Action: action, Resource: resource, Allowed: rule != "", Reason: rule}
	if rule == "" {
		answer.Reason = fmt.Sprintf("%s may not do %s on %s", subject, action, resource)
	}
	return writeAnswer(f, answer, output)
}

// claimsOf reads what a token says, and proves nothing.
func claimsOf(token string) (map[string]any, error) {
	parts := strings.Split(token, ".")
	if len(parts) == 3 {
		if text, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			var claims map[string]any
			if json.Unmarshal(text, &claims) == nil {
				return claims, nil
			}
		}
	}
	return nil, command.Usagef("--rules needs --as-token with a JWT, whose claims are looked at; its signature is not")
}
