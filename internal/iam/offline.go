package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/graphene-faas/graphene/internal/fault"
)

// A Case is a question to rules, and the answer that is expected.
type Case struct {
	Name   string         `yaml:"name"`
	Claims map[string]any `yaml:"claims"` // of the caller's token
	Action string         `yaml:"action"`
	// Resource is *, NAMESPACE:* or NAMESPACE:FUNCTION.
	Resource string `yaml:"resource"`
	Allowed  bool   `yaml:"allowed"`
}

// Documents are rules as people keep them in files: a file of rules, resources
// of a cluster, or both, and cases.
type Documents struct {
	Rules Rules
	Cases []Case
}

// Add adds the documents of a text in YAML: each is a file of rules, a resource
// JwtIssuer, Policy or Role, or has cases in the list "tests". Errors are
// fault.Invalid.
func (d *Documents) Add(text []byte) error {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	for n := 1; ; n++ {
		var node yaml.Node
		if err := dec.Decode(&node); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fault.Invalid.Errorf("document %d: %w", n, err)
		}
		if err := d.add(&node); err != nil {
			return fault.Invalid.Errorf("document %d: %w", n, err)
		}
	}
}

func (d *Documents) add(node *yaml.Node) error {
	var head struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string `yaml:"kind"`
		Metadata   struct {
			Name string `yaml:"name"`
		} `yaml:"metadata"`
		Spec  map[string]any `yaml:"spec"`
		Tests []Case         `yaml:"tests"`
	}
	if err := node.Decode(&head); err != nil {
		return err
	}
	if len(head.Tests) > 0 {
		d.Cases = append(d.Cases, head.Tests...)
		return nil
	}
	if head.Kind == "" {
		text, err := yaml.Marshal(node)
		if err != nil {
			return err
		}
		rules, err := ParseRules(text)
		if err != nil {
			return err
		}
		d.Rules.Issuers = append(d.Rules.Issuers, rules.Issuers...)
		d.Rules.Policies = append(d.Rules.Policies, rules.Policies...)
		d.Rules.Roles = append(d.Rules.Roles, rules.Roles...)
		return nil
	}
	if !strings.HasPrefix(head.APIVersion, "iam.openfaas.com/") {
		return fmt.Errorf("%s is not a resource about who may do what", head.Kind)
	}
	spec, err := json.Marshal(head.Spec)
	if err != nil {
		return err
	}
	object, err := ReadObject(head.Kind, head.Metadata.Name, spec)
	if err != nil {
		return fmt.Errorf("%s %s: %w", head.Kind, head.Metadata.Name, err)
	}
	switch o := object.(type) {
	case *Issuer:
		d.Rules.Issuers = append(d.Rules.Issuers, *o)
	case *Policy:
		d.Rules.Policies = append(d.Rules.Policies, *o)
	case *Role:
		d.Rules.Roles = append(d.Rules.Roles, *o)
	}
	return nil
}

// Missing lists the policies that roles give and that there are not.
func (d *Documents) Missing() []string {
	var names []string
	for _, role := range d.Rules.Roles {
		for _, name := range role.Policy {
			if !slices.ContainsFunc(d.Rules.Policies, func(p Policy) bool { return p.Name == name }) {
				names = append(names, name)
			}
		}
	}
	return names
}

// Decide returns the rule that allows a caller with these claims to do what an
// action and a resource as in policies say; "" is none. It does not ask who
// vouches for the claims.
func (d *Documents) Decide(claims map[string]any, action, resource string) (rule string, err error) {
	if !slices.Contains(Actions(), Action(action)) {
		return "", fault.Invalid.Errorf("%q is no action", action)
	}
	if !validResource(resource) {
		return "", fault.Invalid.Errorf("resource is %q, want *, NAMESPACE:* or NAMESPACE:FUNCTION", resource)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fault.Invalid.Errorf("claims: %w", err)
	}
	parsed, err := ParseClaims(payload)
	if err != nil {
		return "", err
	}
	var r Resource
	if namespace, name, ok := strings.Cut(resource, ":"); ok {
		if r.Namespace = namespace; name != "*" {
			r.Name = name
		}
	}
	rule, _ = d.Rules.Rights(parsed).Allows(Action(action), r)
	return rule, nil
}
