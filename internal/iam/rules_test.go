package iam_test

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
)

// head is what every file of rules begins with here.
const head = `
issuers:
  - {name: corp, iss: https://corp.test, aud: graphene}
`

// allowed returns the rule in text that allows a caller with these claims to
// do action to resource; "" is none.
func allowed(t *testing.T, text string, claims map[string]any, action iam.Action, resource iam.Resource) string {
	t.Helper()
	rules, err := iam.ParseRules([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]any{"iss": "https://corp.test", "sub": "alice", "aud": "graphene"}
	maps.Copy(all, claims)
	payload, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := iam.ParseClaims(payload)
	if err != nil {
		t.Fatal(err)
	}
	rule, ok := rules.Rights(parsed).Allows(action, resource)
	if ok != (rule != "") {
		t.Errorf("%q, %v", rule, ok)
	}
	return rule
}

var echo = iam.Resource{Namespace: "acme", Name: "echo"}

func TestAStatementAllowsItsActionsOnItsResources(t *testing.T) {
	for _, tt := range []struct {
		actions, resources string
		action             iam.Action
		resource           iam.Resource
		ok                 bool
	}{
		{"'*'", "'*'", iam.SystemInfo, iam.Resource{}, true},
		{"'Function:*'", "'*'", iam.FunctionInvoke, echo, true},
		{"'Function:*'", "'*'", iam.SecretList, echo, false},
		{"'Function:Invoke'", "'acme:echo'", iam.FunctionInvoke, echo, true},
		{"'Function:Invoke'", "'acme:other'", iam.FunctionInvoke, echo, false},
		{"'Function:Invoke'", "'beta:*'", iam.FunctionInvoke, echo, false},
		{"'Function:Invoke'", "'acme:*'", iam.FunctionDelete, echo, false},
		{"['Function:Get', 'Function:Invoke']", "['beta:*', 'acme:*']", iam.FunctionInvoke, echo, true},
		{"'Function:List'", "'acme:*'", iam.FunctionList, iam.Resource{Namespace: "acme"}, true},
		{"'Function:List'", "'acme:echo'", iam.FunctionList, iam.Resource{Namespace: "acme"}, false},
		{"'System:Info'", "'acme:*'", iam.SystemInfo, iam.Resource{}, false},
		{"'Namespace:Get'", "'acme:*'", iam.NamespaceGet, iam.Resource{Namespace: "acme"}, true},
	} {
		text := head + "policies: [{name: p, statement: [{sid: s, effect: Allow, action: " + tt.actions + ", resource: " + tt.resources + "}]}]\nroles: [{name: r, policy: p}]\n"
		want := ""
		if tt.ok {
			want = "role r, policy p, statement s"
		}
		if rule := allowed(t, text, nil, tt.action, tt.resource); rule != want {
			t.Errorf("action %s, resource %s: %s on %s is allowed by %q, want %q", tt.actions, tt.resources, tt.action, tt.resource, rule, want)
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
		if by := allowed(t, text, claims, iam.FunctionInvoke, echo); (by != "") != want {
			t.Errorf("%s: allowed by %q, want %v", rule, by, want)
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
		if by := allowed(t, text, map[string]any{"plan": plan}, iam.FunctionInvoke, echo); (by != "") != ok {
			t.Errorf("plan %s: allowed by %q", plan, by)
		}
	}
	if rule := allowed(t, text, nil, iam.FunctionInvoke, iam.Resource{Namespace: "acme", Name: "free"}); rule != "role r, policy p, statement 2" {
		t.Errorf("allowed by %q", rule)
	}
}

func TestEverythingThatIsWrongWithTheRulesIsReportedTogether(t *testing.T) {
	_, err := iam.ParseRules([]byte(`
issuers:
  - {name: a, iss: corp.test, aud: [x], algorithms: [HS256, none], clockSkew: 1h, cli: {clientID: c, clientSecretFile: s, redirectPort: 65536}}
  - {name: a, iss: https://corp.test, issInternal: "ftp://x", web: {redirectPort: 80}}
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
		`cli has a clientSecretFile`, `cli has the redirectPort 65536`, `web has a redirectPort`, `web has no clientID`,
		`issuers: there are two of the name "a"`, `issInternal is "ftp://x"`, `aud must name`, `issuers[2] has no name`, `two with the iss "https://corp.test"`,
		`policies "p": statement 1: effect is "Deny"`, `action "Function:Fly"`, `resource is "a:b:c"`, `resource is "Acme:*"`, `policies "q": there is no statement`,
		`there is no policy "gone"`, `key is "sub", want jwt:CLAIM`, `no operator "StringNot"`, `StringEqual names no claim`,
		`roles: there are two of the name "s"`, `roles "s": it gives no policy`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %s:\n%v", want, err)
		}
	}
	for name, text := range map[string]string{
		"empty": "", "no issuers": "issuers: []", "unknown field": head + "rolls: []", "a misspelt condition": head + "roles: [{name: r, policy: [], conditions: {}}]",
		"two documents": head + "---\nissuers: []", "not a mapping": "- a", "huge": strings.Repeat("#", 2<<20), "damaged": "issuers: [",
	} {
		if _, err := iam.ParseRules([]byte(text)); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v, want fault.Invalid", name, err)
		}
	}
}

func FuzzRules(f *testing.F) {
	f.Add(head)
	f.Add(head + "roles: [{name: r, policy: [p], condition: {'ForAnyValue:StringLike': {'jwt:a.b': 'x*'}}}]\npolicies: [{name: p, statement: [{effect: Allow, action: '*', resource: 'a:b'}]}]")
	f.Add("issuers: &a [*a]")
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := iam.ParseRules([]byte(text))
		if (err == nil) != (parsed != nil) {
			t.Fatalf("%v, %v", parsed, err)
		}
		if err == nil && len(parsed.Issuers) == 0 {
			t.Error("rules without issuers were taken")
		}
	})
}
