package watchdog

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A fakeIssuer is a platform that signs function tokens.
type fakeIssuer struct {
	*httptest.Server
	key   atomic.Pointer[ecdsa.PrivateKey]
	kid   atomic.Value // string
	asked atomic.Int32
}

func newFakeIssuer(t testing.TB) *fakeIssuer {
	t.Helper()
	i := &fakeIssuer{}
	i.rotate(t, "one")
	encode := base64.RawURLEncoding.EncodeToString
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		if r.URL.Path == "/.well-known/openid-configuration" {
			fmt.Fprintf(w, `{"issuer":"https://platform.test","jwks_uri":%q}`, i.URL+"/keys")
			return
		}
		point, err := i.key.Load().PublicKey.Bytes()
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, `{"keys":[{"kty":"RSA","kid":"r"},{"kty":"EC","crv":"P-256","kid":%q,"x":%q,"y":%q}]}`, i.kid.Load(), encode(point[1:33]), encode(point[33:]))
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *fakeIssuer) rotate(t testing.TB, kid string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.key.Store(key)
	i.kid.Store(kid)
}

// token signs claims that are good for echo.acme, changed by change.
func (i *fakeIssuer) token(t testing.TB, change func(header, claims map[string]any)) string {
	t.Helper()
	header := map[string]any{"alg": "ES256", "kid": i.kid.Load()}
	claims := map[string]any{
		"iss": "https://platform.test", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
		"function": map[string]any{"permissions": []string{"Function:Invoke"}, "audience": []string{"acme:echo"}},
	}
	if change != nil {
		change(header, claims)
	}
	var parts []string
	for _, v := range []any{header, claims} {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(text))
	}
	unsigned := strings.Join(parts, ".")
	digest := sha256.Sum256([]byte(unsigned))
	r, s, err := ecdsa.Sign(rand.Reader, i.key.Load(), digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return unsigned + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func function(permissions, audience []string) func(_, claims map[string]any) {
	return func(_, claims map[string]any) {
		claims["function"] = map[string]any{"permissions": permissions, "audience": audience}
	}
}

func TestOnlyTokensForThisFunctionAreLetThrough(t *testing.T) {
	issuer := newFakeIssuer(t)
	check := newTokenCheck(FunctionTokens{Gateway: issuer.URL, Name: "echo", Namespace: "acme"})
	good := issuer.token(t, nil)
	claim := func(name string, v any) string {
		return issuer.token(t, func(_, claims map[string]any) { claims[name] = v })
	}
	now := time.Now()
	for name, tt := range map[string]struct {
		authorization string
		want          error
	}{
		"good":                  {"Bearer " + good, nil},
		"another case":          {"bearer " + good, nil},
		"all of the namespace":  {"Bearer " + issuer.token(t, function([]string{"Function:*"}, []string{"x:y", "acme:*"})), nil},
		"everything":            {"Bearer " + issuer.token(t, function([]string{"*"}, []string{"*"})), nil},
		"a clock a little off":  {"Bearer " + claim("exp", now.Add(-20*time.Second).Unix()), nil},
		"nothing":               {"", errNoToken},
		"a password":            {"Basic YWRtaW46eA==", errNoToken},
		"opaque":                {"Bearer abc", errToken},
		"truncated":             {"Bearer " + good[:len(good)-8], errToken},
		"another's signature":   {"Bearer " + newFakeIssuer(t).token(t, nil), errToken},
		"alg none":              {"Bearer " + issuer.token(t, func(h, _ map[string]any) { h["alg"] = "none" }), errToken},
		"alg HS256":             {"Bearer " + issuer.token(t, func(h, _ map[string]any) { h["alg"] = "HS256" }), errToken},
		"an extension":          {"Bearer " + issuer.token(t, func(h, _ map[string]any) { h["crit"] = []string{"x"} }), errToken},
		"an unknown key":        {"Bearer " + issuer.token(t, func(h, _ map[string]any) { h["kid"] = "two" }), errToken},
		"a key of another kind": {"Bearer " + issuer.token(t, func(h, _ map[string]any) { h["kid"] = "r" }), errToken},
		"another issuer":        {"Bearer " + claim("iss", "https://evil.test"), errToken},
		"expired":               {"Bearer " + claim("exp", now.Add(-time.Minute).Unix()), errToken},
		"without an end":        {"Bearer " + claim("exp", nil), errToken},
		"not valid yet":         {"Bearer " + claim("iat", now.Add(time.Minute).Unix()), errToken},
		"20,000 bytes":          {"Bearer " + claim("x", strings.Repeat("x", 20_000)), errToken},
		"an API token":          {"Bearer " + claim("function", nil), errNoRights},
		"another function":      {"Bearer " + issuer.token(t, function([]string{"Function:Invoke"}, []string{"acme:other", "beta:echo"})), errNoRights},
		"another permission":    {"Bearer " + issuer.token(t, function([]string{"Function:Get"}, []string{"acme:echo"})), errNoRights},
	} {
		var headers []string
		if tt.authorization != "" {
			headers = []string{tt.authorization}
		}
		if err := check.check(t.Context(), headers, now); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if n := issuer.asked.Load(); n > 4 {
		t.Errorf("the platform was asked %d times; names of keys must not make it more than once in a while", n)
	}
}

func TestKeysRotateAndGoOnWhileThePlatformIsAway(t *testing.T) {
	issuer := newFakeIssuer(t)
	check := newTokenCheck(FunctionTokens{Gateway: issuer.URL, Name: "echo", Namespace: "acme"})
	now := time.Now()
	old := "Bearer " + issuer.token(t, nil)
	if err := check.check(t.Context(), []string{old}, now); err != nil {
		t.Fatal(err)
	}
	issuer.rotate(t, "two")
	if err := check.check(t.Context(), []string{"Bearer " + issuer.token(t, nil)}, now.Add(keyGap)); err != nil {
		t.Errorf("with a new key: %v", err)
	}
	issuer.Close()
	if err := check.check(t.Context(), []string{"Bearer " + issuer.token(t, nil)}, now.Add(2*keyGap)); err != nil {
		t.Errorf("while the platform is away: %v", err)
	}
	fresh := newTokenCheck(FunctionTokens{Gateway: issuer.URL, Name: "echo", Namespace: "acme"})
	if err := fresh.check(t.Context(), []string{old}, now); err == nil || errors.Is(err, errToken) || errors.Is(err, errNoRights) {
		t.Errorf("without keys: %v, want that it cannot be known", err)
	}
}

func TestTheWatchdogAnswersCallersWithoutATokenAsOpenFaaSDoes(t *testing.T) {
	issuer := newFakeIssuer(t)
	o, err := FromEnviron([]string{"jwt_auth=true", "jwt_auth_gateway=" + issuer.URL, "OPENFAAS_NAME=echo", "OPENFAAS_NAMESPACE=acme", "fprocess=true", "suppress_lock=true"})
	if err != nil {
		t.Fatal(err)
	}
	wd, err := New(Options{Mode: InProcess, FunctionTokens: o.FunctionTokens, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "called")
	})})
	if err != nil {
		t.Fatal(err)
	}
	close(wd.ready)
	server := httptest.NewServer(wd.routes(true))
	defer server.Close()
	for name, tt := range map[string]struct {
		path, token string
		status      int
	}{
		"nobody":              {"/", "", 401},
		"a caller":            {"/", issuer.token(t, nil), 200},
		"another's caller":    {"/", issuer.token(t, function([]string{"Function:Invoke"}, []string{"acme:other"})), 403},
		"a question of ready": {"/_/ready", "", 200},
	} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+tt.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if tt.token != "" {
			r.Header.Set("Authorization", "Bearer "+tt.token)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tt.status {
			t.Errorf("%s: %s, want %d", name, resp.Status, tt.status)
		}
		if want := map[int]string{401: wantFunctionToken}[resp.StatusCode]; resp.Header.Get("WWW-Authenticate") != want {
			t.Errorf("%s: asks for %q", name, resp.Header.Get("WWW-Authenticate"))
		}
		if tt.path == "/" && resp.Header.Get("X-Auth-Seconds") == "" {
			t.Errorf("%s: no X-Auth-Seconds", name)
		}
	}
	if _, err := FromEnviron([]string{"jwt_auth=true", "fprocess=true"}); err == nil || !strings.Contains(err.Error(), "OPENFAAS_NAME") {
		t.Errorf("without a name: %v", err)
	}
}

func FuzzFunctionToken(f *testing.F) {
	issuer := newFakeIssuer(f)
	check := newTokenCheck(FunctionTokens{Gateway: issuer.URL, Name: "echo", Namespace: "acme"})
	good := "Bearer " + issuer.token(f, nil)
	f.Add(good)
	f.Add("Bearer a.b.c")
	f.Add("Bearer eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, header string) {
		err := check.check(t.Context(), []string{header}, time.Now())
		if err == nil && !strings.EqualFold(header[:min(6, len(header))], "bearer") {
			t.Fatalf("%q is let through", header)
		}
		if err == nil && !strings.Contains(header, good[len("Bearer "):len(good)-90]) {
			t.Fatalf("%q is let through", header)
		}
	})
}
