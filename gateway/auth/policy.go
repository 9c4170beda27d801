package auth

import (
	"bytes"
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
	Issuers  []Issuer `yaml:"issuers"`
	Policies []Policy `yaml:"policies"`
	Roles    []Role   `yaml:"roles"`
}

// An Issuer is somebody whose tokens are believed.
type Issuer struct {
	Name string `yaml:"name"` // for logs and metrics
	// Iss is the issuer as tokens name it, to the letter.
	Iss string `yaml:"iss"`
	// Aud lists the audiences that tokens for this platform have; one of them
	// must be among a token's.
	Aud List `yaml:"aud"`
	// IssInternal is where the issuer is asked for its keys, if that is not Iss.
	IssInternal string `yaml:"issInternal"`

	// Azp lists the clients that tokens may have been made for; none is any.
	Azp List `yaml:"azp"`
	// Algorithms lists how tokens may be signed; none is every algorithm with
	// a public key.
	Algorithms List `yaml:"algorithms"`
	// ClockSkew is how far the issuer's clock may be off; nil is 30s.
	ClockSkew *function.Duration `yaml:"clockSkew"`
	// CAFile holds the certificates by which the issuer is known, in PEM;
	// none is the system's.
	CAFile string `yaml:"caFile"`
	// JWKSFile holds the issuer's keys, which is then never asked for them.
	JWKSFile string `yaml:"jwksFile"`

	// CLI is the client by which the command line logs people in; nil: it has
	// to be told.
	CLI *Client `yaml:"cli"`
	// Web is the client by which browsers log in to this platform; nil: they
	// cannot, with this issuer.
	Web *Client `yaml:"web"`
}

// A Client is how this platform is registered with an issuer.
type Client struct {
	ID string `yaml:"clientID"`
	// SecretFile holds the secret of a client that has one.
	SecretFile string `yaml:"clientSecretFile"`
	// Scopes are asked for besides openid; none is what a login needs anywhere:
	// profile, email and a refresh token.
	Scopes List `yaml:"scopes"`
	// Parameters are sent along when a login begins, such as the audience
	// that some issuers want to be told.
	Parameters map[string]string `yaml:"parameters"`
}

// A Policy says what may be done.
type Policy struct {
	Name       string      `yaml:"name"`
	Statements []Statement `yaml:"statement"`
}

// A Statement allows actions on resources to callers who meet a condition.
type Statement struct {
	Sid       string    `yaml:"sid"`
	Effect    string    `yaml:"effect"` // Allow
	Action    List      `yaml:"action"`
	Resource  List      `yaml:"resource"`
	Condition Condition `yaml:"condition"`
}

// A Role gives policies to callers.
type Role struct {
	Name   string `yaml:"name"`
	Policy List   `yaml:"policy"`
	// Principal lists values of claims; every claim must have one of its
	// values.
	Principal map[string]List `yaml:"principal"`
	Condition Condition       `yaml:"condition"`
}

// A Condition is met if every operator finds one of the values it wants in
// every claim it names.
type Condition map[string]map[string]List

// A List is a list of texts; a single text stands for a list of one.
type List []string

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

// Limits of a file of rules.
const (
	maxRules   = 1 << 20 // bytes
	maxSkew    = 10 * time.Minute
	anyMarker  = "ForAnyValue:"
	claimStart = "jwt:"
)

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
		for _, p := range issuer.check() {
			problem("%s: %s", where, p)
		}
	}
	for i, policy := range r.Policies {
		where := named("policies", i, policy.Name, func(name string) bool {
			return slices.ContainsFunc(r.Policies[:i], func(o Policy) bool { return o.Name == name })
		})
		if len(policy.Statements) == 0 {
			problem("%s has no statement", where)
		}
		for j, s := range policy.Statements {
			for _, p := range s.check() {
				problem("%s, statement %d: %s", where, j+1, p)
			}
		}
	}
	for i, role := range r.Roles {
		where := named("roles", i, role.Name, func(name string) bool {
			return slices.ContainsFunc(r.Roles[:i], func(o Role) bool { return o.Name == name })
		})
		if len(role.Policy) == 0 {
			problem("%s gives no policy", where)
		}
		for _, name := range role.Policy {
			if !slices.ContainsFunc(r.Policies, func(p Policy) bool { return p.Name == name }) {
				problem("%s: there is no policy %q", where, name)
			}
		}
		for key := range role.Principal {
			if err := checkKey(key); err != "" {
				problem("%s, principal: %s", where, err)
			}
		}
		for _, p := range role.Condition.check() {
			problem("%s: %s", where, p)
		}
	}
	return problems
}

func (i *Issuer) check() (problems []string) {
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
	if len(i.Aud) == 0 || slices.Contains(i.Aud, "") {
		problem("aud must name the audience of tokens that are meant for this platform")
	}
	for _, a := range i.Algorithms {
		if !slices.Contains(algorithms, a) {
			problem("algorithm %q is not one of %s", a, strings.Join(algorithms, ", "))
		}
	}
	if i.ClockSkew != nil && (*i.ClockSkew < 0 || i.ClockSkew.Std() > maxSkew) {
		problem("clockSkew is %v, want at most %v", i.ClockSkew, maxSkew)
	}
	for field, c := range map[string]*Client{"cli": i.CLI, "web": i.Web} {
		if c != nil && c.ID == "" {
			problem("%s has no clientID", field)
		}
	}
	if i.CLI != nil && i.CLI.SecretFile != "" {
		problem("cli has a clientSecretFile: the command line runs on many machines and can keep no secret")
	}
	slices.Sort(problems)
	return problems
}

func (s *Statement) check() (problems []string) {
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

// operators compare a claim's value with one that is wanted.
var operators = map[string]func(value, want string) bool{
	"StringEqual":            equal,
	"StringEquals":           equal,
	"StringEqualIgnoreCase":  strings.EqualFold,
	"StringEqualsIgnoreCase": strings.EqualFold,
	"StringLike":             like,
}

func equal(value, want string) bool { return value == want }

// like reports whether value is pattern, in which each "*" stands for any
// text.
func like(value, pattern string) bool {
	first, rest, ok := strings.Cut(pattern, "*")
	if !ok {
		return value == pattern
	}
	value, ok = strings.CutPrefix(value, first)
	if !ok {
		return false
	}
	for {
		part, after, more := strings.Cut(rest, "*")
		if !more {
			return strings.HasSuffix(value, part)
		}
		i := strings.Index(value, part)
		if i < 0 {
			return false
		}
		value, rest = value[i+len(part):], after
	}
}

// met reports whether a caller with these claims meets c. No condition is met
// by everybody.
func (c Condition) met(claims Claims) bool {
	for operator, wanted := range c {
		name, anyOf := strings.CutPrefix(operator, anyMarker)
		compare := operators[name]
		for key, values := range wanted {
			if !claims.has(strings.TrimPrefix(key, claimStart), anyOf, values, compare) {
				return false
			}
		}
	}
	return true
}

// applies reports whether a caller with these claims has the role.
func (r *Role) applies(claims Claims) bool {
	for key, values := range r.Principal {
		if !claims.has(strings.TrimPrefix(key, claimStart), false, values, equal) {
			return false
		}
	}
	return r.Condition.met(claims)
}

// rights returns what a caller with these claims may do.
func (r *Rules) rights(claims Claims) *rights {
	all := new(rights)
	for _, role := range r.Roles {
		if !role.applies(claims) {
			continue
		}
		for _, name := range role.Policy {
			i := slices.IndexFunc(r.Policies, func(p Policy) bool { return p.Name == name })
			for j, s := range r.Policies[i].Statements {
				if s.Condition.met(claims) {
					rule := fmt.Sprintf("role %s, policy %s, statement %s", role.Name, name, statementName(s, j))
					all.allowed = append(all.allowed, right{actions: s.Action, resources: s.Resource, rule: rule})
				}
			}
		}
	}
	return all
}

func statementName(s Statement, i int) string {
	if s.Sid != "" {
		return s.Sid
	}
	return fmt.Sprint(i + 1)
}

// rights are what one caller may do.
type rights struct{ allowed []right }

// A right allows actions on resources.
type right struct {
	actions, resources List
	rule               string // where the right comes from, for people
}

// allows returns the rule that allows action on r, and whether there is one.
func (r *rights) allows(action Action, resource Resource) (rule string, ok bool) {
	for _, right := range r.allowed {
		if slices.ContainsFunc(right.actions, func(a string) bool { return actionMatches(a, action) }) &&
			slices.ContainsFunc(right.resources, resource.in) {
			return right.rule, true
		}
	}
	return "", false
}

// actionMatches reports whether a policy's action, which may be "*" or
// "Function:*", covers action.
func actionMatches(pattern string, action Action) bool {
	if pattern == "*" || pattern == string(action) {
		return true
	}
	kind, ok := strings.CutSuffix(pattern, "*")
	return ok && strings.HasSuffix(kind, ":") && strings.HasPrefix(string(action), kind)
}

// in reports whether a policy's resource covers r.
func (r Resource) in(pattern string) bool {
	if pattern == "*" {
		return true
	}
	namespace, name, _ := strings.Cut(pattern, ":")
	return r.Namespace != "" && r.Namespace == namespace && (name == "*" || name == r.Name)
}

// open lists the roles that callers of every issuer can have, where there are
// several: two issuers may give the same name to different people.
func (r *Rules) open() []string {
	if len(r.Issuers) < 2 {
		return nil
	}
	var names []string
	for _, role := range r.Roles {
		_, bound := role.Principal[claimStart+"iss"]
		for _, claims := range role.Condition {
			if _, ok := claims[claimStart+"iss"]; ok {
				bound = true
			}
		}
		if !bound {
			names = append(names, role.Name)
		}
	}
	return names
}
