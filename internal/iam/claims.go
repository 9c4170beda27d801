package iam

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Claims are what a verified token says of its bearer.
type Claims map[string]any

// ParseClaims reads the payload of a token.
func ParseClaims(payload []byte) (Claims, error) {
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.UseNumber()
	var c Claims
	if err := dec.Decode(&c); err != nil {
		return nil, fmt.Errorf("read claims: %w", err)
	}
	return c, nil
}

// Text returns a claim that is a text, "" for any other.
func (c Claims) Text(name string) string {
	s, _ := c[name].(string)
	return s
}

// Values returns the values of the claim at path as texts: one, or those of a
// list. It is nil if there is no such claim, or if it is of another kind.
func (c Claims) Values(path string) []string {
	found, ok := lookUp(c, path)
	if !ok {
		return nil
	}
	var all []string
	for _, v := range values(found) {
		if s, ok := scalar(v); ok {
			all = append(all, s)
		}
	}
	return all
}

// has reports whether the claim at path has, by compare, one of the values
// wanted. A claim that is a list has only if anyOf says that one of its
// elements is enough; a single value is then a list of one, which is how some
// issuers write it.
func (c Claims) has(path string, anyOf bool, wanted []string, compare func(value, want string) bool) bool {
	found, ok := lookUp(c, path)
	if !ok {
		return false
	}
	if _, list := found.([]any); list && !anyOf {
		return false
	}
	for _, v := range values(found) {
		s, ok := scalar(v)
		if ok && slices.ContainsFunc(wanted, func(want string) bool { return compare(s, want) }) {
			return true
		}
	}
	return false
}

// lookUp finds a claim by its name, or by names within names: realm_access.roles.
// Names may hold dots themselves, as kubernetes.io does; the longest that
// exists is taken first.
func lookUp(claims map[string]any, path string) (any, bool) {
	if v, ok := claims[path]; ok {
		return v, true
	}
	for i := strings.LastIndexByte(path, '.'); i > 0; i = strings.LastIndexByte(path[:i], '.') {
		if inner, ok := claims[path[:i]].(map[string]any); ok {
			if v, ok := lookUp(inner, path[i+1:]); ok {
				return v, true
			}
		}
	}
	return nil, false
}

func values(v any) []any {
	if list, ok := v.([]any); ok {
		return list
	}
	return []any{v}
}

func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}
