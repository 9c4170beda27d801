package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// Limits on what a file may make the parser do. Aliases let a short file
// stand for an enormous one.
const (
	maxNodes = 100_000
	maxDepth = 50
	// maxProblems is how many are shown; a file that is no stack file at all
	// has one on every line.
	maxProblems = 20
)

// Parse reads a stack file. name is what messages call it. The error is
// fault.Invalid and names every problem, one a line; then the stack, unless it
// is nil, holds no more than warnings.
func Parse(name string, text []byte) (*Stack, error) {
	p := &parser{name: name}
	st := &Stack{Name: name}
	root, err := p.document(text)
	if err != nil {
		return nil, err
	}
	if root != nil {
		p.stack(st, root)
	}
	st.Warnings = p.warnings
	return st, p.err()
}

// ParseEnvironment reads an environment_file: a YAML file with one map called
// environment. Errors are as those of Parse.
func ParseEnvironment(name string, text []byte) (map[string]string, error) {
	p := &parser{name: name}
	root, err := p.document(text)
	if err != nil {
		return nil, err
	}
	var env map[string]string
	if root != nil {
		p.mapping(root, "the file", fields{"environment": p.stringMap(&env)})
	}
	return env, p.err()
}

// parser collects what is wrong with one file while it reads it.
type parser struct {
	name     string
	nodes    int
	depth    int
	tooMuch  bool // and has been reported
	problems []string
	warnings []string
}

// A field reads the value of one key.
type field func(value *yaml.Node)

// fields are the keys that a mapping may have.
type fields map[string]field

// syntaxLine finds the line in the message of a syntax error; the library
// gives it in no other way.
var syntaxLine = regexp.MustCompile(`^yaml: line (\d+): `)

// document returns the top node of the one document in text, nil if there is
// none.
func (p *parser) document(text []byte) (*yaml.Node, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	err := dec.Decode(&doc)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	if err != nil {
		message := strings.TrimPrefix(err.Error(), "yaml: ")
		if m := syntaxLine.FindStringSubmatch(err.Error()); m != nil {
			return nil, fault.Invalid.Errorf("%s:%s: %s", p.name, m[1], strings.TrimPrefix(err.Error(), m[0]))
		}
		return nil, fault.Invalid.Errorf("%s: %s", p.name, message)
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	var more yaml.Node
	if err := dec.Decode(&more); err == nil {
		p.problem(&more, "a second document begins here; a stack file has one")
	}
	return doc.Content[0], nil
}

func (p *parser) err() error {
	if len(p.problems) == 0 {
		return nil
	}
	shown := p.problems
	if more := len(shown) - maxProblems; more > 0 {
		shown = append(shown[:maxProblems:maxProblems], fmt.Sprintf("%s: and %d more", p.name, more))
	}
	return fault.Invalid.Errorf("%s", strings.Join(shown, "\n"))
}

func (p *parser) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d:%d: ", p.name, n.Line, n.Column) }

func (p *parser) problem(n *yaml.Node, format string, args ...any) {
	p.problems = append(p.problems, p.at(n)+fmt.Sprintf(format, args...))
}

func (p *parser) warn(n *yaml.Node, format string, args ...any) {
	p.warnings = append(p.warnings, p.at(n)+fmt.Sprintf(format, args...))
}

// withoutEffect accepts any value of a key that faas-cli knows and that has no
// effect here, and says so.
func (p *parser) withoutEffect(key, instead string) func(*yaml.Node) {
	return func(n *yaml.Node) { p.warn(n, "%s has no effect: %s", key, instead) }
}

func (p *parser) stack(st *Stack, root *yaml.Node) {
	p.mapping(root, "the file", fields{
		"version": func(n *yaml.Node) {
			var v string
			if p.string(&v)(n); v != "" && v != "1.0" {
				p.problem(n, `version is %q; the only one there is is "1.0"`, v)
			}
		},
		"provider": func(n *yaml.Node) {
			p.mapping(n, "provider", fields{
				"name": func(n *yaml.Node) {
					if p.string(&st.Provider.Name)(n); st.Provider.Name != "openfaas" {
						p.problem(n, `provider.name is %q; it must be "openfaas"`, st.Provider.Name)
					}
				},
				"gateway": p.string(&st.Provider.Gateway),
				"network": p.ignored,
			})
		},
		"functions": func(n *yaml.Node) {
			for name, value := range p.entries(n, "functions") {
				st.Functions = append(st.Functions, p.function(name, value))
			}
		},
		"configuration": func(n *yaml.Node) {
			p.mapping(n, "configuration", fields{
				"templates": func(n *yaml.Node) {
					for item := range p.items(n, "templates") {
						var t TemplateSource
						p.mapping(item, "a template", fields{"name": p.string(&t.Name), "source": p.string(&t.Source)})
						st.Templates = append(st.Templates, t)
					}
				},
				"copy": p.stringList(&st.Copy),
			})
		},
	})
}

func (p *parser) function(name, value *yaml.Node) Function {
	f := Function{Name: name.Value}
	if err := (function.Ref{Name: f.Name, Namespace: function.DefaultNamespace}).Validate(); err != nil {
		p.problem(name, "%v", err)
	}
	settings := map[string]*yaml.Node{}
	keys := fields{
		"lang":      p.string(&f.Lang),
		"handler":   p.string(&f.Handler),
		"image":     p.image(&f.Image),
		"fprocess":  p.string(&f.FProcess),
		"namespace": p.string(&f.Namespace),

		"environment":      p.stringMap(&f.Environment),
		"environment_file": p.stringList(&f.EnvironmentFiles),
		"secrets":          p.stringList(&f.Secrets),
		"constraints":      p.stringList(&f.Constraints),
		"labels":           p.stringMap(&f.Labels),
		"annotations":      p.stringMap(&f.Annotations),
		"limits":           p.resources(&f.Limits),
		"requests":         p.resources(&f.Requests),

		"readonly_root_filesystem": p.bool(&f.ReadOnlyRootFilesystem),

		"skip_build":    p.bool(&f.SkipBuild),
		"build_args":    p.stringMap(&f.BuildArgs),
		"build_options": p.stringList(&f.BuildOptions),
		"build_secrets": p.withoutEffect("build_secrets", "builds take no secrets yet"),
		"platforms":     p.withoutEffect("platforms", "\"graphene build --target\" chooses the machine to build for"),
	}
	for _, s := range function.ListSettings() {
		keys[s.Name] = func(n *yaml.Node) { settings[s.Name] = n }
	}
	problems := len(p.problems)
	p.mapping(value, fmt.Sprintf("function %q", f.Name), keys)

	for _, key := range slices.Sorted(maps.Keys(settings)) {
		p.setting(&f, key, settings[key])
	}
	if strings.EqualFold(f.Lang, "dockerfile") {
		f.Lang = "dockerfile"
	}
	if f.Namespace != "" {
		if err := function.ValidNamespace(f.Namespace); err != nil {
			p.problem(value, "function %q: %v", f.Name, err)
		}
	}
	switch {
	case len(p.problems) > problems: // what is missing may be what could not be read
	case f.Image == "" && f.Lang == "":
		p.problem(name, "function %q has neither lang and handler, to build it, nor image", f.Name)
	case f.Lang != "" && f.Handler == "" && !f.SkipBuild:
		p.problem(name, "function %q has no handler: the directory of its source code", f.Name)
	}
	return f
}

// setting turns a key of a function into the annotation that carries it.
func (p *parser) setting(f *Function, key string, n *yaml.Node) {
	var text string
	if p.string(&text)(n); text == "" {
		return
	}
	annotation := function.Annotation(key)
	if have, ok := f.Annotations[annotation]; ok && have != text {
		p.problem(n, "%s is %q here and %q in annotations (%s)", key, text, have, annotation)
		return
	}
	if _, err := function.ReadSettings(map[string]string{annotation: text}, nil); err != nil {
		p.problem(n, "%s", strings.TrimPrefix(strings.TrimPrefix(err.Error(), "annotation "), annotation[:len(annotation)-len(key)]))
		return
	}
	if f.Annotations == nil {
		f.Annotations = map[string]string{}
	}
	f.Annotations[annotation] = text
}

// mapping reads n, which must be a mapping, by fields. what names it in
// messages. Unknown keys are warnings with the nearest known one.
func (p *parser) mapping(n *yaml.Node, what string, known fields) {
	for key, value := range p.entries(n, what) {
		if read, ok := known[key.Value]; ok {
			read(value)
			continue
		}
		hint := ""
		if near := nearest(key.Value, known); near != "" {
			hint = fmt.Sprintf("; did you mean %q?", near)
		}
		p.warn(key, "%s has an unknown key %q%s", what, key.Value, hint)
	}
}

// entries yields the keys and values of the mapping n, once each: aliases are
// followed and merge keys ("<<") laid in, where what is written directly wins.
// An empty value is an empty mapping.
func (p *parser) entries(n *yaml.Node, what string) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		n, ok := p.enter(n)
		defer p.leave()
		if !ok || isNull(n) {
			return
		}
		if n.Kind != yaml.MappingNode {
			p.problem(n, "%s is %s, want a map", what, describe(n))
			return
		}
		seen := map[string]bool{}
		var merged []*yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			key, value := n.Content[i], n.Content[i+1]
			if key.Tag == "!!merge" {
				merged = append(merged, value)
				continue
			}
			if key.Kind != yaml.ScalarNode {
				p.problem(key, "%s has a key that is %s, want text", what, describe(key))
				continue
			}
			if seen[key.Value] {
				p.problem(key, "%s has the key %q twice", what, key.Value)
				continue
			}
			seen[key.Value] = true
			if !yield(key, value) {
				return
			}
		}
		for _, m := range merged {
			for key, value := range p.merge(m, what) {
				if seen[key.Value] {
					continue
				}
				seen[key.Value] = true
				if !yield(key, value) {
					return
				}
			}
		}
	}
}

// merge yields what the value of a merge key stands for: a mapping, or a list
// of them of which the earlier win.
func (p *parser) merge(n *yaml.Node, what string) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		n, ok := p.enter(n)
		defer p.leave()
		if !ok {
			return
		}
		if n.Kind != yaml.SequenceNode {
			p.entries(n, what)(yield)
			return
		}
		for _, item := range n.Content {
			for key, value := range p.entries(item, what) {
				if !yield(key, value) {
					return
				}
			}
		}
	}
}

// items yields the elements of the list n. An empty value is an empty list.
func (p *parser) items(n *yaml.Node, what string) func(yield func(*yaml.Node) bool) {
	return func(yield func(*yaml.Node) bool) {
		n, ok := p.enter(n)
		defer p.leave()
		if !ok || isNull(n) {
			return
		}
		if n.Kind != yaml.SequenceNode {
			p.problem(n, "%s is %s, want a list", what, describe(n))
			return
		}
		for _, item := range n.Content {
			if !yield(item) {
				return
			}
		}
	}
}

// enter follows n's alias, and reports whether the file is still within the
// limits. Each enter has its leave.
func (p *parser) enter(n *yaml.Node) (*yaml.Node, bool) {
	p.depth++
	p.nodes++
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if p.tooMuch {
		return n, false
	}
	if p.depth > maxDepth || p.nodes > maxNodes {
		p.tooMuch = true
		p.problem(n, "the file refers to itself, or unfolds to more than %d values", maxNodes)
		return n, false
	}
	return n, true
}

func (p *parser) leave() { p.depth-- }

// string reads a scalar as the text it is written as, so that 1.0 and yes
// need no quotes.
func (p *parser) string(to *string) field {
	return func(n *yaml.Node) {
		n, ok := p.enter(n)
		defer p.leave()
		switch {
		case !ok || isNull(n):
		case n.Kind != yaml.ScalarNode:
			p.problem(n, "there is %s, want text", describe(n))
		default:
			*to = n.Value
		}
	}
}

func (p *parser) image(to *string) field {
	return func(n *yaml.Node) {
		if p.string(to)(n); *to == "" {
			return
		}
		if err := function.ValidImage(*to); err != nil {
			p.problem(n, "%v", err)
		}
	}
}

func (p *parser) bool(to *bool) field {
	return func(n *yaml.Node) {
		var text string
		p.string(&text)(n)
		switch strings.ToLower(text) {
		case "true", "yes", "on":
			*to = true
		case "false", "no", "off", "":
			*to = false
		default:
			p.problem(n, "there is %q, want true or false", text)
		}
	}
}

func (p *parser) stringList(to *[]string) field {
	return func(n *yaml.Node) {
		for item := range p.items(n, "the value") {
			var s string
			p.string(&s)(item)
			*to = append(*to, s)
		}
	}
}

func (p *parser) stringMap(to *map[string]string) field {
	return func(n *yaml.Node) {
		m := map[string]string{}
		for key, value := range p.entries(n, "the value") {
			var s string
			p.string(&s)(value)
			m[key.Value] = s
		}
		if len(m) > 0 {
			*to = m
		}
	}
}

func (p *parser) resources(to *Resources) field {
	return func(n *yaml.Node) {
		p.mapping(n, "the value", fields{
			"memory": func(n *yaml.Node) {
				p.string(&to.Memory)(n)
				p.quantity(n, to.Memory, new(function.Bytes).UnmarshalText)
			},
			"cpu": func(n *yaml.Node) {
				p.string(&to.CPU)(n)
				p.quantity(n, to.CPU, new(function.MilliCPU).UnmarshalText)
			},
		})
	}
}

func (p *parser) quantity(n *yaml.Node, text string, parse func([]byte) error) {
	if text == "" {
		return // "not set", as generated files have it
	}
	if err := parse([]byte(text)); err != nil {
		p.problem(n, "there is %q, %v", text, err)
	}
}

// ignored is the field of keys that older files have and nothing needs.
func (p *parser) ignored(*yaml.Node) {}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	case yaml.ScalarNode:
		if len(n.Value) <= 40 {
			return fmt.Sprintf("%q", n.Value)
		}
		return "text"
	}
	return "something else"
}

// nearest returns the known key that looks most like key, "" if none does.
func nearest(key string, known fields) string {
	best, least := "", 3
	for _, k := range slices.Sorted(maps.Keys(known)) {
		if d := distance(key, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to insert, delete or replace to get from a to
// b. It gives up on long words, which no key is.
func distance(a, b string) int {
	const long = 64
	if len(a) > long {
		return long
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
