package openid

import (
	"bytes"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
)

// Claims are what a token says of its bearer that everybody understands alike.
type Claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience audience `json:"aud"`
	Expiry   seconds  `json:"exp"`
	Nonce    string   `json:"nonce"`

	Name     string   `json:"name"`
	Username string   `json:"preferred_username"`
	Email    string   `json:"email"`
	Groups   audience `json:"groups"` // one text or several, too
}

// Read returns the claims of a token, which it does not verify: it is for
// those who got the token from its issuer, or have verified it. Errors are
// fault.Invalid.
func Read(raw string) (Claims, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return Claims{}, fault.Invalid.Errorf("the token is not a JWT")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return Claims{}, fault.Invalid.Errorf("the token is malformed")
	}
	var c Claims
	if err := json.Unmarshal(text, &c); err != nil {
		return Claims{}, fault.Invalid.Errorf("the token is malformed")
	}
	return c, nil
}

// Who returns the name by which people know the bearer.
func (c Claims) Who() string {
	for _, name := range []string{c.Username, c.Email, c.Name} {
		if name != "" {
			return name
		}
	}
	return c.Subject
}

// audience is a list of texts that is written as a single text if it has one.
// Elements of other kinds are left out.
type audience []string

// UnmarshalJSON implements [json.Unmarshaler].
func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audience{one}
		return nil
	}
	var all []any
	if err := json.Unmarshal(text, &all); err != nil {
		*a = nil // something else, such as Entra's overage of groups
		return nil
	}
	*a = nil
	for _, v := range all {
		if s, ok := v.(string); ok {
			*a = append(*a, s)
		}
	}
	return nil
}

// seconds is a time in seconds since 1970, of which parts do not count.
type seconds int64

// UnmarshalJSON implements [json.Unmarshaler].
func (s *seconds) UnmarshalJSON(text []byte) error {
	var f float64
	if err := json.Unmarshal(bytes.TrimSpace(text), &f); err != nil {
		return err
	}
	if f < 0 || f > 1<<40 {
		return fault.Invalid.Errorf("%s is no time", text)
	}
	*s = seconds(f)
	return nil
}

// Time returns the time; zero if there is none.
func (s seconds) Time() time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(int64(s), 0)
}

// equal compares secrets.
func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }
