package watchdog

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// FunctionTokens say which callers a watchdog lets through: those with a token
// that the platform has made for this function.
type FunctionTokens struct {
	Gateway   string // where the platform says who it is, and its keys; a URL without a slash at the end
	Name      string // of the function
	Namespace string
}

const (
	// wantFunctionToken is what faas-cli looks for before it asks the platform
	// for a token and calls again.
	wantFunctionToken = "Bearer realm=IAM function invoke"
	invokeAction      = "Function:Invoke"

	maxFunctionToken = 16 << 10         // bytes
	maxKeyDocument   = 1 << 20          // bytes
	tokenSkew        = 30 * time.Second // between the platform's clock and this one
	keyGap           = 5 * time.Second  // between two questions for keys
	keyTimeout       = 4 * time.Second  // of one question
)

// Why a caller is not let through. The text of errToken says more.
var (
	errNoToken  = errors.New("a function token is needed")
	errToken    = errors.New("the function token is not good")
	errNoRights = errors.New("insufficient permissions")
)

// tokenCheck verifies function tokens. Its keys are fetched with the first
// token, and again when one names a key that is not among them.
type tokenCheck struct {
	FunctionTokens
	client *http.Client

	mu     sync.Mutex // guards what follows, and lets one question go at a time
	issuer string
	keys   map[string]*ecdsa.PublicKey // by kid
	asked  time.Time
}

func newTokenCheck(t FunctionTokens) *tokenCheck {
	return &tokenCheck{FunctionTokens: t, client: &http.Client{Timeout: keyTimeout, Transport: &http.Transport{}}}
}

// admit lets a caller through, or answers that it does not, and reports which.
func (t *tokenCheck) admit(a *answer, r *http.Request) bool {
	began := time.Now()
	err := t.check(r.Context(), r.Header["Authorization"], began)
	h := a.w.Header()
	h.Set("X-Auth-Seconds", strconv.FormatFloat(time.Since(began).Seconds(), 'f', 6, 64))
	switch {
	case err == nil:
		return true
	case errors.Is(err, errNoToken), errors.Is(err, errToken):
		h.Set("WWW-Authenticate", wantFunctionToken)
		a.refuse(http.StatusUnauthorized, err.Error())
	case errors.Is(err, errNoRights):
		a.refuse(http.StatusForbidden, err.Error())
	default:
		a.refuse(http.StatusServiceUnavailable, "the platform's keys cannot be read, so no caller can be known")
	}
	return false
}

// tokenClaims are what a function token says.
type tokenClaims struct {
	Issuer   string  `json:"iss"`
	Expires  float64 `json:"exp"` // seconds since 1970
	IssuedAt float64 `json:"iat"`
	Function struct {
		Permissions []string `json:"permissions"`
		Audience    []string `json:"audience"`
	} `json:"function"`
}

// check verifies the token in the header Authorization. Errors are one of those
// above, or something else if the keys cannot be fetched.
func (t *tokenCheck) check(ctx context.Context, headers []string, now time.Time) error {
	if len(headers) != 1 {
		return errNoToken
	}
	scheme, raw, _ := strings.Cut(headers[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return errNoToken
	}
	parts := strings.Split(strings.TrimSpace(raw), ".")
	if len(raw) > maxFunctionToken || len(parts) != 3 {
		return fmt.Errorf("%w: it is not a JWT", errToken)
	}
	var header struct {
		Algorithm string   `json:"alg"`
		KeyID     string   `json:"kid"`
		Critical  []string `json:"crit"`
	}
	var claims tokenClaims
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || !decodePart(parts[0], &header) || !decodePart(parts[1], &claims) {
		return fmt.Errorf("%w: it is malformed", errToken)
	}
	if header.Algorithm != "ES256" || len(header.Critical) > 0 || len(signature) != 64 {
		return fmt.Errorf("%w: it is signed in a way that is not allowed", errToken)
	}
	key, issuer, err := t.key(ctx, header.KeyID, now)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if key == nil || !ecdsa.Verify(key, digest[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		return fmt.Errorf("%w: its signature is wrong", errToken)
	}
	at := float64(now.Unix())
	switch {
	case claims.Issuer != issuer:
		return fmt.Errorf("%w: its issuer is another", errToken)
	case at > claims.Expires+tokenSkew.Seconds():
		return fmt.Errorf("%w: it has expired", errToken)
	case at < claims.IssuedAt-tokenSkew.Seconds():
		return fmt.Errorf("%w: it is not valid yet", errToken)
	case !slices.ContainsFunc(claims.Function.Permissions, func(p string) bool { return stands(p, invokeAction) }),
		!slices.ContainsFunc(claims.Function.Audience, func(p string) bool { return stands(p, t.Namespace+":"+t.Name) }):
		return errNoRights
	}
	return nil
}

func decodePart(part string, into any) bool {
	text, err := base64.RawURLEncoding.DecodeString(part)
	return err == nil && json.Unmarshal(text, into) == nil
}

// stands reports whether a pattern, which may end in "*", stands for text.
func stands(pattern, text string) bool {
	begin, any := strings.CutSuffix(pattern, "*")
	return pattern == text || any && strings.HasPrefix(text, begin)
}

// key returns a key of the platform's, nil if there is none of that name, and
// who the platform says it is.
func (t *tokenCheck) key(ctx context.Context, id string, now time.Time) (*ecdsa.PublicKey, string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if key := t.keys[id]; key != nil {
		return key, t.issuer, nil
	}
	if t.keys != nil && now.Sub(t.asked) < keyGap {
		return nil, t.issuer, nil // whoever invents names of keys must not have the platform asked for each
	}
	t.asked = now
	issuer, keys, err := t.fetch(ctx)
	if err != nil {
		if t.keys != nil {
			return nil, t.issuer, nil // what is known goes on being good, and this is not among it
		}
		return nil, "", err
	}
	t.issuer, t.keys = issuer, keys
	return keys[id], issuer, nil
}

// fetch asks the platform who it is, and for its keys.
func (t *tokenCheck) fetch(ctx context.Context) (issuer string, keys map[string]*ecdsa.PublicKey, err error) {
	var said struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := t.get(ctx, t.Gateway+"/.well-known/openid-configuration", &said); err != nil {
		return "", nil, err
	}
	var set struct {
		Keys []struct {
			Curve string `json:"crv"`
			X     string `json:"x"`
			Y     string `json:"y"`
			ID    string `json:"kid"`
		} `json:"keys"`
	}
	if err := t.get(ctx, said.JWKSURI, &set); err != nil {
		return "", nil, err
	}
	keys = map[string]*ecdsa.PublicKey{}
	for _, k := range set.Keys {
		x, errX := base64.RawURLEncoding.DecodeString(k.X)
		y, errY := base64.RawURLEncoding.DecodeString(k.Y)
		if k.Curve != "P-256" || errX != nil || errY != nil || len(x) != 32 || len(y) != 32 {
			continue // of a kind that function tokens are not signed with
		}
		if key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y)); err == nil {
			keys[k.ID] = key
		}
	}
	if said.Issuer == "" || len(keys) == 0 {
		return "", nil, fmt.Errorf("%s names no issuer, or no keys", t.Gateway)
	}
	return said.Issuer, keys, nil
}

func (t *tokenCheck) get(ctx context.Context, url string, into any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := t.client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s", url, resp.Status)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxKeyDocument)).Decode(into)
}
