package session

import (
	"bytes"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/graphene-faas/graphene/internal/fault"
)

const (
	// maxCookie is the longest value of one cookie, in bytes. Browsers take 4096
	// together with the name and the attributes.
	maxCookie = 3800
	// maxCookies bounds the cookies of one session, which travel with every
	// request: nginx takes headers of up to 8 KiB.
	maxCookies = 2
	// maxOpened bounds what is in a cookie, in bytes.
	maxOpened = 64 << 10
)

// A sealer encrypts what only gateways are to read, and finds out whether it
// was changed.
type sealer struct {
	// secrets returns the keys, of 32 bytes each, the newest first.
	secrets func() ([][]byte, error)
}

func (s sealer) keys() ([]cipher.AEAD, error) {
	secrets, err := s.secrets()
	if err != nil {
		return nil, fmt.Errorf("keys of sessions: %w", err)
	}
	var all []cipher.AEAD
	for _, secret := range secrets {
		block, err := aes.NewCipher(secret)
		if err != nil {
			return nil, fmt.Errorf("key of sessions: %w", err)
		}
		key, err := cipher.NewGCMWithRandomNonce(block)
		if err != nil {
			return nil, fmt.Errorf("key of sessions: %w", err)
		}
		all = append(all, key)
	}
	if len(all) == 0 {
		return nil, errors.New("there is no key of sessions")
	}
	return all, nil
}

// seal returns v, encrypted, as the value of a cookie called name.
func (s sealer) seal(name string, v any) (string, error) {
	keys, err := s.keys()
	if err != nil {
		return "", err
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		return "", err
	}
	if _, err := w.Write(text); err != nil {
		return "", err
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(keys[0].Seal(nil, nil, packed.Bytes(), []byte(name))), nil
}

// errSealed says that a cookie is not one that a gateway made.
var errSealed = fault.Unauthenticated.Errorf("the cookie is not one that was made here, or too old")

// open reads into v what seal was given, or returns errSealed.
func (s sealer) open(name, value string, v any) error {
	keys, err := s.keys()
	if err != nil {
		return err
	}
	sealed, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		return errSealed
	}
	for _, key := range keys {
		packed, err := key.Open(nil, nil, sealed, []byte(name))
		if err != nil {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(packed)), maxOpened))
		if err != nil || json.Unmarshal(text, v) != nil {
			return errSealed
		}
		return nil
	}
	return errSealed
}

// pack writes a JWT so that it can be compressed: base64 hides what repeats.
// Other texts stay as they are.
func pack(token string) packed {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return packed{Text: token}
	}
	var p packed
	for _, part := range parts {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil {
			return packed{Text: token}
		}
		p.Parts = append(p.Parts, raw)
	}
	if p.String() != token {
		return packed{Text: token}
	}
	return p
}

// packed is a token. Header and payload of a JWT are kept as the JSON that
// they are.
type packed struct {
	Text  string   `json:"t,omitempty"`
	Parts [][]byte `json:"-"`
}

// String returns the token.
func (p packed) String() string {
	if len(p.Parts) == 0 {
		return p.Text
	}
	parts := make([]string, len(p.Parts))
	for i, raw := range p.Parts {
		parts[i] = base64.RawURLEncoding.EncodeToString(raw)
	}
	return strings.Join(parts, ".")
}

type packedJSON struct {
	Text      string `json:"t,omitempty"`
	Header    string `json:"h,omitempty"`
	Payload   string `json:"p,omitempty"`
	Signature []byte `json:"s,omitempty"`
}

// MarshalJSON implements [json.Marshaler].
func (p packed) MarshalJSON() ([]byte, error) {
	if len(p.Parts) != 3 {
		return json.Marshal(packedJSON{Text: p.Text})
	}
	j := packedJSON{Header: string(p.Parts[0]), Payload: string(p.Parts[1]), Signature: p.Parts[2]}
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	// What is not UTF-8 would come back as something else.
	var back packed
	if err := back.UnmarshalJSON(text); err != nil || back.String() != p.String() {
		return json.Marshal(packedJSON{Text: p.String()})
	}
	return text, nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (p *packed) UnmarshalJSON(text []byte) error {
	var j packedJSON
	if err := json.Unmarshal(text, &j); err != nil {
		return err
	}
	*p = packed{Text: j.Text}
	if j.Header != "" {
		p.Parts = [][]byte{[]byte(j.Header), []byte(j.Payload), j.Signature}
	}
	return nil
}

// cookieName returns the name of a session's part number i.
func cookieName(name string, i int) string {
	if i == 0 {
		return name
	}
	return name + "." + strconv.Itoa(i)
}

// split cuts a sealed session into the values of cookies.
func split(value string) ([]string, error) {
	var parts []string
	for len(value) > maxCookie {
		parts, value = append(parts, value[:maxCookie]), value[maxCookie:]
	}
	if parts = append(parts, value); len(parts) > maxCookies {
		return nil, fault.TooLarge.Errorf("the issuer's tokens are too large for a browser's cookies: have it put less into them, such as fewer groups")
	}
	return parts, nil
}

// join returns what split cut, as r carries it; "" if there is nothing.
func join(r *http.Request, name string) string {
	var value strings.Builder
	for i := range maxCookies {
		c, err := r.Cookie(cookieName(name, i))
		if err != nil {
			break
		}
		value.WriteString(c.Value)
		if len(c.Value) < maxCookie {
			break
		}
	}
	return value.String()
}
