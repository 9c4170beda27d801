package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
)

const (
	// keyDelay is how long a key is published before it signs: as long as it
	// may take until everybody who verifies has seen it.
	keyDelay = 2 * time.Minute
	// signingPoll is how often the file of signing keys is looked at.
	signingPoll = time.Second
	// maxSigningKeys is the longest file of signing keys, in bytes.
	maxSigningKeys = 64 << 10

	pemSEC1, pemPKCS8, pemParameters = "EC PRIVATE KEY", "PRIVATE KEY", "EC PARAMETERS"
	// pemCreated is the header of a key that says when it was made.
	pemCreated = "Created"
)

// SigningKeysOptions are what [SigningKeys] need.
type SigningKeysOptions struct {
	// File holds the keys: elliptic ones on the curve P-256, in PEM. The first
	// signs, the others only verify. It is read again when it changes.
	File string
	// MaxAge has the file made if there is none, and a new key when the first
	// is older, where the program owns the file; 0 leaves the file to others.
	MaxAge time.Duration
	Log    *slog.Logger // nil logs nothing
}

// SigningKeys sign what the platform itself vouches for, by the keys in a
// file. All gateways of a platform have the same.
//
// A key that is new signs only after [keyDelay], and one that has left the
// file goes on verifying until everything it has signed has expired, or this
// process ends. It is safe for concurrent use.
type SigningKeys struct {
	o    SigningKeysOptions
	ring atomic.Pointer[ring]

	mu     sync.Mutex // guards what follows
	shared []func(*keys)
}

// A ring is the keys at one time. It is replaced, never changed.
type ring struct {
	text    []byte // of the file
	inFile  []signingKey
	retired []signingKey // that have left the file, the latest first
	public  *keys
	jwks    []byte // what everybody may know of them
}

type signingKey struct {
	id      string // the thumbprint of RFC 7638, so that everybody gives it the same name
	private *ecdsa.PrivateKey
	created time.Time // zero: unknown
	signs   time.Time // from then on
	until   time.Time // of a retired key: when it is forgotten
}

// OpenSigningKeys reads the keys. Errors are fault.Invalid. Keep
// [SigningKeys.Run] running, so that changes are seen.
func OpenSigningKeys(o SigningKeysOptions) (*SigningKeys, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	k := &SigningKeys{o: o}
	if o.MaxAge > 0 {
		if err := ensureSigningKeys(o.File); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile(o.File)
	if err != nil {
		return nil, fault.Invalid.Errorf("read the signing keys: %w", err)
	}
	r, err := nextRing(text, nil, time.Now())
	if err != nil {
		return nil, fault.Invalid.Errorf("%s: %w", o.File, err)
	}
	k.ring.Store(r)
	return k, nil
}

// ensureSigningKeys makes a file with one key unless there is one. Only its
// owner can read it.
func ensureSigningKeys(file string) error {
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return RotateSigningKeys(file, time.Now())
}

// RotateSigningKeys puts a new key before those in file, which it makes if
// there is none, and takes out those whose last token has expired. Gateways
// that watch the file publish the new key at once and sign with it two minutes
// later.
func RotateSigningKeys(file string, now time.Time) error {
	var had []signingKey
	text, err := os.ReadFile(file)
	switch {
	case err == nil:
		if had, err = parseSigningKeys(text); err != nil {
			return fault.Invalid.Errorf("%s: %w", file, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read the signing keys: %w", err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	all := []signingKey{{private: private, created: now}}
	for _, k := range had {
		if newer := all[len(all)-1].created; !newer.IsZero() && now.After(newer.Add(keyDelay+iam.MaxExpiry+defaultSkew)) {
			break // this one, and all that are older, have not signed since
		}
		all = append(all, k)
	}
	var out bytes.Buffer
	for _, k := range all {
		der, err := x509.MarshalECPrivateKey(k.private)
		if err != nil {
			return err
		}
		block := &pem.Block{Type: pemSEC1, Bytes: der}
		if !k.created.IsZero() {
			block.Headers = map[string]string{pemCreated: k.created.UTC().Format(time.RFC3339)}
		}
		if err := pem.Encode(&out, block); err != nil {
			return err
		}
	}
	if err := replaceFile(file, out.Bytes()); err != nil {
		return fmt.Errorf("write the signing keys: %w", err)
	}
	return nil
}

// replaceFile writes a file that only its owner can read, as a whole or not at
// all.
func replaceFile(path string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // made with mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// parseSigningKeys reads a file of keys.
func parseSigningKeys(text []byte) ([]signingKey, error) {
	if len(text) > maxSigningKeys {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", len(text), maxSigningKeys)
	}
	var all []signingKey
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		var parsed crypto.PrivateKey
		var err error
		switch block.Type {
		case pemParameters: // openssl writes the curve's name before the key
			continue
		case pemSEC1:
			parsed, err = x509.ParseECPrivateKey(block.Bytes)
		case pemPKCS8:
			parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		default:
			return nil, fmt.Errorf("it holds a %q, want %s", block.Type, pemSEC1)
		}
		private, ok := parsed.(*ecdsa.PrivateKey)
		if err != nil || !ok || private.Curve != elliptic.P256() {
			return nil, errors.New("it holds a key that is not an elliptic one on the curve P-256; make one with: openssl ecparam -genkey -name prime256v1 -noout")
		}
		k := signingKey{private: private}
		if k.id, err = thumbprint(private); err != nil {
			return nil, err
		}
		if at := block.Headers[pemCreated]; at != "" {
			if k.created, err = time.Parse(time.RFC3339, at); err != nil {
				return nil, fmt.Errorf("a key says that it was created %q, want a time as in RFC 3339", at)
			}
		}
		if !slices.ContainsFunc(all, func(o signingKey) bool { return o.id == k.id }) {
			all = append(all, k)
		}
	}
	if len(bytes.TrimSpace(text)) > 0 || len(all) == 0 {
		return nil, errors.New("it must hold keys in PEM, and nothing else")
	}
	return all, nil
}

func thumbprint(private *ecdsa.PrivateKey) (string, error) {
	sum, err := (&jose.JSONWebKey{Key: private.Public()}).Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// nextRing returns the ring that a file means, after had.
func nextRing(text []byte, had *ring, now time.Time) (*ring, error) {
	inFile, err := parseSigningKeys(text)
	if err != nil {
		return nil, err
	}
	r := &ring{text: text, inFile: inFile}
	if had != nil {
		before := slices.Concat(had.inFile, had.retired)
		for i := range r.inFile {
			k := &r.inFile[i]
			k.signs = now.Add(keyDelay)
			if j := slices.IndexFunc(before, func(o signingKey) bool { return o.id == k.id }); j >= 0 {
				k.signs = before[j].signs
			}
		}
		for _, k := range before {
			if slices.ContainsFunc(r.inFile, func(o signingKey) bool { return o.id == k.id }) {
				continue
			}
			if k.until.IsZero() {
				k.until = now.Add(keyDelay + iam.MaxExpiry + defaultSkew)
			}
			if now.Before(k.until) {
				r.retired = append(r.retired, k)
			}
		}
	}
	var set jose.JSONWebKeySet
	for _, k := range slices.Concat(r.inFile, r.retired) {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.private.Public(), KeyID: k.id, Algorithm: string(jose.ES256), Use: "sig"})
	}
	if r.jwks, err = json.Marshal(set); err != nil {
		return nil, err
	}
	r.public, err = parseKeys(r.jwks)
	return r, err
}

// signer returns the key that signs at a time: the first that everybody knows.
func (r *ring) signer(now time.Time) *signingKey {
	all := slices.Concat(r.inFile, r.retired)
	for i := range all {
		if !now.Before(all[i].signs) {
			return &all[i]
		}
	}
	return &all[0]
}

// Run follows changes of the file, and has a new key made when the first has
// become too old, until ctx ends; then it returns nil. A file that is wrong
// changes nothing but the log.
func (k *SigningKeys) Run(ctx context.Context) error {
	tick := time.NewTicker(signingPoll)
	defer tick.Stop()
	var wrong []byte // the text that was complained about
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			k.rotateOld(now)
			had := k.ring.Load()
			text, err := os.ReadFile(k.o.File)
			if err == nil && (bytes.Equal(text, had.text) || bytes.Equal(text, wrong)) {
				continue
			}
			var r *ring
			if err == nil {
				r, err = nextRing(text, had, now)
			}
			if err != nil {
				if wrong == nil || !bytes.Equal(text, wrong) {
					k.o.Log.Error("the signing keys are wrong; those from before stay in force", "file", k.o.File, "err", err)
				}
				wrong = append([]byte{}, text...)
				continue
			}
			wrong = nil
			k.set(r)
			k.o.Log.Info("signing keys have changed", "file", k.o.File, "keys", len(r.inFile), "retired", len(r.retired), "signs_from", r.inFile[0].signs)
		}
	}
}

func (k *SigningKeys) rotateOld(now time.Time) {
	created := k.ring.Load().inFile[0].created
	if k.o.MaxAge == 0 || created.IsZero() || now.Before(created.Add(k.o.MaxAge)) {
		return
	}
	if err := RotateSigningKeys(k.o.File, now); err != nil {
		k.o.Log.Error("no new signing key could be made; the old one goes on", "err", err)
	}
}

func (k *SigningKeys) set(r *ring) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ring.Store(r)
	for _, tell := range k.shared {
		tell(r.public)
	}
}

// follow tells of the public keys there are, now and whenever they change.
func (k *SigningKeys) follow(tell func(*keys)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.shared = append(k.shared, tell)
	tell(k.ring.Load().public)
}

// JWKS returns what everybody may know of the keys, as a JSON Web Key Set. It
// is not to be changed.
func (k *SigningKeys) JWKS() []byte { return k.ring.Load().jwks }

// sign returns a token with these claims.
func (k *SigningKeys) sign(claims map[string]any, now time.Time) (string, error) {
	key := k.ring.Load().signer(now)
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key.private, KeyID: key.id}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return signed.CompactSerialize()
}

// Secrets returns a secret of 32 bytes for each key, that of the one that
// signs first, for what label names. Gateways with the same keys have the
// same, and nothing follows from one about the keys or about another label.
func (k *SigningKeys) Secrets(label string) ([][]byte, error) {
	r := k.ring.Load()
	first := r.signer(time.Now())
	all := []signingKey{*first}
	for _, other := range slices.Concat(r.inFile, r.retired) {
		if other.id != first.id {
			all = append(all, other)
		}
	}
	var secrets [][]byte
	for _, key := range all {
		private, err := key.private.Bytes()
		if err != nil {
			return nil, err
		}
		secret, err := hkdf.Key(sha256.New, private, nil, label, sha256.Size)
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, secret)
	}
	return secrets, nil
}
