package auth

import (
	"crypto/rand"
	"slices"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
)

// The claims of the platform's own tokens, as OpenFaaS names them.
const (
	ownIssuer = "graphene" // in logs and metrics

	claimFederated = "fed:"     // begins the name of whom another issuer vouched for, in sub
	claimFedIss    = "fed:iss"  // that issuer
	claimFedAud    = "fed:aud"  // whom its token was for
	claimPolicy    = "policy"   // names of the policies the caller had
	claimFunction  = "function" // of a function token: what it is good for

	// maxFunctionExpiry bounds the life of function tokens: the function that
	// gets one verifies it alone, so that nothing else ends it.
	maxFunctionExpiry = iam.DefaultExpiry

	// MaxAudience is how many functions one token can be for.
	MaxAudience = 100
)

// An Issued token is one that the platform has made.
type Issued struct {
	Token   string
	Expires time.Duration // from now
}

// APIToken makes a token by which the bearer of another issuer's token is known
// to this platform alone. It carries the claims of that token and the names of
// the policies that follow from them, and is never good for more than both the
// policies in it and those that the rules give its bearer at the time. Errors
// are fault.Invalid.
func (t *Tokens) APIToken(c Caller, now time.Time) (Issued, error) {
	if t.own == nil || c.known == nil || c.known.expiry == 0 {
		return Issued{}, fault.Invalid.Errorf("%s needs no other token: only those of issuers are exchanged", c.Subject)
	}
	if len(c.known.rights.Policies) == 0 {
		return Issued{}, fault.Invalid.Errorf("No policies found for subject: %s", c.Subject) // as OpenFaaS says it
	}
	claims := map[string]any{}
	for name, value := range c.known.claims {
		// What was said about the other token itself is not true of this one.
		if !slices.Contains([]string{"nbf", "jti", "nonce", "azp", "at_hash", "c_hash", claimFunction}, name) && !strings.HasPrefix(name, claimFederated) {
			claims[name] = value
		}
	}
	claims[claimFedIss], claims[claimFedAud] = c.known.claims["iss"], c.known.claims["aud"]
	claims[claimPolicy] = c.known.rights.Policies
	return t.issue(c, claims, c.known.expiry, now)
}

// FunctionToken makes a token by which c may call some functions, and nothing
// else. Whether c may has been decided. Errors are fault.Invalid.
func (t *Tokens) FunctionToken(c Caller, functions []function.Ref, now time.Time) (Issued, error) {
	if t.own == nil || len(functions) == 0 || len(functions) > MaxAudience {
		return Issued{}, fault.Invalid.Errorf("a function token is for 1 to %d functions", MaxAudience)
	}
	audience := make([]string, len(functions))
	for i, f := range functions {
		audience[i] = f.Namespace + ":" + f.Name
	}
	claims := map[string]any{claimFunction: map[string]any{"permissions": []string{string(iam.FunctionInvoke)}, "audience": audience}}
	expiry := maxFunctionExpiry
	if c.known != nil {
		claims[claimFedIss] = c.known.claims["iss"]
		if c.known.expiry > 0 {
			expiry = min(expiry, c.known.expiry)
		}
	}
	return t.issue(c, claims, expiry, now)
}

// issue signs a token for c with these claims and those that every token has.
func (t *Tokens) issue(c Caller, claims map[string]any, expiry time.Duration, now time.Time) (Issued, error) {
	if c.known != nil && !c.known.until.IsZero() {
		// Who shows a token of ours gets none that lives longer: otherwise the
		// first would be good for ever.
		if expiry = min(expiry, c.known.until.Sub(now).Truncate(time.Second)); expiry <= 0 {
			return Issued{}, fault.Invalid.Errorf("the token has expired")
		}
	}
	claims["iss"], claims["aud"], claims["sub"] = t.o.URL, t.o.URL, claimFederated+c.Subject
	claims["iat"], claims["exp"], claims["jti"] = now.Unix(), now.Add(expiry).Unix(), rand.Text()
	token, err := t.o.Keys.sign(claims, now)
	if err != nil {
		return Issued{}, err
	}
	if len(token) > maxToken {
		return Issued{}, fault.Invalid.Errorf("the token would have %d bytes, and at most %d are taken: have the issuer put less into its tokens", len(token), maxToken)
	}
	return Issued{Token: token, Expires: expiry}, nil
}

// OnlyCalls reports whether c is known by a token that is good for calls of
// functions alone. Functions get to see it, so it must not open other doors.
func (c Caller) OnlyCalls() bool { return c.Issuer == ownIssuer }

// ownCaller returns the bearer of one of the platform's own tokens.
func (s *state) ownCaller(claims iam.Claims, expires time.Time) (Caller, error) {
	subject, federated := strings.CutPrefix(claims.Text("sub"), claimFederated)
	if !federated {
		return Caller{}, errMalformed
	}
	if v, ok := claims[claimFunction]; ok {
		// Claims that are not what this platform writes are of no use.
		good, _ := v.(map[string]any)
		rights := iam.Grant(iam.Statement{
			Action: iam.Claims(good).Values("permissions"), Resource: iam.Claims(good).Values("audience"),
		}, "function token")
		return Caller{Subject: subject, Issuer: ownIssuer, known: &known{claims: claims, rights: rights, until: expires}}, nil
	}
	i := s.issuers[claims.Text(claimFedIss)]
	if i == nil {
		return Caller{}, fault.Unauthenticated.Errorf("the issuer who vouched for the token's bearer is not trusted here any more")
	}
	first := make(iam.Claims, len(claims))
	for name, value := range claims {
		if name != claimPolicy && !strings.HasPrefix(name, claimFederated) {
			first[name] = value
		}
	}
	first["iss"], first["aud"], first["sub"] = claims[claimFedIss], claims[claimFedAud], subject
	c := s.caller(i.Issuer, first)
	c.known.rights, c.known.until = c.known.rights.Only(claims.Values(claimPolicy)), expires
	return c, nil
}
