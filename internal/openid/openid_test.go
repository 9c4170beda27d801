package openid_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/openid"
	"github.com/graphene-faas/graphene/internal/web"
)

func token(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("signature"))
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // a test's own peer
}

// issuer returns one that is h, without a network.
func issuer(t *testing.T, h http.HandlerFunc) *openid.Issuer {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, 200, map[string]any{
			"issuer": "http://issuer", "token_endpoint": "http://issuer/token", "authorization_endpoint": "http://issuer/auth?tenant=a",
			"device_authorization_endpoint": "http://issuer/device", "scopes_supported": []string{"openid", "email"},
		})
	})
	mux.HandleFunc("/", h)
	i, err := openid.Discover(t.Context(), &http.Client{Transport: web.InProcess(mux)}, "http://issuer")
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func TestAnIssuerMustBeTheOneThatWasAsked(t *testing.T) {
	for name, test := range map[string]struct {
		body string
		kind fault.Kind
	}{
		"another":          {`{"issuer":"https://evil.example","token_endpoint":"x"}`, fault.Invalid},
		"no token":         {`{"issuer":"URL"}`, fault.Invalid},
		"a page":           {`<html>`, fault.Invalid},
		"nothing of those": {`[]`, fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			var srv *httptest.Server
			srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprint(w, strings.ReplaceAll(test.body, "URL", srv.URL))
			}))
			defer srv.Close()
			if _, err := openid.Discover(t.Context(), nil, srv.URL); !errors.Is(err, test.kind) {
				t.Errorf("%v, want %v", err, test.kind)
			}
		})
	}
	gone := httptest.NewServer(http.NotFoundHandler())
	if _, err := openid.Discover(t.Context(), nil, gone.URL); !errors.Is(err, fault.Unavailable) {
		t.Errorf("not found: %v", err)
	}
	gone.Close()
	if _, err := openid.Discover(t.Context(), nil, gone.URL); !errors.Is(err, fault.Unavailable) {
		t.Errorf("gone: %v", err)
	}
}

func TestALoginIsBoundToItsBeginning(t *testing.T) {
	login := openid.NewLogin()
	id := func(claims map[string]any) string {
		text, _ := json.Marshal(claims) // of texts and numbers
		return token(string(text))
	}
	good := map[string]any{"iss": "http://issuer", "aud": "client", "sub": "s", "nonce": login.Nonce, "exp": 1}
	with := func(name string, value any) map[string]any {
		c := maps.Clone(good)
		c[name] = value
		return c
	}
	for name, test := range map[string]struct {
		answer url.Values
		claims map[string]any
		want   string
	}{
		"good":             {url.Values{"state": {login.State}, "code": {"c"}}, good, ""},
		"another state":    {url.Values{"state": {"x"}, "code": {"c"}}, good, "another login"},
		"no state":         {url.Values{"code": {"c"}}, good, "another login"},
		"another issuer":   {url.Values{"state": {login.State}, "code": {"c"}, "iss": {"http://evil"}}, good, "another issuer"},
		"refused":          {url.Values{"state": {login.State}, "error": {"access_denied"}, "error_description": {"a\nb"}}, good, `"access_denied": a b`},
		"no code":          {url.Values{"state": {login.State}}, good, "no code"},
		"another nonce":    {url.Values{"state": {login.State}, "code": {"c"}}, with("nonce", "x"), "another login"},
		"another audience": {url.Values{"state": {login.State}, "code": {"c"}}, with("aud", []string{"x"}), `for ["x"]`},
		"another signer":   {url.Values{"state": {login.State}, "code": {"c"}}, with("iss", "http://evil"), "from"},
	} {
		t.Run(name, func(t *testing.T) {
			i := issuer(t, func(w http.ResponseWriter, r *http.Request) {
				if r.FormValue("code_verifier") != login.Verifier || r.FormValue("redirect_uri") != "http://here" {
					t.Errorf("the code is redeemed with %v", r.Form)
				}
				answer(w, 200, map[string]any{"access_token": "opaque", "token_type": "Bearer", "id_token": id(test.claims)})
			})
			_, err := i.Redeem(t.Context(), openid.Client{ID: "client"}, login, "http://here", test.answer)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
			} else if !errors.Is(err, fault.Denied) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
	i := issuer(t, http.NotFound)
	target, err := i.LoginURL(openid.Client{ID: "client", Parameters: map[string]string{"audience": "graphene"}}, login, "http://here")
	u, parseErr := url.Parse(target)
	if err != nil || parseErr != nil {
		t.Fatal(err, parseErr)
	}
	q := u.Query()
	if q.Get("tenant") != "a" || q.Get("code_challenge_method") != "S256" || q.Get("nonce") != login.Nonce || q.Get("scope") != "openid email" || q.Get("audience") != "graphene" || strings.Contains(target, login.Verifier) {
		t.Errorf("the login begins at %s", target)
	}
}

// TestADeviceIsAskedForAsSlowlyAsTheIssuerWants runs in virtual time.
func TestADeviceIsAskedForAsSlowlyAsTheIssuerWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Duration
		began := time.Now()
		i := issuer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/device" {
				answer(w, 200, map[string]any{"device_code": "d", "user_code": "ABCD", "verification_uri": "http://issuer/here", "expires_in": 600, "interval": 2})
				return
			}
			asked = append(asked, time.Since(began))
			switch len(asked) {
			case 1:
				answer(w, 400, map[string]any{"error": "authorization_pending"})
			case 2:
				answer(w, 400, map[string]any{"error": "slow_down"})
			default:
				answer(w, 200, map[string]any{"access_token": "a", "token_type": "Bearer"})
			}
		})
		shown := openid.DeviceCode{}
		got, err := i.Device(t.Context(), openid.Client{ID: "client"}, func(c openid.DeviceCode) { shown = c })
		if err != nil || got.Access != "a" || shown.Code != "ABCD" || shown.URL != "http://issuer/here" {
			t.Errorf("%+v, %v, shown %+v", got, err, shown)
		}
		if want := []time.Duration{2 * time.Second, 4 * time.Second, 11 * time.Second}; fmt.Sprint(asked) != fmt.Sprint(want) {
			t.Errorf("asked after %v, want %v", asked, want)
		}
	})
}

func TestADeviceCodeExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := issuer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/device" {
				answer(w, 200, map[string]any{"device_code": "d", "user_code": "ABCD", "verification_uri": "http://issuer/here", "expires_in": 10})
				return
			}
			answer(w, 400, map[string]any{"error": "authorization_pending"})
		})
		if _, err := i.Device(t.Context(), openid.Client{ID: "client"}, func(openid.DeviceCode) {}); !errors.Is(err, fault.Timeout) {
			t.Errorf("%v, want a timeout", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := i.Device(ctx, openid.Client{ID: "client"}, func(openid.DeviceCode) {}); !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want that it was cancelled", err)
		}
	})
}

func TestTheTokenIsTheOneThatIsMeantForWhomItIsShownTo(t *testing.T) {
	access, id := token(`{"aud":["graphene","account"],"exp":100}`), token(`{"aud":"client","exp":200}`)
	for name, test := range map[string]struct {
		tokens    openid.Tokens
		audiences []string
		want      string
	}{
		"the access token":            {openid.Tokens{Access: access, ID: id}, []string{"graphene"}, access},
		"the ID token":                {openid.Tokens{Access: access, ID: id}, []string{"client"}, id},
		"an access token for nobody":  {openid.Tokens{Access: "opaque", ID: id}, []string{"client", "graphene"}, id},
		"any":                         {openid.Tokens{Access: access, ID: id}, nil, access},
		"none":                        {openid.Tokens{Access: access, ID: id}, []string{"other"}, ""},
		"none that others could read": {openid.Tokens{Access: "opaque"}, nil, ""},
	} {
		got, expiry, err := test.tokens.For(test.audiences)
		if got != test.want || (err == nil) != (test.want != "") || err == nil && expiry.IsZero() {
			t.Errorf("%s: %q until %v, %v", name, got, expiry, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(token(`{"aud":["a",1,null],"exp":1.5,"groups":{"x":1},"sub":"s"}`))
	f.Add("a.b.c")
	f.Add(token(`{"exp":1e300}`))
	f.Fuzz(func(t *testing.T, raw string) {
		claims, err := openid.Read(raw)
		if err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("%q: %v", raw, err)
		}
		_ = claims.Who()
	})
}
