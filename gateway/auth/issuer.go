package auth

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
)

const (
	defaultSkew = 30 * time.Second
	// keysAge is for how long keys are used before the issuer is asked again.
	keysAge = 5 * time.Minute
	// keysGap is the shortest time between two questions, whatever tokens come.
	keysGap = time.Second
	// keysBackoff bounds the pause between questions that are not answered.
	keysBackoff = time.Minute
	// keysWait is how long a token with an unknown key waits for the issuer.
	keysWait = 4 * time.Second
	// maxKeyless bounds the requests that wait in this way, for one issuer.
	maxKeyless = 1000
	// minRSA is the length of the shortest RSA key that is trusted, in bits.
	minRSA = 2048

	issuerTimeout = 10 * time.Second
	maxDocument   = 1 << 20 // what an issuer says, in bytes
)

// An issuer verifies the tokens of one trusted issuer. Its keys are fetched in
// the background, and kept while the issuer is away.
type issuer struct {
	iam.Issuer
	config oidc.Config
	skew   time.Duration
	client *http.Client
	meter  Meter
	log    *slog.Logger

	keys    atomic.Pointer[keys] // nil until the first were fetched
	jwksURL string               // where they are; "" until that is known. Run's own
	wanted  chan struct{}        // somebody lacks a key
	keyless atomic.Int64         // those who wait for one
	answers atomic.Bool          // it did when it was last asked
	told    bool                 // the keys come from elsewhere, and nobody asks

	mu      sync.Mutex    // guards fetched
	fetched chan struct{} // closed and replaced after each attempt to fetch
}

// keys are an issuer's keys at one time.
type keys struct {
	document []byte // as it was fetched
	all      []jose.JSONWebKey
}

func newIssuer(spec iam.Issuer, o TokensOptions) (*issuer, error) {
	i := newTold(spec, o)
	i.told, i.wanted, i.fetched = false, make(chan struct{}, 1), make(chan struct{})
	transport := o.Transport
	if transport == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		if spec.CAFile != "" {
			pem, err := os.ReadFile(spec.CAFile)
			if err != nil {
				return nil, fault.Invalid.Errorf("issuer %s: %w", spec.Name, err)
			}
			pool := x509.NewCertPool()
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fault.Invalid.Errorf("issuer %s: %s holds no certificates", spec.Name, spec.CAFile)
			}
			t.TLSClientConfig = &tls.Config{RootCAs: pool}
		}
		transport = t
	}
	i.client = &http.Client{Transport: bounded{transport}, Timeout: issuerTimeout}
	return i, nil
}

// newTold returns an issuer whose keys are told by [issuer.tell].
func newTold(spec iam.Issuer, o TokensOptions) *issuer {
	i := &issuer{
		Issuer: spec, skew: defaultSkew, meter: o.Meter, log: o.Log, told: true,
		// Audience and times are checked here: there may be several audiences,
		// and clocks differ.
		config: oidc.Config{SkipClientIDCheck: true, SkipExpiryCheck: true, SupportedSigningAlgs: spec.Algorithms},
	}
	if spec.ClockSkew != nil {
		i.skew = spec.ClockSkew.Std()
	}
	if len(spec.Algorithms) == 0 {
		i.config.SupportedSigningAlgs = iam.Algorithms()
	}
	return i
}

// tell says which keys the issuer has.
func (i *issuer) tell(k *keys) {
	i.keys.Store(k)
	i.answers.Store(true)
}

// run keeps the keys fresh until ctx ends.
func (i *issuer) run(ctx context.Context) {
	defer i.client.CloseIdleConnections()
	backoff := keysGap
	for {
		began := time.Now()
		select {
		case <-i.wanted: // by somebody whom this answers
		default:
		}
		err := i.fetch(ctx)
		if ctx.Err() != nil {
			return
		}
		pause := keysAge - rand.N(keysAge/10)
		i.answers.Store(err == nil)
		if i.meter.Issuer(i.Name, err == nil); err != nil {
			i.log.Warn("the keys of an issuer cannot be fetched", "issuer", i.Name, "have_keys", i.keys.Load() != nil, "again_in", backoff, "err", err)
			pause, backoff = backoff, min(2*backoff, keysBackoff)
		} else {
			backoff = keysGap
		}
		i.mu.Lock()
		close(i.fetched)
		i.fetched = make(chan struct{})
		i.mu.Unlock()
		if !i.sleep(ctx, pause, began.Add(keysGap)) {
			return
		}
	}
}

// sleep returns true after pause, or as soon as somebody lacks a key, but not
// before earliest; false if ctx ends.
func (i *issuer) sleep(ctx context.Context, pause time.Duration, earliest time.Time) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	case <-i.wanted:
	}
	gap := time.NewTimer(time.Until(earliest))
	defer gap.Stop()
	select {
	case <-gap.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// await waits until the issuer was asked for its keys once more, or the time
// for that is up. It reports false if it is.
func (i *issuer) await(ctx context.Context) bool {
	if i.told {
		return false
	}
	if i.keyless.Add(1) > maxKeyless {
		i.keyless.Add(-1)
		return false
	}
	defer i.keyless.Add(-1)
	i.mu.Lock()
	fetched := i.fetched
	i.mu.Unlock()
	select {
	case i.wanted <- struct{}{}:
	default:
	}
	select {
	case <-fetched:
		return true
	case <-ctx.Done():
		return false
	}
}

// fetch asks the issuer for its keys.
func (i *issuer) fetch(ctx context.Context) error {
	document, err := i.document(ctx)
	if err != nil {
		return err
	}
	had := i.keys.Load()
	if had != nil && bytes.Equal(had.document, document) {
		return nil // verified tokens stay verified
	}
	now, err := parseKeys(document)
	if err != nil {
		return err
	}
	i.keys.Store(now)
	i.log.Info("the keys of an issuer were fetched", "issuer", i.Name, "keys", len(now.all))
	return nil
}

// document returns the issuer's keys as it publishes them.
func (i *issuer) document(ctx context.Context) ([]byte, error) {
	if i.JWKSFile != "" {
		return os.ReadFile(i.JWKSFile)
	}
	if i.jwksURL == "" {
		if err := i.discover(ctx); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, i.jwksURL, nil)
	if err != nil {
		return nil, err
	}
	text, err := i.get(req)
	if err != nil {
		i.jwksURL = "" // it may have moved
		return nil, fmt.Errorf("get keys: %w", err)
	}
	return text, nil
}

func (i *issuer) get(req *http.Request) ([]byte, error) {
	resp, err := i.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", req.URL, resp.Status)
	}
	return text, nil
}

// discover finds out where the issuer's keys are.
func (i *issuer) discover(ctx context.Context) error {
	ctx = oidc.ClientContext(ctx, i.client)
	at := i.Iss
	if i.IssInternal != "" {
		ctx, at = oidc.InsecureIssuerURLContext(ctx, i.Iss), i.IssInternal
	}
	provider, err := oidc.NewProvider(ctx, at)
	if err != nil {
		return err
	}
	var said struct {
		JWKSURL string `json:"jwks_uri"`
	}
	if err := provider.Claims(&said); err != nil {
		return err
	}
	if said.JWKSURL == "" {
		return errors.New("the issuer does not say where its keys are")
	}
	i.jwksURL = said.JWKSURL
	if rest, ok := strings.CutPrefix(said.JWKSURL, i.Iss); ok && i.IssInternal != "" {
		i.jwksURL = i.IssInternal + rest // who is asked inside is asked inside for everything
	}
	return nil
}

// parseKeys reads a JWKS. Keys of unknown kinds are left out, as are those that
// are for something else than signatures, and weak ones.
func parseKeys(document []byte) (*keys, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(document, &set); err != nil {
		return nil, fmt.Errorf("read keys: %w", err)
	}
	k := &keys{document: document}
	for _, text := range set.Keys {
		var key jose.JSONWebKey
		if key.UnmarshalJSON(text) != nil || !key.Valid() || key.Use != "" && key.Use != "sig" {
			continue
		}
		if !key.IsPublic() {
			continue // a secret cannot verify what only its owner may sign
		}
		if rsaKey, ok := key.Key.(*rsa.PublicKey); ok && rsaKey.N.BitLen() < minRSA {
			continue
		}
		k.all = append(k.all, key)
	}
	if len(k.all) == 0 {
		return nil, errors.New("read keys: there is none that signatures can be verified with")
	}
	return k, nil
}

// verify returns the payload of jws if one of the keys signed it. known
// reports whether jws names a key that is among them.
func (k *keys) verify(jws *jose.JSONWebSignature) (payload []byte, known bool) {
	if k == nil {
		return nil, false
	}
	header := jws.Signatures[0].Header
	for i := range k.all {
		key := &k.all[i]
		if header.KeyID != "" && key.KeyID != header.KeyID {
			continue
		}
		known = known || header.KeyID != ""
		if key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := jws.Verify(key.Key); err == nil {
			return payload, true
		}
	}
	return nil, known
}

// A verification is the verification of one token. It is the key set that
// package oidc asks, for whose errors it has no types.
type verification struct {
	*issuer
	keys    *keys // that were used
	payload []byte
	err     error
}

// VerifySignature implements [oidc.KeySet].
func (v *verification) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	allowed := make([]jose.SignatureAlgorithm, len(v.config.SupportedSigningAlgs))
	for i, a := range v.config.SupportedSigningAlgs {
		allowed[i] = jose.SignatureAlgorithm(a)
	}
	jws, err := jose.ParseSigned(raw, allowed)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errMalformed // unreachable: package oidc has parsed it
	}
	ctx, cancel := context.WithTimeout(ctx, keysWait)
	defer cancel()
	// Twice, as the first answer may have been on its way already when the key
	// was made.
	for again := 2; ; again-- {
		v.keys = v.issuer.keys.Load()
		payload, known := v.keys.verify(jws)
		switch {
		case payload != nil:
			v.payload = payload
			return payload, nil
		case known:
			v.err = fault.Unauthenticated.Errorf("the token's signature is wrong")
		case again > 0 && v.await(ctx):
			continue
		case !v.answers.Load():
			v.err = fault.Unavailable.Errorf("the token's key is not known, and issuer %s does not answer", v.Name)
		default:
			v.err = fault.Unauthenticated.Errorf("the token is signed with a key that its issuer does not have")
		}
		return nil, v.err
	}
}

var errMalformed = fault.Unauthenticated.Errorf("the token is malformed")

// verify returns the claims of a token that this issuer made for this
// platform, and the keys that proved it. Errors are fault.Unauthenticated, or
// fault.Unavailable if it cannot be known.
func (i *issuer) verify(ctx context.Context, raw string, now time.Time) (iam.Claims, *keys, error) {
	v := &verification{issuer: i}
	token, err := oidc.NewVerifier(i.Iss, v, &i.config).Verify(ctx, raw)
	if err != nil {
		if v.err != nil {
			return nil, nil, v.err
		}
		i.log.Debug("a token was refused", "issuer", i.Name, "err", err)
		return nil, nil, fault.Unauthenticated.Errorf("the token is malformed, or signed in a way that is not allowed")
	}
	claims, err := iam.ParseClaims(v.payload)
	if err != nil {
		return nil, nil, errMalformed
	}
	return claims, v.keys, i.check(token, claims, now)
}

// maxSubject is the longest subject there may be, by OpenID Connect.
const maxSubject = 255

// check checks everything about a token but its signature.
func (i *issuer) check(token *oidc.IDToken, claims iam.Claims, now time.Time) error {
	if _, ok := claims["events"]; ok {
		return fault.Unauthenticated.Errorf("the token tells of an event, such as a logout, and is no proof of who sends it")
	}
	if token.Subject == "" || len(token.Subject) > maxSubject {
		return fault.Unauthenticated.Errorf("the token does not say whose it is")
	}
	if !slices.ContainsFunc(token.Audience, func(a string) bool { return slices.Contains(i.Aud, a) }) {
		return fault.Unauthenticated.Errorf("the token is not meant for this platform: its audience is another")
	}
	if len(i.Azp) > 0 {
		// Which client a token was made for is said by azp, and by issuers that
		// do not know that claim in one of these.
		client := claims.Text("azp")
		for _, other := range []string{"client_id", "appid"} {
			if client == "" {
				client = claims.Text(other)
			}
		}
		if !slices.Contains(i.Azp, client) {
			return fault.Unauthenticated.Errorf("the token was made for a client that is not trusted here")
		}
	}
	if now.After(token.Expiry.Add(i.skew)) { // a token without an end has expired in the year 1
		return fault.Unauthenticated.Errorf("the token has expired")
	}
	for _, name := range []string{"nbf", "iat"} {
		at, ok := claims[name]
		if !ok {
			continue
		}
		seconds, err := number(at)
		if err != nil {
			return errMalformed
		}
		if now.Add(i.skew).Before(time.Unix(seconds, 0)) {
			return fault.Unauthenticated.Errorf("the token is not valid yet")
		}
	}
	return nil
}

// number reads a time of a token, in seconds since 1970. Parts of a second do
// not count.
func number(v any) (int64, error) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, errMalformed
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f > 1<<40 {
		return 0, errMalformed
	}
	return int64(f), nil
}

// bounded cuts off answers that are too long to be meant seriously.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(resp.Body, maxDocument), resp.Body}
	}
	return resp, err
}

// CloseIdleConnections is what [http.Client.CloseIdleConnections] looks for.
func (b bounded) CloseIdleConnections() {
	if c, ok := b.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
