package auth_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func tell(tokens *auth.Tokens, kind, name, content string) {
	o := function.Object{Kind: kind, Name: name}
	if content != "" {
		o.Content = json.RawMessage(content)
	}
	tokens.SetObject(o)
}

func TestRulesThatAreToldAreInForceAtOnce(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	tokens := running(t, auth.TokensOptions{Told: true, Transport: network{corp.url: corp}, Log: testkit.Log(t)})
	raw := corp.token(t, map[string]any{"groups": []string{"ml"}})
	may := func(what string, want error) {
		t.Helper()
		caller, err := tokens.Verify(t.Context(), raw)
		if err == nil {
			err = auth.May(caller, iam.FunctionInvoke, echo)
		}
		if want == nil && err != nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	may("before anything is known", fault.Unavailable)
	tell(tokens, "Role", "callers", `{"policy":["call"],"condition":{"ForAnyValue:StringEqual":{"jwt:groups":["ml"]}}}`)
	may("before everything is known", fault.Unavailable)
	tokens.ObjectsSynced()
	may("without an issuer", fault.Unauthenticated)
	tell(tokens, "JwtIssuer", "corp", `{"iss":"https://corp.test","aud":["graphene"],"tokenExpiry":"1h"}`)
	may("without a policy", fault.Denied)
	tell(tokens, "Policy", "call", `{"statement":[{"sid":"s","effect":"Allow","action":["Function:Invoke"],"resource":["acme:*"]}]}`)
	may("with all there must be", nil)
	tell(tokens, "Policy", "call", `{"statement":[{"effect":"Deny","action":["Function:Invoke"],"resource":["acme:*"]}]}`)
	may("after a change that is wrong", nil)
	tell(tokens, "JwtIssuer", "zorp", `{"iss":"https://corp.test","aud":["other"]}`)
	may("after another issuer of that iss", nil)
	tell(tokens, "Role", "callers", `{"policy":["call"],"principal":{"jwt:sub":"bob"}}`)
	may("after the role became another's", fault.Denied)
	tell(tokens, "Role", "callers", `{"policy":["call"]}`)
	may("after it is everybody's", nil)
	tell(tokens, "Policy", "call", "")
	may("after the policy is gone", fault.Denied)
	tell(tokens, "JwtIssuer", "corp", "")
	may("after the issuer is gone, and another is there with its iss", fault.Unauthenticated)
}

func TestTheKeysOfAnIssuerCanBeTold(t *testing.T) {
	cluster := newIDP(t, "https://kubernetes.default.svc")
	tokens := running(t, auth.TokensOptions{Told: true, Transport: network{}, Log: testkit.Log(t)})
	keySet := func() string {
		text, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: cluster.keys[0].Public(), KeyID: cluster.keys[0].id, Algorithm: "ES256"}}})
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	tell(tokens, "JwtIssuer", "kubernetes", `{"iss":"https://kubernetes.default.svc","aud":["graphene"]}`)
	tell(tokens, "KeySet", cluster.url, keySet())
	tokens.ObjectsSynced()
	if _, err := tokens.Verify(t.Context(), cluster.token(t, nil)); err != nil {
		t.Fatal(err)
	}
	old := cluster.token(t, nil)
	cluster.keys[0] = newKey(t, "two", jose.ES256)
	if _, err := tokens.Verify(t.Context(), cluster.token(t, nil)); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("with a key that nobody has told: %v", err)
	}
	tell(tokens, "KeySet", cluster.url, keySet())
	if _, err := tokens.Verify(t.Context(), cluster.token(t, nil)); err != nil {
		t.Errorf("with the new key: %v", err)
	}
	if _, err := tokens.Verify(t.Context(), old); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("with the old one, which is gone: %v", err)
	}
	tell(tokens, "KeySet", cluster.url, `{"keys":[]}`)
	if _, err := tokens.Verify(t.Context(), cluster.token(t, nil)); err != nil {
		t.Errorf("after a key set without keys, which is wrong: %v", err)
	}
}
