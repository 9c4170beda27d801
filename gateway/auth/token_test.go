package auth_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const rules = `
issuers:
  - name: corp
    iss: https://corp.test
    aud: [graphene, graphene-cli]
policies:
  - name: call
    statement:
      - {sid: calls, effect: Allow, action: ["Function:Invoke"], resource: ["acme:*"]}
roles:
  - name: callers
    policy: [call]
    principal: {"jwt:sub": [alice]}
`

// run has Tokens of a file with text, in which issuers are asked over net.
func run(t testing.TB, text string, net network, meter auth.Meter) (*auth.Tokens, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "auth.yaml")
	write(t, filepath.Dir(file), "auth.yaml", text)
	return running(t, auth.TokensOptions{File: file, Transport: net, Meter: meter, Log: testkit.Log(t)}), file
}

// running has Tokens that run until the test ends.
func running(t testing.TB, o auth.TokensOptions) *auth.Tokens {
	t.Helper()
	tokens, err := auth.OpenTokens(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- tokens.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return tokens
}

func decode(t *testing.T, part string) []byte {
	t.Helper()
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

var echo = iam.Resource{Namespace: "acme", Name: "echo"}

func TestATokenOfATrustedIssuerSaysWhoCallsAndWhatTheyMay(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.PS256, jose.EdDSA} {
		corp.do(func(p *idp) { p.keys = []key{newKey(t, "k", alg)} })
		tokens, _ := run(t, rules, network{corp.url: corp}, nil)
		raw := corp.token(t, nil)
		for i := range 2 { // the second time from memory
			caller, err := tokens.Verify(t.Context(), raw)
			if err != nil || caller.Subject != "alice" || caller.Issuer != "corp" || caller.Admin || caller.String() != "corp/alice" {
				t.Fatalf("%s, time %d: %+v, %v", alg, i+1, caller, err)
			}
			if err := auth.May(caller, iam.FunctionInvoke, echo); err != nil {
				t.Error(err)
			}
			err = auth.May(caller, iam.FunctionDelete, echo)
			if !errors.Is(err, fault.Denied) || err.Error() != "alice may not do Function:Delete on acme:echo" {
				t.Errorf("%v, want the missing right", err)
			}
		}
		caller, err := tokens.Verify(t.Context(), corp.token(t, map[string]any{"sub": "bob", "aud": []string{"x", "graphene-cli"}}))
		if err != nil || caller.Subject != "bob" {
			t.Errorf("another caller: %+v, %v", caller, err)
		}
		if err := auth.May(caller, iam.FunctionInvoke, echo); !errors.Is(err, fault.Denied) {
			t.Errorf("without a role: %v, want fault.Denied", err)
		}
	}
}

func TestTokensThatProveNothingAreRefused(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	corp.keys = append(corp.keys, newKey(t, "rsa", jose.RS256))
	net := network{corp.url: corp}
	tokens, _ := run(t, strings.Replace(rules, "aud: [graphene, graphene-cli]", "aud: graphene\n    azp: [cli]", 1), net, nil)
	good := corp.token(t, map[string]any{"azp": "cli"})
	if _, err := tokens.Verify(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	claims := func(changes map[string]any) map[string]any {
		all := corp.claims(map[string]any{"azp": "cli"})
		for k, v := range changes {
			if all[k] = v; v == nil {
				delete(all, k)
			}
		}
		return all
	}
	made := func(changes map[string]any) string { return corp.keys[0].sign(t, claims(changes)) }
	parts := strings.Split(good, ".")
	now := time.Now().Unix()

	// What everybody knows of the issuer's key, used as the secret of an HMAC.
	public, err := x509.MarshalPKIXPublicKey(corp.keys[1].Public())
	if err != nil {
		t.Fatal(err)
	}
	confused := func(secret []byte) string {
		unsigned := join(t, map[string]any{"alg": "HS256", "kid": "rsa"}, claims(nil), nil)
		mac := hmac.New(sha256.New, secret)
		mac.Write([]byte(strings.TrimSuffix(unsigned, ".")))
		return unsigned + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
	}
	stranger := newKey(t, "one", jose.ES256)
	embedded := join(t, map[string]any{"alg": "ES256", "jwk": jose.JSONWebKey{Key: stranger.Public()}}, claims(nil), []byte("x"))

	for name, tt := range map[string]struct{ raw, want string }{
		"nothing":               {"", "not a JWT"},
		"opaque":                {"2YotnFZFEjr1zCsicMWpAA", "not a JWT"},
		"encrypted":             {"a.b.c.d.e", "encrypted"},
		"not base64":            {"a.!.c", "malformed"},
		"not JSON":              {"a." + base64.RawURLEncoding.EncodeToString([]byte("{")) + ".c", "malformed"},
		"expired":               {made(map[string]any{"exp": now - 31}), "expired"},
		"without an end":        {made(map[string]any{"exp": nil}), "expired"},
		"an end that is a text": {made(map[string]any{"exp": "tomorrow"}), "malformed"},
		"not valid yet":         {made(map[string]any{"nbf": now + 60}), "not valid yet"},
		"made in the future":    {made(map[string]any{"iat": now + 60}), "not valid yet"},
		"another audience":      {made(map[string]any{"aud": "other"}), "audience"},
		"no audience":           {made(map[string]any{"aud": nil}), "audience"},
		"another client":        {made(map[string]any{"azp": "evil"}), "client"},
		"no client":             {made(map[string]any{"azp": nil}), "client"},
		"another issuer":        {made(map[string]any{"iss": "https://evil.test"}), "not trusted"},
		"almost the issuer":     {made(map[string]any{"iss": "https://corp.test/"}), "not trusted"},
		"no subject":            {made(map[string]any{"sub": nil}), "whose it is"},
		"a logout":              {made(map[string]any{"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}), "event"},
		"alg none":              {join(t, map[string]any{"alg": "none"}, claims(nil), nil), "not allowed"},
		"alg None":              {join(t, map[string]any{"alg": "None", "kid": "one"}, claims(nil), []byte("x")), "not allowed"},
		"the public key, DER":   {confused(public), "not allowed"},
		"the public key, PEM":   {confused(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})), "not allowed"},
		"a stranger's key":      {stranger.sign(t, claims(nil)), "signature is wrong"},
		"a key it brings along": {embedded, "does not have"},
		"signature cut off":     {parts[0] + "." + parts[1] + ".", "signature is wrong"},
		"truncated":             {good[:len(good)-4], "signature is wrong"},
		"claims changed":        {parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte(`{"iss":"https://corp.test","sub":"root","aud":"graphene","azp":"cli","exp":9999999999}`)) + "." + parts[2], "signature is wrong"},
		"20,000 bytes":          {made(map[string]any{"groups": strings.Repeat("g", 15000)}), "bytes"},
		"megabytes":             {strings.Repeat("a.", 1<<20), "bytes"},
		"unknown key":           {newKey(t, "two", jose.ES256).sign(t, claims(nil)), "does not have"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			caller, err := tokens.Verify(t.Context(), tt.raw)
			if caller != (auth.Caller{}) || !errors.Is(err, fault.Unauthenticated) || errors.Is(err, auth.ErrNone) {
				t.Fatalf("%+v, %v; want nobody", caller, err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q, want %q", err, tt.want)
			}
		})
	}
}

func TestClocksMayDifferALittle(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	tokens, _ := run(t, rules, network{corp.url: corp}, nil)
	now := time.Now().Unix()
	for _, claims := range []map[string]any{{"exp": now - 20}, {"iat": now + 20}, {"nbf": now + 20}, {"iat": float64(now) + 0.5}} {
		if _, err := tokens.Verify(t.Context(), corp.token(t, claims)); err != nil {
			t.Errorf("%v: %v", claims, err)
		}
	}
}

func TestATokenIsFoundInTheHeaderAsABearerOrAPassword(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	tokens, _ := run(t, rules, network{corp.url: corp}, nil)
	raw := corp.token(t, nil)
	for header, known := range map[string]bool{
		"Bearer " + raw: true,
		"bearer " + raw: true,
		"Basic " + base64.StdEncoding.EncodeToString([]byte("token:"+raw)): true,
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("Authorization", header)
		if caller, err := tokens.Authenticate(r); err != nil || caller.Subject != "alice" {
			t.Errorf("%.10s: %+v, %v, want alice: %v", header, caller, err, known)
		}
	}
	for _, header := range []string{"", "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:"+raw)), "Digest " + raw, "Basic " + base64.StdEncoding.EncodeToString([]byte("token:s3cret"))} {
		r := httptest.NewRequest("GET", "/", nil)
		if header != "" {
			r.Header.Set("Authorization", header)
		}
		if _, err := tokens.Authenticate(r); !errors.Is(err, auth.ErrNone) {
			t.Errorf("%.10s: %v, want ErrNone so that others are asked", header, err)
		}
	}
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["Authorization"] = []string{"Bearer " + raw, "Basic YTpi"}
	if _, err := tokens.Authenticate(r); !errors.Is(err, fault.Unauthenticated) || errors.Is(err, auth.ErrNone) {
		t.Errorf("two headers: %v, want a refusal", err)
	}
}

func TestARememberedTokenEndsWhenItEnds(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	synctest.Test(t, func(t *testing.T) {
		tokens, _ := run(t, rules, network{corp.url: corp}, nil)
		raw := corp.token(t, nil)
		for _, tt := range []struct {
			pass time.Duration
			ok   bool
		}{{0, true}, {time.Hour, true}, {29 * time.Second, true}, {2 * time.Second, false}} {
			time.Sleep(tt.pass)
			if _, err := tokens.Verify(t.Context(), raw); (err == nil) != tt.ok {
				t.Errorf("after another %v: %v", tt.pass, err)
			}
		}
	})
}

func TestKeysRotateUnderLoadWithoutARefusal(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	synctest.Test(t, func(t *testing.T) {
		tokens, _ := run(t, rules, network{corp.url: corp}, nil)
		var callers sync.WaitGroup
		for i := range 20 {
			callers.Go(func() {
				for n := range 200 {
					raw := corp.token(t, map[string]any{"jti": fmt.Sprint(i, "-", n)})
					if _, err := tokens.Verify(t.Context(), raw); err != nil {
						t.Errorf("caller %d, call %d: %v", i, n, err)
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
		var old string
		for n := range 5 {
			time.Sleep(700 * time.Millisecond)
			old = corp.token(t, map[string]any{"jti": fmt.Sprint("old ", n)})
			if _, err := tokens.Verify(t.Context(), old); err != nil {
				t.Error(err)
			}
			corp.do(func(p *idp) { p.keys = []key{newKey(t, fmt.Sprint("rotated ", n), jose.ES256)} })
		}
		callers.Wait()
		// The keys were replaced, not added to: what the old one signed is
		// worth nothing any more, remembered or not.
		if _, err := tokens.Verify(t.Context(), old); !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("a token of a withdrawn key: %v, want a refusal", err)
		}
		if asked := corp.questions(); asked > 30 {
			t.Errorf("the issuer was asked %d times", asked)
		}
	})
}

func TestKeysThatAreKnownGoOnWorkingWhileTheIssuerIsDown(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	synctest.Test(t, func(t *testing.T) {
		meter := &meter{issuers: map[string]bool{}}
		tokens, _ := run(t, rules, network{corp.url: corp}, meter)
		if _, err := tokens.Verify(t.Context(), corp.token(t, nil)); err != nil {
			t.Fatal(err)
		}
		corp.do(func(p *idp) { p.away = true })
		time.Sleep(time.Hour)
		if _, err := tokens.Verify(t.Context(), corp.token(t, nil)); err != nil {
			t.Errorf("a new token of a known key, an hour later: %v", err)
		}
		if meter.answers("corp") {
			t.Error("the metrics say that the issuer answers")
		}
		// A key nobody has seen may be right or wrong: that cannot be known.
		_, err := tokens.Verify(t.Context(), newKey(t, "two", jose.ES256).sign(t, corp.claims(nil)))
		if !errors.Is(err, fault.Unavailable) {
			t.Errorf("an unknown key: %v, want fault.Unavailable", err)
		}
		corp.do(func(p *idp) { p.away = false })
		time.Sleep(2 * time.Minute)
		if !meter.answers("corp") {
			t.Error("the issuer is back, and nobody noticed")
		}
	})
}

func TestAnIssuerThatIsDownAtTheStartIsFoundLater(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	corp.away = true
	synctest.Test(t, func(t *testing.T) {
		tokens, _ := run(t, rules, network{corp.url: corp}, nil)
		if _, err := tokens.Verify(t.Context(), corp.token(t, nil)); !errors.Is(err, fault.Unavailable) {
			t.Errorf("%v, want fault.Unavailable", err)
		}
		corp.do(func(p *idp) { p.away = false })
		if _, err := tokens.Verify(t.Context(), corp.token(t, nil)); err != nil {
			t.Errorf("once it is back: %v", err)
		}
	})
}

func TestForgedKeyNamesDoNotFloodTheIssuer(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	synctest.Test(t, func(t *testing.T) {
		tokens, _ := run(t, rules, network{corp.url: corp}, nil)
		k := newKey(t, "", jose.ES256)
		var all sync.WaitGroup
		for i := range 3000 {
			k.id = fmt.Sprint(i)
			raw := k.sign(t, corp.claims(nil))
			all.Go(func() {
				if _, err := tokens.Verify(t.Context(), raw); !errors.Is(err, fault.Unauthenticated) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if asked := corp.questions(); asked > 8 {
			t.Errorf("the issuer was asked %d times", asked)
		}
	})
}

func TestKeysThatMustNotVerifyAreLeftOut(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	enc := newKey(t, "enc", jose.ES256)
	corp.extras = []any{
		map[string]any{"kty": "oct", "kid": "shared", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "alg": "HS256"},
		map[string]any{"kty": "XYZ", "kid": "strange"},
		jose.JSONWebKey{Key: enc.Public(), KeyID: "enc", Use: "enc"},
	}
	tokens, _ := run(t, rules, network{corp.url: corp}, nil)
	if _, err := tokens.Verify(t.Context(), corp.token(t, nil)); err != nil {
		t.Fatalf("the good key among them: %v", err)
	}
	if _, err := tokens.Verify(t.Context(), enc.sign(t, corp.claims(nil))); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("a key for encryption: %v, want a refusal", err)
	}
}

func TestIssuersAreAskedInsideOrNotAtAll(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	dir := t.TempDir()
	w := httptest.NewRecorder()
	corp.ServeHTTP(w, httptest.NewRequest("GET", "/keys", nil))
	write(t, dir, "keys.json", w.Body.String())
	for name, line := range map[string]string{
		"inside": "issInternal: http://keycloak.sso:8080",
		"file":   "jwksFile: " + filepath.Join(dir, "keys.json"),
	} {
		// Only the inner address leads anywhere.
		net := network{"http://keycloak.sso:8080": corp}
		tokens, _ := run(t, strings.Replace(rules, "aud:", line+"\n    aud:", 1), net, nil)
		if _, err := tokens.Verify(t.Context(), corp.token(t, nil)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRulesAreReadAgainAndWrongOnesChangeNothing(t *testing.T) {
	corp, other := newIDP(t, "https://corp.test"), newIDP(t, "https://other.test")
	synctest.Test(t, func(t *testing.T) {
		meter := &meter{issuers: map[string]bool{}}
		tokens, file := run(t, rules, network{corp.url: corp, other.url: other}, meter)
		raw, foreign := corp.token(t, nil), other.token(t, nil)
		may := func() error {
			caller, err := tokens.Verify(t.Context(), raw)
			if err != nil {
				return err
			}
			return auth.May(caller, iam.FunctionInvoke, echo)
		}
		change := func(text string) {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * time.Second)
		}
		if err := may(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // the first token may have had its key asked for twice
		asked := corp.questions()
		for _, wrong := range []string{"", "issuers: []", "nonsense", strings.Replace(rules, "policy: [call]", "policy: [no]", 1)} {
			change(wrong)
			if err := may(); err != nil || meter.valid() {
				t.Errorf("with the rules %q: %v; valid: %v", wrong, err, meter.valid())
			}
		}
		change(strings.Replace(rules, "acme:*", "beta:*", 1))
		if err := may(); !errors.Is(err, fault.Denied) || !meter.valid() {
			t.Errorf("after the right was taken away: %v", err)
		}
		if corp.questions() != asked {
			t.Error("an issuer that did not change was asked again")
		}
		change(strings.ReplaceAll(rules, "corp", "other"))
		if err := may(); !errors.Is(err, fault.Unauthenticated) {
			t.Errorf("after the issuer was taken away: %v", err)
		}
		if _, err := tokens.Verify(t.Context(), foreign); err != nil {
			t.Errorf("the new issuer's token: %v", err)
		}
		if meter.knows("corp") {
			t.Error("the metrics still know the issuer that is gone")
		}
		os.Remove(file)
		time.Sleep(3 * time.Second)
		if _, err := tokens.Verify(t.Context(), foreign); err != nil || meter.valid() {
			t.Errorf("after the file was removed: %v", err)
		}
	})
}

func TestOpenSaysWhatIsWrongWithTheFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "bad.yaml", "issuers: 1")
	for _, name := range []string{"bad.yaml", "missing.yaml"} {
		_, err := auth.OpenTokens(auth.TokensOptions{File: filepath.Join(dir, name)})
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNoTokenIsLogged(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	var out strings.Builder
	var mu sync.Mutex
	log := slog.New(slog.NewTextHandler(writer(func(p []byte) { mu.Lock(); out.Write(p); mu.Unlock() }), &slog.HandlerOptions{Level: slog.LevelDebug}))
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "auth.yaml")
		write(t, filepath.Dir(file), "auth.yaml", rules)
		tokens, err := auth.OpenTokens(auth.TokensOptions{File: file, Transport: network{corp.url: corp}, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = tokens.Run(ctx) })
		for _, raw := range []string{corp.token(t, nil), corp.token(t, map[string]any{"aud": "x"}), corp.token(t, nil) + "x", join(t, map[string]any{"alg": "none"}, corp.claims(nil), nil)} {
			_, _ = tokens.Verify(t.Context(), raw)
			mu.Lock()
			for part := range strings.SplitSeq(raw, ".") {
				if len(part) > 10 && strings.Contains(out.String(), part) {
					t.Errorf("the log holds %q of a token", part)
				}
			}
			mu.Unlock()
		}
		cancel()
		running.Wait()
	})
}

type writer func([]byte)

func (w writer) Write(p []byte) (int, error) { w(p); return len(p), nil }

// A meter remembers what it was told.
type meter struct {
	mu      sync.Mutex
	ok      bool
	issuers map[string]bool
}

func (m *meter) Rules(valid bool)            { m.mu.Lock(); m.ok = valid; m.mu.Unlock() }
func (m *meter) Issuer(name string, ok bool) { m.mu.Lock(); m.issuers[name] = ok; m.mu.Unlock() }
func (m *meter) IssuerGone(name string)      { m.mu.Lock(); delete(m.issuers, name); m.mu.Unlock() }
func (m *meter) Refused(string)              {}
func (m *meter) valid() bool                 { m.mu.Lock(); defer m.mu.Unlock(); return m.ok }
func (m *meter) answers(name string) bool    { m.mu.Lock(); defer m.mu.Unlock(); return m.issuers[name] }

func (m *meter) knows(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, there := m.issuers[name]
	return there
}

func FuzzBearer(f *testing.F) {
	corp := newIDP(f, "https://corp.test")
	tokens, _ := run(f, rules, network{corp.url: corp}, nil)
	good := corp.token(f, nil)
	for _, header := range []string{"", "Bearer", "Bearer ", "Bearer " + good, "bearer  " + good, "Basic dG9rZW46YS5iLmM=", "Bearer a.b.c", "Bearer a.b.c.d.e", "Bearer " + good[:40]} {
		f.Add(header)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r := &http.Request{Header: http.Header{"Authorization": {header}}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nobody waits for keys that do not exist
		caller, err := tokens.Authenticate(r.WithContext(ctx))
		if err == nil && caller.Subject != "alice" {
			t.Errorf("%q is %+v", header, caller)
		}
		if err != nil && caller != (auth.Caller{}) {
			t.Errorf("%q is refused, and is %+v", header, caller)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for _, alg := range []jose.SignatureAlgorithm{jose.ES256, jose.RS256} {
		corp := newIDP(b, "https://corp.test")
		corp.keys = []key{newKey(b, "k", alg)}
		tokens, _ := run(b, rules, network{corp.url: corp}, nil)
		groups := make([]string, 20)
		for i := range groups {
			groups[i] = fmt.Sprint("/customers/department/group-", i)
		}
		r := httptest.NewRequest("GET", "/", nil)
		b.Run(string(alg)+"/again", func(b *testing.B) {
			r.Header.Set("Authorization", "Bearer "+corp.token(b, map[string]any{"groups": groups}))
			for b.Loop() {
				if _, err := tokens.Authenticate(r); err != nil {
					b.Fatal(err)
				}
			}
		})
		// What no verification can do without, for comparison.
		b.Run(string(alg)+"/bare", func(b *testing.B) {
			jws, err := jose.ParseSigned(corp.token(b, map[string]any{"groups": groups}), []jose.SignatureAlgorithm{alg})
			if err != nil {
				b.Fatal(err)
			}
			public := corp.keys[0].Public()
			for b.Loop() {
				if _, err := jws.Verify(public); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(string(alg)+"/first", func(b *testing.B) {
			n := 0
			var raw []string
			for range 1000 {
				n++
				raw = append(raw, corp.token(b, map[string]any{"groups": groups, "jti": fmt.Sprint(alg, n)}))
			}
			for i := 0; b.Loop(); i++ {
				if i%len(raw) == 0 && i > 0 { // nothing is remembered by a new one
					b.StopTimer()
					tokens, _ = run(b, rules, network{corp.url: corp}, nil)
					if _, err := tokens.Verify(b.Context(), corp.token(b, nil)); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
				if _, err := tokens.Verify(b.Context(), raw[i%len(raw)]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
