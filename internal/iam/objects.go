package iam

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
)

// Kinds of what the provider tells gateways about identity. Each object has a
// name that is unique in its kind.
const (
	KindIssuer = "JwtIssuer" // an [Issuer]
	KindPolicy = "Policy"    // a [Policy]
	KindRole   = "Role"      // a [Role]
	KindKeySet = "KeySet"    // the JSON Web Key Set of the issuer that its name is the iss of
	KindAPIKey = "APIKey"    // an [APIKey], by its ID
)

// An APIKey is what is kept of a key by which a program is known that has no
// issuer. The key itself is not among it.
type APIKey struct {
	ID   string `json:"id"`             // part of the key, and no secret
	Name string `json:"name,omitempty"` // what it is for, for people
	Hash string `json:"hash,omitempty"` // SHA-256 of the key, in hexadecimal
	// Action and Resource say what it is good for, as in a [Statement].
	Action    List       `json:"action"`
	Resource  List       `json:"resource"`
	Created   time.Time  `json:"created"`
	CreatedBy string     `json:"created_by,omitempty"`
	Expires   *time.Time `json:"expires,omitempty"` // nil is never
	// LastUsed is when a gateway saw it last, where that is known.
	LastUsed *time.Time `json:"last_used,omitempty"`
}

// APIKeyPrefix begins every API key, for those who look for leaked ones. The ID
// follows, and then, after "_", the secret.
const APIKeyPrefix = "gpk_"

// maxKeyName is the longest name of an API key, in bytes.
const maxKeyName = 200

// Statement returns what the key is good for.
func (k *APIKey) Statement() Statement {
	return Statement{Sid: k.ID, Effect: "Allow", Action: k.Action, Resource: k.Resource}
}

// Check returns fault.Invalid with everything that is wrong with what the key
// is for.
func (k *APIKey) Check() error {
	s := k.Statement()
	problems := s.Check()
	if len(k.Name) > maxKeyName {
		problems = append(problems, fmt.Sprintf("name has %d bytes, want at most %d", len(k.Name), maxKeyName))
	}
	if k.Expires != nil && !k.Expires.After(k.Created) {
		problems = append(problems, "expires is in the past")
	}
	if len(problems) == 0 {
		return nil
	}
	return fault.Invalid.Errorf("%s", strings.Join(problems, "; "))
}

// ReadObject reads the content of an object of one of the kinds, as an *Issuer,
// *Policy, *Role or *APIKey, and checks it. Errors are fault.Invalid.
func ReadObject(kind, name string, content json.RawMessage) (any, error) {
	var v any
	var problems []string
	read := func(into any, check func() []string) {
		v = into
		if err := json.Unmarshal(content, into); err != nil {
			problems = []string{err.Error()}
			return
		}
		problems = check()
	}
	switch kind {
	case KindIssuer:
		i := new(Issuer)
		read(i, func() []string { i.Name = name; return i.Check() })
	case KindPolicy:
		p := new(Policy)
		read(p, p.Check)
		p.Name = name
	case KindRole:
		r := new(Role)
		read(r, r.Check)
		r.Name = name
	case KindAPIKey:
		k := new(APIKey)
		read(k, func() []string { return nil })
		k.ID = name
	default:
		return nil, fault.Invalid.Errorf("there is no kind %q", kind)
	}
	if len(problems) > 0 {
		return nil, fault.Invalid.Errorf("%s", strings.Join(problems, "; "))
	}
	return v, nil
}
