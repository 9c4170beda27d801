package auth

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/signkey"
)

// signingPoll is how often the file of signing keys is looked at.
const signingPoll = time.Second

// SigningKeysOptions are what [SigningKeys] need.
type SigningKeysOptions struct {
	// File holds the keys, and is read again when it changes. Whoever else
	// rotates it in this process does so by the same value.
	File *signkey.File
	// MaxAge has the file made if there is none, and a new key when the first
	// is older, where the program owns the file; 0 leaves the file to others.
	MaxAge time.Duration
	Log    *slog.Logger // nil logs nothing
}

// SigningKeys sign what the platform itself vouches for, by the keys in a
// file. All gateways of a platform have the same.
//
// A key that is new signs only after [signkey.Delay], and one that has left the
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
	signkey.Key
	signs time.Time // from then on
	until time.Time // of a retired key: when it is forgotten
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
	text, err := os.ReadFile(o.File.Path)
	if err != nil {
		return nil, fault.Invalid.Errorf("read the signing keys: %w", err)
	}
	r, err := nextRing(text, nil, time.Now())
	if err != nil {
		return nil, fault.Invalid.Errorf("%s: %w", o.File.Path, err)
	}
	k.ring.Store(r)
	return k, nil
}

// ensureSigningKeys makes a file with one key unless there is one. Only its
// owner can read it.
func ensureSigningKeys(file *signkey.File) error {
	if _, err := os.Stat(file.Path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err := file.Rotate(time.Now())
	return err
}

// nextRing returns the ring that a file means, after had.
func nextRing(text []byte, had *ring, now time.Time) (*ring, error) {
	parsed, err := signkey.Parse(text)
	if err != nil {
		return nil, err
	}
	r := &ring{text: text}
	for _, k := range parsed {
		r.inFile = append(r.inFile, signingKey{Key: k})
	}
	if had != nil {
		before := slices.Concat(had.inFile, had.retired)
		for i := range r.inFile {
			k := &r.inFile[i]
			k.signs = now.Add(signkey.Delay)
			if j := slices.IndexFunc(before, func(o signingKey) bool { return o.ID == k.ID }); j >= 0 {
				k.signs = before[j].signs
			}
		}
		for _, k := range before {
			if slices.ContainsFunc(r.inFile, func(o signingKey) bool { return o.ID == k.ID }) {
				continue
			}
			if k.until.IsZero() {
				k.until = now.Add(signkey.Delay + signkey.Keep)
			}
			if now.Before(k.until) {
				r.retired = append(r.retired, k)
			}
		}
	}
	var set jose.JSONWebKeySet
	for _, k := range slices.Concat(r.inFile, r.retired) {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Private.Public(), KeyID: k.ID, Algorithm: string(jose.ES256), Use: "sig"})
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
			text, err := os.ReadFile(k.o.File.Path)
			if err == nil && (bytes.Equal(text, had.text) || bytes.Equal(text, wrong)) {
				continue
			}
			var r *ring
			if err == nil {
				r, err = nextRing(text, had, now)
			}
			if err != nil {
				if wrong == nil || !bytes.Equal(text, wrong) {
					k.o.Log.Error("the signing keys are wrong; those from before stay in force", "file", k.o.File.Path, "err", err)
				}
				wrong = append([]byte{}, text...)
				continue
			}
			wrong = nil
			k.set(r)
			k.o.Log.Info("signing keys have changed", "file", k.o.File.Path, "keys", len(r.inFile), "retired", len(r.retired), "signs_from", r.inFile[0].signs)
		}
	}
}

func (k *SigningKeys) rotateOld(now time.Time) {
	created := k.ring.Load().inFile[0].Created
	if k.o.MaxAge == 0 || created.IsZero() || now.Before(created.Add(k.o.MaxAge)) {
		return
	}
	if _, err := k.o.File.Rotate(now); err != nil {
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

// A SigningKey is what everybody may know of a key, and how it is used.
type SigningKey struct {
	ID      string     `json:"id"`
	Created *time.Time `json:"created,omitempty"` // nil: unknown
	// State is "signs", "next" of one that will, and "verifies" of one that did.
	State string     `json:"state"`
	Signs *time.Time `json:"signs,omitempty"` // of the next: from then on
	Until *time.Time `json:"until,omitempty"` // of one that has left the file: when it is forgotten
}

// List returns the keys as they are at a time, the newest first.
func (k *SigningKeys) List(now time.Time) []SigningKey {
	r := k.ring.Load()
	signer := r.signer(now).ID
	state := "next"
	var all []SigningKey
	for _, key := range slices.Concat(r.inFile, r.retired) {
		s := SigningKey{ID: key.ID, State: state}
		if key.ID == signer {
			s.State, state = "signs", "verifies"
		}
		if !key.Created.IsZero() {
			s.Created = &key.Created
		}
		if s.State == "next" {
			s.Signs = &key.signs
		}
		if !key.until.IsZero() {
			s.Until = &key.until
		}
		all = append(all, s)
	}
	return all
}

// sign returns a token with these claims.
func (k *SigningKeys) sign(claims map[string]any, now time.Time) (string, error) {
	key := k.ring.Load().signer(now)
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key.Private, KeyID: key.ID}}, (&jose.SignerOptions{}).WithType("JWT"))
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
		if other.ID != first.ID {
			all = append(all, other)
		}
	}
	var secrets [][]byte
	for _, key := range all {
		private, err := key.Private.Bytes()
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
