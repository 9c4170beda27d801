package auth_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/go-jose/go-jose/v4"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/signkey"
	"github.com/graphene-faas/graphene/internal/testkit"
)

const platform = "https://functions.test"

// signing has the keys of a file, which is made if there is none.
func signing(t testing.TB, file string) *auth.SigningKeys {
	t.Helper()
	keys, err := auth.OpenSigningKeys(auth.SigningKeysOptions{File: &signkey.File{Path: file}, MaxAge: 90 * 24 * time.Hour, Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- keys.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return keys
}

// kids returns the names of the keys that are published.
func kids(t *testing.T, keys *auth.SigningKeys) []string {
	t.Helper()
	var set struct {
		Keys []map[string]string
	}
	var public jose.JSONWebKeySet
	if err := errors.Join(json.Unmarshal(keys.JWKS(), &set), json.Unmarshal(keys.JWKS(), &public)); err != nil {
		t.Fatal(err)
	}
	for _, k := range public.Keys {
		if sum, err := k.Thumbprint(crypto.SHA256); err != nil || base64.RawURLEncoding.EncodeToString(sum) != k.KeyID {
			t.Errorf("the key %s has the thumbprint %x, %v", k.KeyID, sum, err)
		}
	}
	var all []string
	for _, k := range set.Keys {
		all = append(all, k["kid"])
		if k["kty"] != "EC" || k["crv"] != "P-256" || k["alg"] != "ES256" || k["use"] != "sig" || k["d"] != "" {
			t.Errorf("a published key is %v", k)
		}
	}
	return all
}

func header(t *testing.T, token string) (kid string) {
	t.Helper()
	var h struct{ Alg, Kid, Typ string }
	part, _, _ := strings.Cut(token, ".")
	if err := json.Unmarshal(decode(t, part), &h); err != nil || h.Alg != "ES256" || h.Typ != "JWT" {
		t.Errorf("the token's header is %+v, %v", h, err)
	}
	return h.Kid
}

// exchanger trusts corp and issues tokens of its own.
func exchanger(t testing.TB, corp *idp, text string, keys *auth.SigningKeys) *auth.Tokens {
	t.Helper()
	file := filepath.Join(t.TempDir(), "auth.yaml")
	write(t, filepath.Dir(file), "auth.yaml", text)
	return running(t, auth.TokensOptions{File: file, Keys: keys, URL: platform, Transport: network{corp.url: corp}, Log: testkit.Log(t)})
}

func TestAnAPITokenIsGoodForWhatItsPoliciesAndTheRulesOfTheDayAllow(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	tokens := exchanger(t, corp, strings.Replace(rules, "aud: [", "tokenExpiry: 2h\n    aud: [", 1), signing(t, filepath.Join(t.TempDir(), "issuer.key")))
	alice, err := tokens.Verify(t.Context(), corp.token(t, map[string]any{"groups": []string{"ml"}, "policy": "forged", "function": "forged", "fed:iss": "forged", "nonce": "n"}))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	issued, err := tokens.APIToken(alice, now)
	if err != nil || issued.Expires != 2*time.Hour {
		t.Fatalf("%+v, %v", issued, err)
	}
	var claims map[string]any
	if err := json.Unmarshal(decode(t, strings.Split(issued.Token, ".")[1]), &claims); err != nil {
		t.Fatal(err)
	}
	if id, _ := claims["jti"].(string); len(id) < 20 {
		t.Errorf("the token's id is %q", id)
	}
	delete(claims, "jti")
	want := map[string]any{
		"iss": platform, "aud": platform, "sub": "fed:alice", "fed:iss": corp.url, "fed:aud": "graphene",
		"policy": []any{"call"}, "groups": []any{"ml"}, "iat": float64(now.Unix()), "exp": float64(now.Add(2 * time.Hour).Unix()),
	}
	if diff := cmp.Diff(want, claims); diff != "" {
		t.Errorf("claims (-want +got)\n%s", diff)
	}
	again, err := tokens.Verify(t.Context(), issued.Token)
	if err != nil || again.String() != "corp/alice" || again.Admin || !cmp.Equal(again.Roles(), []string{"callers"}) || !cmp.Equal(again.Claim("groups"), []string{"ml"}) {
		t.Fatalf("%v %v %v, %v", again, again.Roles(), again.Claim("groups"), err)
	}
	if err := auth.May(again, iam.FunctionInvoke, echo); err != nil {
		t.Error(err)
	}
	if err := auth.May(again, iam.FunctionDelete, echo); !errors.Is(err, fault.Denied) {
		t.Errorf("%v, want fault.Denied", err)
	}
	if once, err := tokens.APIToken(again, now.Add(time.Hour)); err != nil || once.Expires > time.Hour {
		t.Errorf("a token for a token lives for %v, %v; want no longer than the first", once.Expires, err)
	}

	bob, err := tokens.Verify(t.Context(), corp.token(t, map[string]any{"sub": "bob"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tokens.APIToken(bob, now); !errors.Is(err, fault.Invalid) || err.Error() != "No policies found for subject: bob" {
		t.Errorf("without a role: %v", err)
	}
}

func TestAnAPITokenLosesWhatTheRulesTakeAway(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	keys := signing(t, filepath.Join(t.TempDir(), "issuer.key"))
	before := exchanger(t, corp, rules, keys)
	alice, err := before.Verify(t.Context(), corp.token(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	issued, err := before.APIToken(alice, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		text    string
		known   bool
		may     bool
		roleHas int
	}{
		"nothing changed":     {rules, true, true, 1},
		"the role is another": {strings.Replace(rules, "[alice]", "[bob]", 1), true, false, 0},
		"a policy came":       {strings.Replace(rules, "policy: [call]", "policy: [more]", 1) + "\n", true, false, 1},
		"the issuer went":     {strings.Replace(rules, "iss: https://corp.test", "iss: https://other.test", 1), false, false, 0},
	} {
		text := strings.Replace(tt.text, "roles:", "  - {name: more, statement: [{effect: Allow, action: '*', resource: '*'}]}\nroles:", 1)
		caller, err := exchanger(t, corp, text, keys).Verify(t.Context(), issued.Token)
		if (err == nil) != tt.known || len(caller.Roles()) != tt.roleHas {
			t.Errorf("%s: %v with %v, %v", name, caller, caller.Roles(), err)
		}
		if got := auth.May(caller, iam.FunctionInvoke, echo) == nil; got != tt.may {
			t.Errorf("%s: may call %v, want %v", name, got, tt.may)
		}
	}
}

func TestAFunctionTokenIsGoodForCallsOfItsFunctionsAlone(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	tokens := exchanger(t, corp, rules, signing(t, filepath.Join(t.TempDir(), "issuer.key")))
	alice, err := tokens.Verify(t.Context(), corp.token(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	issued, err := tokens.FunctionToken(alice, []function.Ref{{Namespace: "acme", Name: "echo"}}, time.Now())
	if err != nil || issued.Expires != 30*time.Minute {
		t.Fatalf("%+v, %v", issued, err)
	}
	var claims struct {
		Sub      string
		Groups   any
		Function struct{ Permissions, Audience []string }
	}
	if err := json.Unmarshal(decode(t, strings.Split(issued.Token, ".")[1]), &claims); err != nil {
		t.Fatal(err)
	}
	if claims.Sub != "fed:alice" || !cmp.Equal(claims.Function.Permissions, []string{"Function:Invoke"}) || !cmp.Equal(claims.Function.Audience, []string{"acme:echo"}) {
		t.Errorf("%+v", claims)
	}
	caller, err := tokens.Verify(t.Context(), issued.Token)
	if err != nil || caller.Admin {
		t.Fatal(caller, err)
	}
	for _, a := range iam.Actions() {
		if got, want := auth.May(caller, a, echo) == nil, a == iam.FunctionInvoke; got != want {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
	}
	if err := auth.May(caller, iam.FunctionInvoke, iam.Resource{Namespace: "acme", Name: "other"}); !errors.Is(err, fault.Denied) {
		t.Errorf("another function: %v", err)
	}
	if _, err := tokens.APIToken(caller, time.Now()); !errors.Is(err, fault.Invalid) {
		t.Errorf("a function token was exchanged for one of the API: %v", err)
	}
	if _, err := tokens.FunctionToken(alice, nil, time.Now()); !errors.Is(err, fault.Invalid) {
		t.Errorf("a token for no function: %v", err)
	}
}

func TestForgedTokensOfThePlatformAreRefused(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	tokens := exchanger(t, corp, rules, signing(t, filepath.Join(t.TempDir(), "issuer.key")))
	stranger := exchanger(t, corp, rules, signing(t, filepath.Join(t.TempDir(), "issuer.key")))
	alice, err := tokens.Verify(t.Context(), corp.token(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := stranger.APIToken(alice, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	old, err := tokens.APIToken(alice, time.Now().Add(-time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	mine := corp.claims(map[string]any{"iss": platform, "aud": platform, "sub": "fed:alice", "fed:iss": corp.url, "policy": []string{"call"}})
	for name, raw := range map[string]string{
		"another platform's key":    foreign.Token,
		"expired":                   old.Token,
		"the issuer's own key":      corp.keys[0].sign(t, mine),
		"alg none":                  join(t, map[string]any{"alg": "none"}, mine, nil),
		"a signature of zeros":      join(t, map[string]any{"alg": "ES256", "kid": kids(t, signing(t, filepath.Join(t.TempDir(), "x.key")))[0]}, mine, make([]byte, 64)),
		"no subject from elsewhere": corp.keys[0].sign(t, corp.claims(map[string]any{"iss": platform, "aud": platform})),
	} {
		began := time.Now()
		if caller, err := tokens.Verify(t.Context(), raw); !errors.Is(err, fault.Unauthenticated) || caller != (auth.Caller{}) {
			t.Errorf("%s: %v, %v", name, caller, err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("%s: refused after %v: nobody can be asked for keys that are here", name, took)
		}
	}
}

func TestANewKeySignsWhenEverybodyKnowsItAndTheOldOneGoesOnVerifying(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "issuer.key")
		keys := signing(t, file)
		tokens := exchanger(t, corp, strings.Replace(rules, "aud: [", "tokenExpiry: 24h\n    aud: [", 1), keys)
		token := func() string {
			t.Helper()
			alice, err := tokens.Verify(t.Context(), corp.token(t, nil))
			if err != nil {
				t.Fatal(err)
			}
			issued, err := tokens.APIToken(alice, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			return issued.Token
		}
		works := func(when, raw string) {
			t.Helper()
			if _, err := tokens.Verify(t.Context(), raw); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		first := token()
		one := header(t, first)
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the file of keys: %v, %v", info.Mode(), err)
		}
		if err := rotate(file, time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		all := kids(t, keys)
		if len(all) != 2 || all[1] != one || header(t, token()) != one {
			t.Errorf("keys %v after a rotation, signs %s, want a new one first and %s signing", all, header(t, token()), one)
		}
		time.Sleep(2 * time.Minute)
		second := token()
		if header(t, second) != all[0] {
			t.Errorf("after two minutes %s signs, want %s", header(t, second), all[0])
		}
		works("the old key's token", first)

		// A file with one key, as who knows no better writes it.
		only := filepath.Join(t.TempDir(), "only.key")
		if err := rotate(only, time.Now()); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(only)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Dir(file), filepath.Base(file), string(text))
		time.Sleep(2 * time.Second)
		if len(kids(t, keys)) != 3 || header(t, token()) != all[0] {
			t.Errorf("keys %v after the file was replaced, signs %s", kids(t, keys), header(t, token()))
		}
		works("a key that has left the file", second)

		write(t, filepath.Dir(file), filepath.Base(file), "nonsense")
		time.Sleep(2 * time.Second)
		works("while the file is wrong", second)
		write(t, filepath.Dir(file), filepath.Base(file), string(text))
	})
}

func rotate(file string, now time.Time) error {
	_, err := (&signkey.File{Path: file}).Rotate(now)
	return err
}

func TestAKeyThatIsOldIsReplacedAndForgottenWhenItsTokensHaveExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "issuer.key")
		for _, age := range []time.Duration{300, 200, 91} { // days
			if err := rotate(file, time.Now().Add(-age*24*time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		keys := signing(t, file)
		old := kids(t, keys)
		if len(old) != 2 {
			t.Fatalf("%d keys, want the one of 91 days ago and the one before it", len(old))
		}
		time.Sleep(3 * time.Second)
		if now := kids(t, keys); len(now) != 3 || now[1] != old[0] {
			t.Errorf("keys %v after %v, want a new one first", now, old)
		}
		if text, err := os.ReadFile(file); err != nil || strings.Count(string(text), "BEGIN") != 2 {
			t.Errorf("the file holds %d keys, %v, want the new one and the one before", strings.Count(string(text), "BEGIN"), err)
		}
	})
}

func TestKeysOfOpenSSLAreTakenAndOthersAreNot(t *testing.T) {
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		args []string
		ok   bool
	}{
		"sec1":     {[]string{"ecparam", "-genkey", "-name", "prime256v1"}, true},
		"no param": {[]string{"ecparam", "-genkey", "-name", "prime256v1", "-noout"}, true},
		"pkcs8":    {[]string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"}, true},
		"p384":     {[]string{"ecparam", "-genkey", "-name", "secp384r1", "-noout"}, false},
		"rsa":      {[]string{"genrsa", "2048"}, false},
	} {
		text, err := exec.CommandContext(t.Context(), "openssl", tt.args...).Output()
		if err != nil {
			t.Skipf("SKIPPED: no openssl to make keys with: %v", err)
		}
		write(t, dir, name, string(text))
		keys, err := auth.OpenSigningKeys(auth.SigningKeysOptions{File: &signkey.File{Path: filepath.Join(dir, name)}})
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && len(kids(t, keys)) != 1 {
			t.Errorf("%s: %s", name, keys.JWKS())
		}
	}
	for name, text := range map[string]string{"empty": "", "text": "x", "certificate": "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"} {
		write(t, dir, "wrong", text)
		if _, err := auth.OpenSigningKeys(auth.SigningKeysOptions{File: &signkey.File{Path: filepath.Join(dir, "wrong")}}); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSecretsFollowFromKeysAndTellNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "issuer.key")
	secrets := func(label string) [][]byte {
		t.Helper()
		all, err := signing(t, file).Secrets(label)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	a, b, other := secrets("a"), secrets("a"), secrets("b")
	if len(a) != 1 || len(a[0]) != 32 || !bytes.Equal(a[0], b[0]) || bytes.Equal(a[0], other[0]) {
		t.Errorf("%x %x %x", a, b, other)
	}
	if err := rotate(file, time.Now()); err != nil {
		t.Fatal(err)
	}
	if c := secrets("a"); len(c) != 2 || !bytes.Equal(c[1], a[0]) {
		t.Errorf("after a rotation %x, want the old one second: %x", c, a)
	}
}

func FuzzSigningKeys(f *testing.F) {
	file := filepath.Join(f.TempDir(), "issuer.key")
	if err := rotate(file, time.Now()); err != nil {
		f.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nCreated: x\n\nAA==\n-----END EC PRIVATE KEY-----\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(dir, "k")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := auth.OpenSigningKeys(auth.SigningKeysOptions{File: &signkey.File{Path: path}})
		if err != nil && !errors.Is(err, fault.Invalid) {
			t.Fatal(err)
		}
		if err == nil && bytes.Contains(keys.JWKS(), []byte(`"d"`)) {
			t.Error("a private key is published")
		}
	})
}
