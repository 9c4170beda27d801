package auth_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/fault"
)

// head is what every file of rules begins with here.
const head = `
issuers:
  - {name: corp, iss: https://corp.test, aud: graphene}
`

// allowed reports whether a caller with these claims may do action to resource
// by the rules in text.
func allowed(t *testing.T, text string, claims map[string]any, action auth.Action, resource auth.Resource) auth.Decision {
	t.Helper()
	corp := newIDP(t, "https://corp.test")
	tokens, _ := run(t, text, network{corp.url: corp}, nil)
	caller, err := tokens.Verify(t.Context(), corp.token(t, claims))
	if err != nil {
		t.Fatal(err)
	}
	return auth.Decide(caller, action, resource)
}

func TestAStatementAllowsItsActionsOnItsResources(t *testing.T) {
	for _, tt := range []struct {
		actions, resources string
		action             auth.Action
		resource           auth.Resource
		ok                 bool
	}{
		{"'*'", "'*'", auth.SystemInfo, auth.Resource{}, true},
		{"'Function:*'", "'*'", auth.FunctionInvoke, echo, true},
		{"'Function:*'", "'*'", auth.SecretList, echo, false},
		{"'Function:Invoke'", "'acme:echo'", auth.FunctionInvoke, echo, true},
		{"'Function:Invoke'", "'acme:other'", auth.FunctionInvoke, echo, false},
		{"'Function:Invoke'", "'beta:*'", auth.FunctionInvoke, echo, false},
		{"'Function:Invoke'", "'acme:*'", auth.FunctionDelete, echo, false},
		{"['Function:Get', 'Function:Invoke']", "['beta:*', 'acme:*']", auth.FunctionInvoke, echo, true},
		{"'Function:List'", "'acme:*'", auth.FunctionList, auth.Resource{Namespace: "acme"}, true},
		{"'Function:List'", "'acme:echo'", auth.FunctionList, auth.Resource{Namespace: "acme"}, false},
		{"'System:Info'", "'acme:*'", auth.SystemInfo, auth.Resource{}, false},
		{"'Namespace:Get'", "'acme:*'", auth.NamespaceGet, auth.Resource{Namespace: "acme"}, true},
		{"'*'", "'*'", "Function:Typo", echo, false},
	} {
		text := head + "policies: [{name: p, statement: [{sid: s, effect: Allow, action: " + tt.actions + ", resource: " + tt.resources + "}]}]\nroles: [{name: r, policy: p}]\n"
		d := allowed(t, text, nil, tt.action, tt.resource)
		if (d.Err() == nil) != tt.ok {
			t.Errorf("action %s, resource %s: %s on %s is %v", tt.actions, tt.resources, tt.action, tt.resource, d.Err())
		}
		if tt.ok && d.Rule != "role r, policy p, statement s" {
			t.Errorf("the rule is %q", d.Rule)
		}
	}
}

func TestARoleIsForThoseWhosePrincipalAndConditionsAllFit(t *testing.T) {
	claims := map[string]any{
		"groups": []any{"ml", "ops"}, "one": "ml", "email": "Alice@Corp.test", "level": 3, "staff": true,
		"realm_access":  map[string]any{"roles": []any{"caller"}},
		"kubernetes.io": map[string]any{"namespace": "jobs", "serviceaccount": map[string]any{"name": "etl"}},
	}
	for rule, want := range map[string]bool{
		"principal: {'jwt:sub': alice}":                                                                  true,
		"principal: {'jwt:sub': [bob, alice]}":                                                           true,
		"principal: {'jwt:sub': ali*}":                                                                   false,
		"principal: {'jwt:sub': alice, 'jwt:email': x}":                                                  false,
		"condition: {StringEqual: {'jwt:iss': 'https://corp.test'}}":                                     true,
		"condition: {StringEquals: {'jwt:level': '3', 'jwt:staff': 'true'}}":                             true,
		"condition: {StringEqual: {'jwt:email': 'alice@corp.test'}}":                                     false,
		"condition: {StringEqualIgnoreCase: {'jwt:email': 'alice@corp.test'}}":                           true,
		"condition: {StringLike: {'jwt:email': '*@Corp.test'}}":                                          true,
		"condition: {StringLike: {'jwt:email': ['x', 'A*@*.test']}}":                                     true,
		"condition: {StringLike: {'jwt:email': '*@corp.test.evil'}}":                                     false,
		"condition: {StringEqual: {'jwt:groups': ml}}":                                                   false,
		"condition: {'ForAnyValue:StringEqual': {'jwt:groups': [sales, ops]}}":                           true,
		"condition: {'ForAnyValue:StringEqual': {'jwt:groups': sales}}":                                  false,
		"condition: {'ForAnyValue:StringEqual': {'jwt:one': ml}}":                                        true,
		"condition: {'ForAnyValue:StringEqual': {'jwt:none': ml}}":                                       false,
		"condition: {'ForAnyValue:StringEqual': {'jwt:realm_access.roles': caller}}":                     true,
		"condition: {StringEqual: {'jwt:kubernetes.io.serviceaccount.name': etl}}":                       true,
		"condition: {StringEqual: {'jwt:kubernetes.io.serviceaccount': etl}}":                            false,
		"condition: {StringEqual: {'jwt:sub': alice}, StringLike: {'jwt:sub': b*}}":                      false,
		"principal: {'jwt:sub': alice}, condition: {StringEqual: {'jwt:one': x}}":                        false,
		"condition: {StringEqual: {'jwt:sub': alice, 'jwt:one': ml}}":                                    true,
		"condition: {StringEqual: {'jwt:sub': []}}":                                                      false,
		"principal: {'jwt:sub': bob}, condition: {'ForAnyValue:StringEqual': {'jwt:groups': [ml, ops]}}": false,
	} {
		text := head + "policies: [{name: p, statement: [{effect: Allow, action: '*', resource: '*'}]}]\nroles: [{name: r, policy: [p], " + rule + "}]\n"
		if d := allowed(t, text, claims, auth.FunctionInvoke, echo); (d.Err() == nil) != want {
			t.Errorf("%s: %v, want %v", rule, d.Err(), want)
		}
	}
}

func TestAStatementCanHaveAConditionOfItsOwn(t *testing.T) {
	text := head + `
policies:
  - name: p
    statement:
      - {effect: Allow, action: "Function:Invoke", resource: "acme:*", condition: {StringEqual: {"jwt:plan": gold}}}
      - {effect: Allow, action: "Function:Invoke", resource: "acme:free"}
roles: [{name: r, policy: [p]}]
`
	for plan, ok := range map[string]bool{"gold": true, "none": false} {
		if d := allowed(t, text, map[string]any{"plan": plan}, auth.FunctionInvoke, echo); (d.Err() == nil) != ok {
			t.Errorf("plan %s: %v", plan, d.Err())
		}
	}
	d := allowed(t, text, nil, auth.FunctionInvoke, auth.Resource{Namespace: "acme", Name: "free"})
	if d.Err() != nil || d.Rule != "role r, policy p, statement 2" {
		t.Errorf("%v by %q", d.Err(), d.Rule)
	}
}

func TestEverythingThatIsWrongWithTheRulesIsReportedTogether(t *testing.T) {
	_, err := auth.ParseRules([]byte(`
issuers:
  - {name: a, iss: corp.test, aud: [x], algorithms: [HS256, none], clockSkew: 1h}
  - {name: a, iss: https://corp.test, issInternal: "ftp://x"}
  - {iss: https://corp.test, aud: x}
policies:
  - {name: p, statement: [{effect: Deny, action: ["Function:Fly"], resource: ["a:b:c", "Acme:*"]}]}
  - {name: q}
roles:
  - {name: r, policy: [p, gone], principal: {sub: x}}
  - {name: s, policy: [p], condition: {StringNot: {"jwt:sub": x}, StringEqual: {}}}
  - {name: s}
`))
	if !errors.Is(err, fault.Invalid) {
		t.Fatalf("%v, want fault.Invalid", err)
	}
	for _, want := range []string{
		`issuers "a": iss is "corp.test"`, `algorithm "HS256"`, `algorithm "none"`, `clockSkew is 1h`,
		`issuers: there are two of the name "a"`, `issInternal is "ftp://x"`, `aud must name`, `issuers[2] has no name`, `two with the iss "https://corp.test"`,
		`policies "p", statement 1: effect is "Deny"`, `action "Function:Fly"`, `resource is "a:b:c"`, `resource is "Acme:*"`, `policies "q" has no statement`,
		`there is no policy "gone"`, `key is "sub", want jwt:CLAIM`, `no operator "StringNot"`, `StringEqual names no claim`,
		`roles: there are two of the name "s"`, `roles "s" gives no policy`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %s:\n%v", want, err)
		}
	}
	for name, text := range map[string]string{
		"empty": "", "no issuers": "issuers: []", "unknown field": head + "rolls: []", "a misspelt condition": head + "roles: [{name: r, policy: [], conditions: {}}]",
		"two documents": head + "---\nissuers: []", "not a mapping": "- a", "huge": strings.Repeat("#", 2<<20), "damaged": "issuers: [",
	} {
		if _, err := auth.ParseRules([]byte(text)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want fault.Invalid", name, err)
		}
	}
}

func FuzzRules(f *testing.F) {
	f.Add(rules)
	f.Add(head + "roles: [{name: r, policy: [p], condition: {'ForAnyValue:StringLike': {'jwt:a.b': 'x*'}}}]\npolicies: [{name: p, statement: [{effect: Allow, action: '*', resource: 'a:b'}]}]")
	f.Add("issuers: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := auth.ParseRules([]byte(text))
		if (err == nil) != (parsed != nil) {
			t.Fatalf("%v, %v", parsed, err)
		}
		if err == nil && len(parsed.Issuers) == 0 {
			t.Error("rules without issuers were taken")
		}
	})
}
