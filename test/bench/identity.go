package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/graphene-faas/graphene/gateway"
	"github.com/graphene-faas/graphene/gateway/auth"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/provider"
	"github.com/graphene-faas/graphene/provider/local"
)

// What finding out who calls may cost, and how soon a key is refused.
const (
	knownTokenLimit = 5 * time.Microsecond
	newTokenLimit   = 150 * time.Microsecond
	revokeLimit     = time.Second
	identityTokens  = 1000
)

// A tokenSigner makes tokens as an issuer does, and verifies them as little as
// can be.
type tokenSigner struct {
	alg    string
	jwk    map[string]string
	sign   func(digest []byte) ([]byte, error)
	verify func(digest, signature []byte) bool
}

func newSigners() ([]tokenSigner, error) {
	elliptical, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	factored, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	point, err := elliptical.PublicKey.Bytes()
	if err != nil {
		return nil, err
	}
	encode := base64.RawURLEncoding.EncodeToString
	return []tokenSigner{{
		alg: "ES256", jwk: map[string]string{"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:])},
		sign: func(digest []byte) ([]byte, error) {
			r, s, err := ecdsa.Sign(rand.Reader, elliptical, digest)
			if err != nil {
				return nil, err
			}
			return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), nil
		},
		verify: func(digest, signature []byte) bool {
			return ecdsa.Verify(&elliptical.PublicKey, digest, new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
		},
	}, {
		alg: "RS256", jwk: map[string]string{"kty": "RSA", "n": encode(factored.N.Bytes()), "e": "AQAB"},
		sign: func(digest []byte) ([]byte, error) {
			return rsa.SignPKCS1v15(rand.Reader, factored, crypto.SHA256, digest)
		},
		verify: func(digest, signature []byte) bool {
			return rsa.VerifyPKCS1v15(&factored.PublicKey, crypto.SHA256, digest, signature) == nil
		},
	}}, nil
}

// token returns the n-th token, of somebody in 20 groups.
func (s tokenSigner) token(n int) (string, error) {
	groups := make([]string, 20)
	for i := range groups {
		groups[i] = fmt.Sprint("/customers/department/group-", i)
	}
	header, err := json.Marshal(map[string]string{"alg": s.alg, "kid": "k", "typ": "JWT"})
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{
		"iss": "https://" + strings.ToLower(s.alg) + ".test", "sub": "alice", "aud": "graphene", "groups": groups, "jti": fmt.Sprint(n),
		"iat": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		return "", err
	}
	encode := base64.RawURLEncoding.EncodeToString
	text := encode(header) + "." + encode(claims)
	digest := sha256.Sum256([]byte(text))
	signature, err := s.sign(digest[:])
	return text + "." + encode(signature), err
}

// benchIdentity measures by processor time, which what else the machine does
// hardly changes.
func benchIdentity(out io.Writer, _ options) error {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	signers, err := newSigners()
	if err != nil {
		return err
	}
	var rules bytes.Buffer
	rules.WriteString("issuers:\n")
	for _, s := range signers {
		s.jwk["kid"], s.jwk["use"], s.jwk["alg"] = "k", "sig", s.alg
		set, err := json.Marshal(map[string]any{"keys": []any{s.jwk}})
		if err != nil {
			return err
		}
		file := filepath.Join(dir, s.alg)
		if err := os.WriteFile(file, set, 0o600); err != nil {
			return err
		}
		fmt.Fprintf(&rules, "  - {name: %s, iss: https://%s.test, aud: graphene, jwksFile: %s}\n", s.alg, strings.ToLower(s.alg), file)
	}
	rules.WriteString("policies: [{name: p, statement: [{effect: Allow, action: '*', resource: '*'}]}]\nroles: [{name: r, policy: p, condition: {'ForAnyValue:StringEqual': {'jwt:groups': /customers/department/group-9}}}]\n")
	file := filepath.Join(dir, "auth.yaml")
	if err := os.WriteFile(file, rules.Bytes(), 0o600); err != nil {
		return err
	}
	tokens, err := auth.OpenTokens(auth.TokensOptions{File: file})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = tokens.Run(ctx) })

	fmt.Fprintf(out, "CPU time of this process for each of %d tokens of a caller in 20 groups.\n\n| what | cost | bound |\n|---|---|---|\n", identityTokens)
	var missed []error
	row := func(what string, cost, bound time.Duration) {
		limit := ""
		if bound > 0 {
			limit = fmt.Sprint(bound)
		}
		fmt.Fprintf(out, "| %s | %.1f µs | %s |\n", what, float64(cost.Nanoseconds())/1000, limit)
		if bound > 0 && cost > bound {
			missed = append(missed, fmt.Errorf("%s costs %v", what, cost))
		}
	}
	for _, s := range signers {
		var all []string
		for n := range identityTokens {
			raw, err := s.token(n)
			if err != nil {
				return err
			}
			all = append(all, raw)
		}
		warm, err := s.token(-1) // waits for the keys
		if err != nil {
			return err
		}
		if _, err := tokens.Verify(ctx, warm); err != nil {
			return err
		}
		each := func(f func(raw string) error) (time.Duration, error) {
			before, err := processorTime()
			if err != nil {
				return 0, err
			}
			for _, raw := range all {
				if err := f(raw); err != nil {
					return 0, err
				}
			}
			after, err := processorTime()
			return (after - before) / identityTokens, err
		}
		bare, err := each(func(raw string) error {
			at := strings.LastIndexByte(raw, '.')
			digest := sha256.Sum256([]byte(raw[:at]))
			signature, err := base64.RawURLEncoding.DecodeString(raw[at+1:])
			if err != nil || !s.verify(digest[:], signature) {
				return errors.New("a good signature is wrong")
			}
			return nil
		})
		if err != nil {
			return err
		}
		verify := func(raw string) error { _, err := tokens.Verify(ctx, raw); return err }
		first, err := each(verify)
		if err != nil {
			return err
		}
		again, err := each(verify)
		if err != nil {
			return err
		}
		row(s.alg+", the signature alone", bare, 0)
		row(s.alg+", a token that is new", first, newTokenLimit)
		row(s.alg+", a token that is known", again, knownTokenLimit)
	}
	cost, worst, err := benchRevocation(ctx, filepath.Join(dir, "keys.json"))
	if err != nil {
		return errors.Join(append(missed, err)...)
	}
	fmt.Fprintf(out, "| an API key is refused by two gateways after its revocation was answered (20 times) | median %.1f ms, worst %.1f ms | %v |\n",
		float64(cost.Microseconds())/1000, float64(worst.Microseconds())/1000, revokeLimit)
	if worst > revokeLimit {
		missed = append(missed, fmt.Errorf("a revoked key was taken for %v", worst))
	}
	return errors.Join(missed...)
}

// noFunctions is a runtime that has none.
type noFunctions struct{ provider.Runtime }

func (noFunctions) Watch(ctx context.Context, report func(function.Event)) error {
	report(function.Event{Synced: true})
	<-ctx.Done()
	return nil
}

// benchRevocation makes and revokes API keys at one of two gateways.
func benchRevocation(ctx context.Context, file string) (median, worst time.Duration, err error) {
	keys, err := local.OpenAPIKeys(file)
	if err != nil {
		return 0, 0, err
	}
	server := provider.New(provider.Options{Runtime: noFunctions{}, APIKeys: keys, Objects: keys})
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	running.Go(func() { _ = server.Run(ctx) })
	behind := httptest.NewServer(server.Handler())
	defer behind.Close()
	defer behind.CloseClientConnections()
	defer cancel()
	at, err := url.Parse(behind.URL)
	if err != nil {
		return 0, 0, err
	}
	var fronts []string
	for range 2 {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, 0, err
		}
		fronts = append(fronts, "http://"+listener.Addr().String())
		front := gateway.New(gateway.Options{Listener: listener, Provider: http.DefaultTransport, ProviderURL: at, Authenticator: auth.NewBasic("admin", "bench")})
		running.Go(func() { _ = front.Run(ctx) })
	}
	ask := func(method, url, key, body string) (int, string, error) {
		r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		if err != nil {
			return 0, "", err
		}
		if r.SetBasicAuth("admin", "bench"); key != "" {
			r.Header.Set("Authorization", "Bearer "+key)
		}
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text), err
	}
	until := func(key string, status int) error {
		for _, front := range fronts {
			for deadline := time.Now().Add(10 * time.Second); ; {
				got, _, err := ask("GET", front+"/system/api-keys", key, "")
				if err != nil {
					return err
				}
				if got == status {
					break
				}
				if time.Now().After(deadline) {
					return fmt.Errorf("a gateway answers %d, want %d", got, status)
				}
			}
		}
		return nil
	}
	var took []time.Duration
	for range 20 {
		status, text, err := ask("POST", fronts[0]+"/system/api-keys", "", `{"action": "Key:List", "resource": "*"}`)
		if err != nil {
			return 0, 0, err
		}
		var made struct{ Key, ID string }
		if err := json.Unmarshal([]byte(text), &made); err != nil || status != http.StatusOK {
			return 0, 0, fmt.Errorf("make an API key: %d %s", status, text)
		}
		if err := until(made.Key, http.StatusOK); err != nil {
			return 0, 0, err
		}
		if _, _, err := ask("DELETE", fronts[0]+"/system/api-keys/"+made.ID, "", ""); err != nil {
			return 0, 0, err
		}
		revoked := time.Now()
		if err := until(made.Key, http.StatusUnauthorized); err != nil {
			return 0, 0, err
		}
		took = append(took, time.Since(revoked))
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)-1], nil
}
