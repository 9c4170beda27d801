package auth_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
)

// keep has k know a key that may call the functions of acme.
func keep(t testing.TB, k *auth.APIKeys, id, hash string, expires *time.Time) {
	t.Helper()
	content, err := json.Marshal(iam.APIKey{ID: id, Name: "etl", Hash: hash, Action: iam.List{"Function:Invoke"}, Resource: iam.List{"acme:*"}, Expires: expires})
	if err != nil {
		t.Fatal(err)
	}
	k.SetObject(function.Object{Kind: iam.KindAPIKey, Name: id, Content: content})
}

func TestAnAPIKeyIsKnownWhereverItIsSentAndUntilItIsRevoked(t *testing.T) {
	var keys auth.APIKeys
	key, id, hash := auth.NewAPIKey()
	if !regexp.MustCompile(`^gpk_[0-9a-z]{10}_[0-9A-Za-z]{49}$`).MatchString(key) || strings.Contains(hash, key) {
		t.Fatalf("a key is %q", key)
	}
	if _, err := keys.Verify(key); !errors.Is(err, fault.Unavailable) {
		t.Errorf("before keys are known: %v, want fault.Unavailable", err)
	}
	keep(t, &keys, id, hash, nil)
	keys.ObjectsSynced()
	other, _, _ := auth.NewAPIKey()
	request := func(header, value string) *http.Request {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set(header, value)
		return r
	}
	sent := map[string]*http.Request{
		"bearer":   request("Authorization", "Bearer "+key),
		"header":   request("X-API-Key", key),
		"password": request("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("token:"+key))),
	}
	for name, r := range sent {
		caller, err := keys.Authenticate(r)
		if err != nil || caller.String() != "api-key/"+id || caller.Admin || caller.Claim("name")[0] != "etl" {
			t.Errorf("%s: %v, %v", name, caller, err)
		}
		d := auth.Decide(caller, iam.FunctionInvoke, echo)
		if d.Err() != nil || d.Rule != "API key "+id {
			t.Errorf("%s: %v by %q", name, d.Err(), d.Rule)
		}
		for _, a := range iam.Actions() {
			if a != iam.FunctionInvoke && auth.May(caller, a, echo) == nil {
				t.Errorf("%s: may do %s", name, a)
			}
		}
	}
	if keys.LastUsed(id).IsZero() || !keys.LastUsed("none").IsZero() {
		t.Error("when keys were used is not known")
	}
	for name, raw := range map[string]string{
		"another": other, "cut off": key[:len(key)-1], "one letter": strings.Replace(key, key[20:21], string(key[20]^1), 1),
		"the prefix": "gpk_", "another's secret": key[:15] + other[15:], "longer": key + "0", "without ID": "gpk__" + key[15:],
	} {
		if caller, err := keys.Verify(raw); !errors.Is(err, fault.Unauthenticated) || caller != (auth.Caller{}) || strings.Contains(err.Error(), raw) {
			t.Errorf("%s: %v, %v", name, caller, err)
		}
	}
	for name, r := range map[string]*http.Request{
		"nothing": httptest.NewRequest("GET", "/", nil), "a function's own key": request("X-API-Key", "abc"), "a token": request("Authorization", "Bearer a.b.c"),
		"a user's password": request("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("admin:"+key))),
	} {
		if _, err := keys.Authenticate(r); !errors.Is(err, auth.ErrNone) {
			t.Errorf("%s: %v, want ErrNone so that others are asked", name, err)
		}
	}
	for name, r := range sent {
		r.Header.Set("X-Other", "kept")
		if auth.HideAPIKey(r); len(r.Header) != 1 {
			t.Errorf("%s: the function sees %v", name, r.Header)
		}
	}
	own := request("X-API-Key", "the function's own")
	if auth.HideAPIKey(own); len(own.Header) != 1 {
		t.Error("a header of the function's own was taken away")
	}

	keys.SetObject(function.Object{Kind: iam.KindAPIKey, Name: id})
	if _, err := keys.Verify(key); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("after it was revoked: %v", err)
	}
	keys.SetObject(function.Object{Kind: iam.KindAPIKey, Name: id, Content: json.RawMessage(`{"hash":"00"}`)})
	if _, err := keys.Verify(key); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("with a hash that is none: %v", err)
	}
}

func TestAnAPIKeyEndsWhenItWasSaidTo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var keys auth.APIKeys
		key, id, hash := auth.NewAPIKey()
		keep(t, &keys, id, hash, new(time.Now().Add(time.Hour)))
		time.Sleep(time.Hour - time.Second)
		if _, err := keys.Verify(key); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if _, err := keys.Verify(key); !errors.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), "expired") {
			t.Errorf("%v, want that it has expired", err)
		}
	})
}

func TestNobodyGivesAwayMoreThanTheyHave(t *testing.T) {
	corp := newIDP(t, "https://corp.test")
	tokens, _ := run(t, rules, network{corp.url: corp}, nil)
	alice, err := tokens.Verify(t.Context(), corp.token(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		action, resource iam.List
		ok               bool
	}{
		{iam.List{"Function:Invoke"}, iam.List{"acme:*"}, true},
		{iam.List{"Function:Invoke"}, iam.List{"acme:echo", "acme:*"}, true},
		{iam.List{"Function:Invoke"}, iam.List{"*"}, false},
		{iam.List{"Function:Invoke"}, iam.List{"acme:echo", "beta:echo"}, false},
		{iam.List{"Function:*"}, iam.List{"acme:*"}, false},
		{iam.List{"*"}, iam.List{"acme:*"}, false},
		{iam.List{"Function:Get"}, iam.List{"acme:echo"}, false},
	} {
		s := iam.Statement{Action: tt.action, Resource: tt.resource}
		if auth.Covers(alice, s) != tt.ok {
			t.Errorf("%v on %v: %v, want %v", tt.action, tt.resource, !tt.ok, tt.ok)
		}
		if !auth.Covers(auth.Caller{Subject: "admin", Admin: true}, s) || auth.Covers(auth.Caller{}, s) {
			t.Error("the administrator may everything, and nobody nothing")
		}
	}
}

func FuzzAPIKey(f *testing.F) {
	var keys auth.APIKeys
	key, id, hash := auth.NewAPIKey()
	keep(f, &keys, id, hash, nil)
	keys.ObjectsSynced()
	f.Add("Authorization", "Bearer "+key)
	f.Add("X-API-Key", key[:30])
	f.Add("Authorization", "Basic dG9rZW46Z3BrXw==")
	f.Fuzz(func(t *testing.T, header, value string) {
		r := &http.Request{Header: http.Header{http.CanonicalHeaderKey(header): {value}}}
		caller, err := keys.Authenticate(r)
		if err == nil && !strings.Contains(value, key) && !strings.HasPrefix(value, "Basic ") {
			t.Fatalf("%q is taken for %v", value, caller)
		}
		if (err == nil) != (caller != auth.Caller{}) || err != nil && !errors.Is(err, fault.Unauthenticated) {
			t.Fatalf("%v, %v", caller, err)
		}
	})
}

func BenchmarkAPIKey(b *testing.B) {
	var keys auth.APIKeys
	key, id, hash := auth.NewAPIKey()
	keep(b, &keys, id, hash, nil)
	for b.Loop() {
		if _, err := keys.Verify(key); err != nil {
			b.Fatal(err)
		}
	}
}
