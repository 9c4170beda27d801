package chart

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/yaml"
)

// A value is one line of values.yaml that a user can set.
type value struct {
	path string // as in gateway.replicas
	def  string // as YAML
	doc  string
}

// documented returns the values of values.yaml in its order, and the headings
// of its blocks, which have no default.
func documented(t *testing.T, free func(path string) bool) []value {
	t.Helper()
	var document yamlv3.Node
	if err := yamlv3.Unmarshal([]byte(read(t, dir+"/values.yaml")), &document); err != nil {
		t.Fatal(err)
	}
	var all []value
	var walk func(n *yamlv3.Node, prefix string)
	walk = func(n *yamlv3.Node, prefix string) {
		for i := 0; i < len(n.Content); i += 2 {
			key, val := n.Content[i], n.Content[i+1]
			v := value{path: prefix + key.Value, doc: comment(key.HeadComment)}
			if val.Kind == yamlv3.MappingNode && !free(v.path) {
				all = append(all, v)
				walk(val, v.path+".")
				continue
			}
			var def any
			if err := val.Decode(&def); err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(def)
			if err != nil {
				t.Fatal(err)
			}
			v.def = string(text)
			all = append(all, v)
		}
	}
	walk(document.Content[0], "")
	return all
}

// comment returns the last paragraph of a comment without its marks.
func comment(text string) string {
	_, last, found := cut(text, "\n\n")
	if !found {
		last = text
	}
	var words []string
	for line := range strings.Lines(last) {
		words = append(words, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#")))
	}
	return strings.Join(words, " ")
}

// cut is strings.Cut at the last occurrence.
func cut(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// schema is the part of values.schema.json that says which values there are.
type schema struct {
	Properties map[string]schema `json:"properties"`
	Ref        string            `json:"$ref"`
	Type       any               `json:"type"`
	Enum       []any             `json:"enum"`
}

func readSchema(t *testing.T) schema {
	t.Helper()
	var s schema
	if err := json.Unmarshal([]byte(read(t, dir+"/values.schema.json")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// at follows a path.
func (s schema) at(path string) schema {
	for name := range strings.SplitSeq(path, ".") {
		s = s.Properties[name]
	}
	return s
}

// what says in words which values the schema takes.
func (s schema) what() string {
	if len(s.Enum) > 0 {
		var all []string
		for _, v := range s.Enum {
			all = append(all, fmt.Sprint(v))
		}
		return strings.Join(all, ", ")
	}
	if s.Ref != "" {
		return strings.TrimPrefix(s.Ref, "#/definitions/")
	}
	switch types := s.Type.(type) {
	case []any:
		return fmt.Sprint(types[0])
	default:
		return fmt.Sprint(types)
	}
}

// paths lists what is below s, blocks included.
func (s schema) paths(prefix string) []string {
	var all []string
	for name, below := range s.Properties {
		all = append(all, prefix+name)
		all = append(all, below.paths(prefix+name+".")...)
	}
	return all
}

// known is the tree of values without what is in them.
func (s schema) known() map[string]any {
	tree := map[string]any{}
	for name, below := range s.Properties {
		tree[name] = below.known()
	}
	return tree
}

func TestTheSchemaHasExactlyTheDocumentedValues(t *testing.T) {
	s := readSchema(t)
	var got []string
	for _, v := range documented(t, func(path string) bool { return len(s.at(path).Properties) == 0 }) {
		got = append(got, v.path)
	}
	slices.Sort(got)
	if diff := cmp.Diff(slices.Sorted(slices.Values(s.paths(""))), got); diff != "" {
		t.Errorf("values.schema.json and values.yaml differ (-schema +values)\n%s", diff)
	}
}

// checkKnown compares the list that the notes after an installation read, to
// tell which values do nothing, with the schema.
func checkKnown(t *testing.T) {
	t.Helper()
	known, err := yaml.Marshal(readSchema(t).known())
	if err != nil {
		t.Fatal(err)
	}
	golden(t, dir+"/files/known.yaml", "# Every value that the chart knows. Made from values.schema.json by the tests; do not edit.\n"+string(known))
}

func TestTheReferenceIsMadeFromTheValues(t *testing.T) {
	s := readSchema(t)
	var page strings.Builder
	page.WriteString(`# Values of the chart

Generated from [charts/graphene/values.yaml](../../charts/graphene/values.yaml). Names are those of OpenFaaS's chart
where it has one for the same thing. Types are checked; a value that the chart does not know fails nothing, and the
notes after the installation name it, with what to do instead if OpenFaaS's chart has it.

| value | type | default | |
|---|---|---|---|
`)
	for _, v := range documented(t, func(path string) bool { return len(s.at(path).Properties) == 0 }) {
		if v.def == "" {
			if v.doc != "" {
				fmt.Fprintf(&page, "| **`%s`** | | | **%s** |\n", v.path, strings.TrimSuffix(v.doc, "."))
			}
			continue
		}
		fmt.Fprintf(&page, "| `%s` | %s | `%s` | %s |\n", v.path, s.at(v.path).what(), v.def, v.doc)
	}
	page.WriteString(`
## Values of OpenFaaS that do nothing here

| value | instead |
|---|---|
`)
	ignored := parse(t, read(t, dir+"/files/ignored.yaml"))
	for _, path := range slices.Sorted(maps.Keys(ignored)) {
		fmt.Fprintf(&page, "| `%s` | %s |\n", path, ignored[path])
	}
	golden(t, root+"/docs/reference/chart.md", page.String())
}

func TestNoIgnoredValueIsKnown(t *testing.T) {
	known := readSchema(t).paths("")
	for path := range parse(t, read(t, dir+"/files/ignored.yaml")) {
		if slices.Contains(known, path) {
			t.Errorf("%s is in files/ignored.yaml, and the chart knows it", path)
		}
	}
}

func TestTheSchemaRefusesWhatCannotBe(t *testing.T) {
	c := load(t)
	for _, set := range []string{
		`gateway: {replicas: two}`,
		`gateway: {replicas: -1}`,
		`gateway: {readTimeout: soon}`,
		`basic_auth: "yes"`,
		`async: 1`,
		`endpoints: ingress`,
		`serviceType: nodePort`,
		`nats: {replicas: 2}`,
		`nats: {maxFileStore: lots}`,
		`functionNamespace: Open_FaaS`,
		`functionNamespaces: openfaas-fn`,
		`ingress: {hosts: [example.com]}`,
		`auth: "https://example.com"`,
		`auth: {issuers: []}`,
		`auth: {issuers: [{name: corp, url: "https://example.com"}]}`,
		`auth: {roles: [{name: all, policy: [all]}]}`,
		`gateway: {resources: {limits: 1Gi}}`,
		`openfaasImagePullPolicy: always`,
		`queueWorker: {backoff: none}`,
	} {
		if _, err := render(c, parse(t, set)); err == nil {
			t.Errorf("%s was accepted", set)
		} else if !strings.Contains(err.Error(), "don't meet the specifications of the schema") {
			t.Errorf("%s failed with %v, want the schema's refusal", set, err)
		}
	}
}
