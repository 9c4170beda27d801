package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// Rules are a file of trusted issuers, of policies, which say what may be
// done, and of roles, which say by whom. Issuers, policies and roles have the
// fields of OpenFaaS's JwtIssuer, Policy and Role, and a name.
type Rules struct {
	Issuers  []Issuer `yaml:"issuers" json:"issuers,omitempty"`
	Policies []Policy `yaml:"policies" json:"policies,omitempty"`
	Roles    []Role   `yaml:"roles" json:"roles,omitempty"`
}

// An Issuer is somebody whose tokens are believed.
type Issuer struct {
	Name string `yaml:"name" json:"name,omitempty"` // for logs and metrics
	// Iss is the issuer as tokens name it, to the letter.
	Iss string `yaml:"iss" json:"iss,omitempty"`
	// Aud lists the audiences that tokens for this platform have; one of them
	// must be among a token's.
	Aud List `yaml:"aud" json:"aud,omitempty"`
	// IssInternal is where the issuer is asked for its keys, if that is not Iss.
	IssInternal string `yaml:"issInternal" json:"issInternal,omitempty"`

	// Azp lists the clients that tokens may have been made for; none is any.
	Azp List `yaml:"azp" json:"azp,omitempty"`
	// Algorithms lists how tokens may be signed; none is every algorithm with
	// a public key.
	Algorithms List `yaml:"algorithms" json:"algorithms,omitempty"`
	// ClockSkew is how far the issuer's clock may be off; nil is 30s.
	ClockSkew *function.Duration `yaml:"clockSkew" json:"clockSkew,omitempty"`
	// TokenExpiry is how long the platform's own tokens are good that are made
	// for callers with a token of this issuer; nil is [DefaultExpiry].
	TokenExpiry *function.Duration `yaml:"tokenExpiry" json:"tokenExpiry,omitempty"`
	// CAFile holds the certificates by which the issuer is known, in PEM;
	// none is the system's.
	CAFile string `yaml:"caFile" json:"caFile,omitempty"`
	// JWKSFile holds the issuer's keys, which is then never asked for them.
	JWKSFile string `yaml:"jwksFile" json:"jwksFile,omitempty"`

	// CLI is the client by which the command line logs people in; nil: it has
	// to be told.
	CLI *Client `yaml:"cli" json:"cli,omitempty"`
	// Web is the client by which browsers log in to this platform; nil: they
	// cannot, with this issuer.
	Web *Client `yaml:"web" json:"web,omitempty"`
}

// Expiry returns how long tokens are good that the platform makes for callers
// of this issuer.
func (i *Issuer) Expiry() time.Duration {
	if i.TokenExpiry == nil {
		return DefaultExpiry
	}
	return i.TokenExpiry.Std()
}

// A Client is how this platform is registered with an issuer.
type Client struct {
	ID string `yaml:"clientID" json:"clientID,omitempty"`
	// SecretFile holds the secret of a client that has one.
	SecretFile string `yaml:"clientSecretFile" json:"clientSecretFile,omitempty"`
	// Scopes are asked for besides openid; none is what a login needs anywhere:
	// profile, email and a refresh token.
	Scopes List `yaml:"scopes" json:"scopes,omitempty"`
	// Parameters are sent along when a login begins, such as the audience
	// that some issuers want to be told.
	Parameters map[string]string `yaml:"parameters" json:"parameters,omitempty"`
	// RedirectPort is the port of people's machines that their browsers come
	// back to after a login of the command line, for issuers that let them come
	// back to no other; 0 is any that is free.
	RedirectPort int `yaml:"redirectPort" json:"redirectPort,omitempty"`
}

// A Policy says what may be done.
type Policy struct {
	Name       string      `yaml:"name" json:"name,omitempty"`
	Statements []Statement `yaml:"statement" json:"statement,omitempty"`
}

// A Statement allows actions on resources to callers who meet a condition.
type Statement struct {
	Sid       string    `yaml:"sid" json:"sid,omitempty"`
	Effect    string    `yaml:"effect" json:"effect,omitempty"` // Allow
	Action    List      `yaml:"action" json:"action,omitempty"`
	Resource  List      `yaml:"resource" json:"resource,omitempty"`
	Condition Condition `yaml:"condition" json:"condition,omitempty"`
}

// A Role gives policies to callers.
type Role struct {
	Name   string `yaml:"name" json:"name,omitempty"`
	Policy List   `yaml:"policy" json:"policy,omitempty"`
	// Principal lists values of claims; every claim must have one of its
	// values.
	Principal map[string]List `yaml:"principal" json:"principal,omitempty"`
	Condition Condition       `yaml:"condition" json:"condition,omitempty"`
}

// A Condition is met if every operator finds one of the values it wants in
// every claim it names.
type Condition map[string]map[string]List

// A List is a list of texts; a single text stands for a list of one.
type List []string

// UnmarshalJSON implements [json.Unmarshaler].
func (l *List) UnmarshalJSON(text []byte) error {
	var one any
	if err := json.Unmarshal(text, &one); err != nil {
		return err
	}
	if _, list := one.([]any); !list && one != nil {
		s, ok := one.(string)
		if !ok { // a number or a truth, as it is written
			s = string(text)
		}
		*l = List{s}
		return nil
	}
	var all []string
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	*l = all
	return nil
}

// UnmarshalYAML implements the interface of package yaml.
func (l *List) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*l = List{n.Value}
		return nil
	}
	var all []string
	if err := n.Decode(&all); err != nil {
		return err
	}
	*l = all
	return nil
}

// DefaultExpiry and MaxExpiry are how long the platform's own tokens are good
// where an issuer does not say, and at most.
const (
	DefaultExpiry = 30 * time.Minute
	MaxExpiry     = 7 * 24 * time.Hour
)

// Limits of a file of rules.
const (
	maxRules   = 1 << 20 // bytes
	maxSkew    = 10 * time.Minute
	anyMarker  = "ForAnyValue:"
	claimStart = "jwt:"
)

// reserved are the names of issuers that stand for the platform itself: for
// its function tokens, and its API keys.
var reserved = []string{"graphene", "api-key"}

// Algorithms lists how tokens of issuers may be signed: by the algorithms with
// a public key. A secret shared with the issuer would be one more thing to
// steal, and "none" is no signature.
func Algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// ParseRules reads a file of rules. Everything that is wrong with it is
// reported together, as fault.Invalid. A file without issuers is wrong too:
// what was forgotten must not open the functions to everybody.
func ParseRules(text []byte) (*Rules, error) {
	if len(text) > maxRules {
		return nil, fault.Invalid.Errorf("the rules have %d bytes, at most %d are read", len(text), maxRules)
	}
	rules := new(Rules)
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(rules); err != nil && !errors.Is(err, io.EOF) {
		return nil, fault.Invalid.Errorf("read the rules: %w", err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fault.Invalid.Errorf("read the rules: there is more than one document")
	}
	if problems := rules.check(); len(problems) > 0 {
		return nil, fault.Invalid.Errorf("%s", strings.Join(problems, "; "))
	}
	return rules, nil
}

func (r *Rules) check() []string {
	var problems []string
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if len(r.Issuers) == 0 {
		problem("issuers is empty: name at least one")
	}
	named := func(kind string, i int, name string, before func(string) bool) string {
		where := fmt.Sprintf("%s[%d]", kind, i)
		switch {
		case name == "":
			problem("%s has no name", where)
			return where
		case before(name):
			problem("%s: there are two of the name %q", kind, name)
		}
		return fmt.Sprintf("%s %q", kind, name)
	}
	for i, issuer := range r.Issuers {
		where := named("issuers", i, issuer.Name, func(name string) bool {
			return slices.ContainsFunc(r.Issuers[:i], func(o Issuer) bool { return o.Name == name })
		})
		if slices.ContainsFunc(r.Issuers[:i], func(o Issuer) bool { return o.Iss == issuer.Iss }) {
			problem("%s: there are two with the iss %q", where, issuer.Iss)
		}
		for _, p := range issuer.Check() {
			problem("%s: %s", where, p)
		}
	}
	for i, policy := range r.Policies {
		where := named("policies", i, policy.Name, func(name string) bool {
			return slices.ContainsFunc(r.Policies[:i], func(o Policy) bool { return o.Name == name })
		})
		for _, p := range policy.Check() {
			problem("%s: %s", where, p)
		}
	}
	for i, role := range r.Roles {
		where := named("roles", i, role.Name, func(name string) bool {
			return slices.ContainsFunc(r.Roles[:i], func(o Role) bool { return o.Name == name })
		})
		for _, p := range role.Check() {
			problem("%s: %s", where, p)
		}
		for _, name := range role.Policy {
			if !slices.ContainsFunc(r.Policies, func(p Policy) bool { return p.Name == name }) {
				problem("%s: there is no policy %q", where, name)
			}
		}
	}
	return problems
}

// Check returns what is wrong with an issuer, in order.
func (i *Issuer) Check() (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	for field, text := range map[string]string{"iss": i.Iss, "issInternal": i.IssInternal} {
		if field == "issInternal" && text == "" {
			continue
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			problem("%s is %q, want a URL such as https://login.example.com/realms/acme", field, text)
		}
	}
	if slices.Contains(reserved, i.Name) {
		problem("name %q is the platform's own", i.Name)
	}
	if len(i.Aud) == 0 || slices.Contains(i.Aud, "") {
		problem("aud must name the audience of tokens that are meant for this platform")
	}
	for _, a := range i.Algorithms {
		if !slices.Contains(Algorithms(), a) {
			problem("algorithm %q is not one of %s", a, strings.Join(Algorithms(), ", "))
		}
	}
	if i.ClockSkew != nil && (*i.ClockSkew < 0 || i.ClockSkew.Std() > maxSkew) {
		problem("clockSkew is %v, want at most %v", i.ClockSkew, maxSkew)
	}
	if i.TokenExpiry != nil && (*i.TokenExpiry <= 0 || i.TokenExpiry.Std() > MaxExpiry) {
		problem("tokenExpiry is %v, want more than 0 and at most %v", i.TokenExpiry, MaxExpiry)
	}
	for field, c := range map[string]*Client{"cli": i.CLI, "web": i.Web} {
		if c != nil && c.ID == "" {
			problem("%s has no clientID", field)
		}
	}
	if i.CLI != nil && i.CLI.SecretFile != "" {
		problem("cli has a clientSecretFile: the command line runs on many machines and can keep no secret")
	}
	if i.CLI != nil && (i.CLI.RedirectPort < 0 || i.CLI.RedirectPort > 65535) {
		problem("cli has the redirectPort %d, want 1 to 65535", i.CLI.RedirectPort)
	}
	if i.Web != nil && i.Web.RedirectPort != 0 {
		problem("web has a redirectPort: browsers come back to the platform's own address")
	}
	slices.Sort(problems)
	return problems
}

// Check returns what is wrong with a policy, its name aside.
func (p *Policy) Check() (problems []string) {
	if len(p.Statements) == 0 {
		return []string{"there is no statement"}
	}
	for i, s := range p.Statements {
		for _, problem := range s.Check() {
			problems = append(problems, fmt.Sprintf("statement %d: %s", i+1, problem))
		}
	}
	return problems
}

// Check returns what is wrong with a role, its name and the existence of its
// policies aside.
func (r *Role) Check() (problems []string) {
	if len(r.Policy) == 0 {
		problems = append(problems, "it gives no policy")
	}
	for key := range r.Principal {
		if err := checkKey(key); err != "" {
			problems = append(problems, "principal: "+err)
		}
	}
	return append(problems, r.Condition.check()...)
}

// Check returns what is wrong with a statement.
func (s *Statement) Check() (problems []string) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if s.Effect != "Allow" {
		problem("effect is %q, and there is only Allow: what nothing allows is refused", s.Effect)
	}
	if len(s.Action) == 0 {
		problem("action is empty")
	}
	for _, a := range s.Action {
		if !slices.ContainsFunc(Actions(), func(action Action) bool { return actionMatches(a, action) }) {
			problem("action %q is not one there is", a)
		}
	}
	if len(s.Resource) == 0 {
		problem("resource is empty")
	}
	for _, text := range s.Resource {
		if !validResource(text) {
			problem("resource is %q, want *, NAMESPACE:* or NAMESPACE:FUNCTION", text)
		}
	}
	return append(problems, s.Condition.check()...)
}

func validResource(text string) bool {
	if text == "*" {
		return true
	}
	namespace, name, ok := strings.Cut(text, ":")
	return ok && function.ValidNamespace(namespace) == nil && (name == "*" || (function.Ref{Name: name, Namespace: namespace}).Validate() == nil)
}

func (c Condition) check() (problems []string) {
	for operator, claims := range c {
		if operators[strings.TrimPrefix(operator, anyMarker)] == nil {
			problems = append(problems, fmt.Sprintf("condition: there is no operator %q", operator))
		}
		if len(claims) == 0 {
			problems = append(problems, fmt.Sprintf("condition: %s names no claim", operator))
		}
		for key := range claims {
			if err := checkKey(key); err != "" {
				problems = append(problems, "condition: "+err)
			}
		}
	}
	slices.Sort(problems)
	return problems
}

func checkKey(key string) string {
	if claim, ok := strings.CutPrefix(key, claimStart); !ok || claim == "" {
		return fmt.Sprintf("key is %q, want jwt:CLAIM", key)
	}
	return ""
}
