package auth_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/graphene-faas/graphene/internal/web"
)

// An idp is an issuer that does what a test wants. It is reached without a
// network.
type idp struct {
	url string

	mu     sync.Mutex
	keys   []key
	away   bool
	asked  int
	extras []any // more entries of its key set
}

// A key is a private key with its name.
type key struct {
	id  string
	alg jose.SignatureAlgorithm
	crypto.Signer
}

func newIDP(t testing.TB, url string) *idp {
	return &idp{url: url, keys: []key{newKey(t, "one", jose.ES256)}}
}

func newKey(t testing.TB, id string, alg jose.SignatureAlgorithm) key {
	t.Helper()
	var signer crypto.Signer
	var err error
	switch alg {
	case jose.RS256, jose.PS256:
		signer, err = rsa.GenerateKey(rand.Reader, 2048)
	case jose.EdDSA:
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key{id, alg, signer}
}

// ServeHTTP answers what issuers are asked.
func (p *idp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	switch {
	case p.away:
		http.Error(w, "away", http.StatusBadGateway)
	case r.URL.Path == "/.well-known/openid-configuration":
		json.NewEncoder(w).Encode(map[string]any{"issuer": p.url, "jwks_uri": p.url + "/keys"})
	case r.URL.Path == "/keys":
		set := []any{}
		for _, k := range p.keys {
			set = append(set, jose.JSONWebKey{Key: k.Public(), KeyID: k.id, Algorithm: string(k.alg), Use: "sig"})
		}
		json.NewEncoder(w).Encode(map[string]any{"keys": append(set, p.extras...)})
	default:
		http.NotFound(w, r)
	}
}

// questions is how often the issuer was asked something.
func (p *idp) questions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// do changes the issuer.
func (p *idp) do(f func(*idp)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(p)
}

// token returns a token for alice that is good for an hour, changed by claims;
// a nil claim is left out.
func (p *idp) token(t testing.TB, claims map[string]any) string {
	t.Helper()
	p.mu.Lock()
	k := p.keys[0]
	p.mu.Unlock()
	return k.sign(t, p.claims(claims))
}

func (p *idp) claims(changes map[string]any) map[string]any {
	now := time.Now()
	all := map[string]any{"iss": p.url, "sub": "alice", "aud": "graphene", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	for name, value := range changes {
		if all[name] = value; value == nil {
			delete(all, name)
		}
	}
	return all
}

// sign returns a token that k signs.
func (k key) sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	opts := (&jose.SignerOptions{}).WithType("JWT")
	if k.id != "" {
		opts = opts.WithHeader("kid", k.id)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: k.alg, Key: k.Signer}, opts)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	text, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// join makes a token out of its parts as they are.
func join(t testing.TB, header, claims map[string]any, signature []byte) string {
	t.Helper()
	encode := func(v any) string {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(text)
	}
	return encode(header) + "." + encode(claims) + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// network reaches issuers by their addresses.
type network map[string]http.Handler

func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	for url, h := range n {
		if strings.HasPrefix(r.URL.String(), url+"/") {
			return web.InProcess(h).RoundTrip(r)
		}
	}
	return nil, errors.New("connection refused")
}
