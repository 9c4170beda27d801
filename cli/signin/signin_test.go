package signin_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/cli/signin"
	"github.com/graphene-faas/graphene/internal/openid"
)

func TestALoginThatIsKeptIsTheOneThatWasMade(t *testing.T) {
	made := signin.Session{
		Flow: signin.Browser, Issuer: "https://sso.example.com", Client: openid.Client{ID: "cli", Scopes: []string{"profile", "email"}},
		Audiences: []string{"graphene"}, Exchange: true, Refresh: "refresh", ID: "id", Token: "token", Expiry: time.Unix(1800000000, 0).UTC(),
	}
	kept := made.Login()
	if kept.Kind != logins.Bearer || kept.Token != "token" {
		t.Errorf("faas-cli finds %+v", kept)
	}
	got, ok := signin.Of(kept)
	if diff := cmp.Diff(made, got); !ok || diff != "" {
		t.Errorf("%v (-want +got)\n%s", ok, diff)
	}
	secret := signin.Session{Flow: signin.Program, Issuer: "https://sso.example.com", Client: openid.Client{ID: "job", Secret: "s3cret"}, SecretFile: "/secret", Token: "token"}
	for _, o := range secret.Login().Options {
		if strings.Contains(o.Value, "s3cret") {
			t.Errorf("the secret is kept in %s", o.Name)
		}
	}
	if _, ok := signin.Of(logins.Login{Kind: logins.Bearer, Token: "from elsewhere"}); ok {
		t.Error("a token from elsewhere can be prolonged")
	}
	if _, ok := signin.Of(logins.NewBasic("a", "b")); ok {
		t.Error("a password can be prolonged")
	}
}
