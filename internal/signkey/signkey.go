// Package signkey is the file of keys by which a platform signs its own tokens:
// elliptic ones on the curve P-256, in PEM. The first signs, the others only
// verify.
//
// Gateways read it, with [Parse], and whoever keeps it puts a new key into it
// from time to time, with [Rotate]. A key says in the header Created when it was
// made.
package signkey

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/graphene-faas/graphene/internal/atomicfile"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
)

// Delay is how long a key is published before it signs: as long as it may take
// until everybody who verifies has seen it.
const Delay = 2 * time.Minute

// Keep is how long tokens may be good that a key has signed last, with what
// clocks may differ.
const Keep = iam.MaxExpiry + time.Minute

const (
	// maxText is the longest file, in bytes.
	maxText = 64 << 10

	pemSEC1, pemPKCS8, pemParameters = "EC PRIVATE KEY", "PRIVATE KEY", "EC PARAMETERS"
	// pemCreated is the header of a key that says when it was made.
	pemCreated = "Created"
)

// A Key is one of a file.
type Key struct {
	ID      string // the thumbprint of RFC 7638, so that everybody gives it the same name
	Private *ecdsa.PrivateKey
	Created time.Time // zero: unknown
}

// Parse reads a file of keys. There is at least one if it returns no error.
func Parse(text []byte) ([]Key, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", len(text), maxText)
	}
	var all []Key
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
		k := Key{Private: private}
		if k.ID, err = thumbprint(&private.PublicKey); err != nil {
			return nil, err
		}
		if at := block.Headers[pemCreated]; at != "" {
			if k.Created, err = time.Parse(time.RFC3339, at); err != nil {
				return nil, fmt.Errorf("a key says that it was created %q, want a time as in RFC 3339", at)
			}
		}
		if !slices.ContainsFunc(all, func(o Key) bool { return o.ID == k.ID }) {
			all = append(all, k)
		}
	}
	if len(bytes.TrimSpace(text)) > 0 || len(all) == 0 {
		return nil, errors.New("it must hold keys in PEM, and nothing else")
	}
	return all, nil
}

func thumbprint(public *ecdsa.PublicKey) (string, error) {
	point, err := public.Bytes() // 4, then both coordinates
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, b64(point[1:33]), b64(point[33:])))
	return b64(sum[:]), nil
}

// Rotate returns the file that follows text, which is empty for the first: a
// new key before those that were in it, without those that have signed nothing
// for longer than [Keep], and the ID of the new one. Errors are fault.Invalid, and
// fault.Exists while the key of the rotation before does not sign yet.
func Rotate(text []byte, now time.Time) (next []byte, id string, err error) {
	var had []Key
	if len(text) > 0 {
		if had, err = Parse(text); err != nil {
			return nil, "", fault.Invalid.Errorf("the signing keys are wrong: %w", err)
		}
	}
	if len(had) > 1 && now.Before(had[0].Created.Add(Delay)) {
		return nil, "", fault.Exists.Errorf("there is a new signing key already, which signs from %s on", had[0].Created.Add(Delay).UTC().Format(time.RFC3339))
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, "", err
	}
	if id, err = thumbprint(&private.PublicKey); err != nil {
		return nil, "", err
	}
	all := []Key{{ID: id, Private: private, Created: now}}
	for _, k := range had {
		if newer := all[len(all)-1].Created; !newer.IsZero() && now.After(newer.Add(Delay+Keep)) {
			break // this one, and all that are older, have not signed since
		}
		all = append(all, k)
	}
	var out bytes.Buffer
	for _, k := range all {
		der, err := x509.MarshalECPrivateKey(k.Private)
		if err != nil {
			return nil, "", err
		}
		block := &pem.Block{Type: pemSEC1, Bytes: der}
		if !k.Created.IsZero() {
			block.Headers = map[string]string{pemCreated: k.Created.UTC().Format(time.RFC3339)}
		}
		if err := pem.Encode(&out, block); err != nil {
			return nil, "", err
		}
	}
	if out.Len() > maxText {
		return nil, "", fault.Invalid.Errorf("there are %d signing keys already, whose tokens may still be good", len(had))
	}
	return out.Bytes(), id, nil
}

// A File is where one program keeps its keys. It is safe for concurrent use.
type File struct {
	Path string

	mu sync.Mutex // held while the file changes
}

// Rotate puts a new key first, and returns its ID. It makes the file if there is
// none; only its owner can read it.
func (f *File) Rotate(now time.Time) (id string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text, err := os.ReadFile(f.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read the signing keys: %w", err)
	}
	text, id, err = Rotate(text, now)
	if err != nil {
		return "", err
	}
	if err := atomicfile.Write(f.Path, text, 0o600); err != nil {
		return "", fmt.Errorf("write the signing keys: %w", err)
	}
	return id, nil
}

// RotateSigningKeys implements package provider's SigningKeys.
func (f *File) RotateSigningKeys(context.Context) (id string, err error) { return f.Rotate(time.Now()) }
