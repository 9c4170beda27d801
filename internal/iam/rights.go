package iam

import (
	"fmt"
	"slices"
	"strings"
)

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

// Rights returns what a caller with these claims may do.
func (r *Rules) Rights(claims Claims) *Rights {
	all := new(Rights)
	for _, role := range r.Roles {
		if !role.applies(claims) {
			continue
		}
		all.Roles = append(all.Roles, role.Name)
		for _, name := range role.Policy {
			i := slices.IndexFunc(r.Policies, func(p Policy) bool { return p.Name == name })
			if i < 0 {
				continue // it may come later, where rules come one by one
			}
			if !slices.Contains(all.Policies, name) {
				all.Policies = append(all.Policies, name)
			}
			for j, s := range r.Policies[i].Statements {
				if s.Condition.met(claims) {
					rule := fmt.Sprintf("role %s, policy %s, statement %s", role.Name, name, statementName(s, j))
					all.allowed = append(all.allowed, right{actions: s.Action, resources: s.Resource, policy: name, rule: rule})
				}
			}
		}
	}
	slices.Sort(all.Roles)
	slices.Sort(all.Policies)
	return all
}

func statementName(s Statement, i int) string {
	if s.Sid != "" {
		return s.Sid
	}
	return fmt.Sprint(i + 1)
}

// Rights are what one caller may do. They are not changed.
type Rights struct {
	Roles    []string // that the caller has, in order
	Policies []string // that these give, in order
	allowed  []right
}

// Grant returns the rights of one statement; rule says where it comes from.
func Grant(s Statement, rule string) *Rights {
	return &Rights{allowed: []right{{actions: s.Action, resources: s.Resource, rule: rule}}}
}

// Only returns those of the rights that policies of these names give.
func (r *Rights) Only(policies []string) *Rights {
	some := &Rights{Roles: r.Roles}
	for _, name := range r.Policies {
		if slices.Contains(policies, name) {
			some.Policies = append(some.Policies, name)
		}
	}
	for _, right := range r.allowed {
		if slices.Contains(policies, right.policy) {
			some.allowed = append(some.allowed, right)
		}
	}
	return some
}

// Cover reports whether the rights are enough to do everything that s allows.
func (r *Rights) Cover(s Statement) bool {
	for _, action := range s.Action {
		for _, resource := range s.Resource {
			if !slices.ContainsFunc(r.allowed, func(own right) bool {
				return slices.ContainsFunc(own.actions, func(a string) bool { return within(action, a) }) &&
					slices.ContainsFunc(own.resources, func(a string) bool { return within(resource, a) })
			}) {
				return false
			}
		}
	}
	return true
}

// within reports whether a pattern of actions or resources means nothing that
// another does not mean.
func within(inner, outer string) bool {
	kind, all := strings.CutSuffix(outer, "*")
	return inner == outer || all && strings.HasPrefix(inner, kind)
}

// A right allows actions on resources.
type right struct {
	actions, resources List
	policy             string // that gives it, if one does
	rule               string // where it comes from, for people
}

// Allows returns the rule that allows action on r, and whether there is one.
func (r *Rights) Allows(action Action, resource Resource) (rule string, ok bool) {
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

// Open lists the roles that callers of every issuer can have, where there are
// several: two issuers may give the same name to different people.
func (r *Rules) Open() []string {
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
