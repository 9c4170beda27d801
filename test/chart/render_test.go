package chart

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	v2 "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "rewrite golden files, and what is made from values.yaml")

// root is where the repository lies, seen from this package.
const root = "../.."

const dir = root + "/charts/graphene"

func load(t *testing.T) *v2.Chart {
	t.Helper()
	c, err := loader.LoadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// parse reads a file of values.
func parse(t *testing.T, text string) map[string]any {
	t.Helper()
	var all map[string]any
	if err := yaml.Unmarshal([]byte(text), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// render returns what the chart makes of a user's values in a new release, by
// the path of the template, as `helm template` does: without a cluster to look
// into. The values are checked against the schema first.
func render(c *v2.Chart, set map[string]any) (map[string]string, error) {
	release := common.ReleaseOptions{Name: "graphene", Namespace: "openfaas", Revision: 1, IsInstall: true}
	all, err := util.ToRenderValues(c, set, release, common.DefaultCapabilities.Copy())
	if err != nil {
		return nil, err
	}
	rendered, err := engine.Render(c, all)
	if err != nil {
		return nil, err
	}
	for path, text := range rendered {
		for _, r := range random {
			text = r.ReplaceAllString(text, "${1}RANDOM")
		}
		rendered[path] = text
	}
	return rendered, nil
}

// random finds what is new in each rendering.
var random = []*regexp.Regexp{
	regexp.MustCompile(`(issuer\.key: )[A-Za-z0-9+/=]{200,}`),
	regexp.MustCompile(`(basic-auth-password: )[A-Za-z0-9+/=]{56}`),
	regexp.MustCompile(`\b()[A-Za-z0-9]{40}\b`),
}

// manifests joins what was rendered in an order that does not change, without
// the custom resource definitions, which are in the tree already.
func manifests(rendered map[string]string) string {
	var all bytes.Buffer
	for _, path := range slices.Sorted(maps.Keys(rendered)) {
		text := strings.TrimSpace(rendered[path])
		if text == "" || strings.HasSuffix(path, ".tpl") || strings.HasSuffix(path, "/crds.yaml") || strings.HasSuffix(path, "/NOTES.txt") {
			continue
		}
		fmt.Fprintf(&all, "---\n# Source: %s\n%s\n", path, strings.TrimPrefix(text, "---\n"))
	}
	return all.String()
}

// object is one that the chart makes.
type object map[string]any

// field follows path into o; nil if there is no such field.
func (o object) field(path ...string) any {
	var at any = map[string]any(o)
	for _, name := range path {
		m, _ := at.(map[string]any)
		at = m[name]
	}
	return at
}

func (o object) kind() string { return fmt.Sprint(o.field("kind")) }
func (o object) name() string { return fmt.Sprint(o.field("metadata", "name")) }

// pod returns the template of o's pods; nil if o makes none.
func (o object) pod() object {
	pod, _ := o.field("spec", "template").(map[string]any)
	return pod
}

// objects reads what was rendered.
func objects(t *testing.T, rendered map[string]string) []object {
	t.Helper()
	var all []object
	for path, text := range rendered {
		if strings.HasSuffix(path, "/NOTES.txt") {
			continue
		}
		for _, document := range regexp.MustCompile(`(?m)^---$`).Split(text, -1) {
			var o object
			if err := yaml.UnmarshalStrict([]byte(document), &o); err != nil {
				t.Fatalf("%s: %v\n%s", path, err, document)
			}
			if o != nil {
				all = append(all, o)
			}
		}
	}
	slices.SortFunc(all, func(a, b object) int { return strings.Compare(a.kind()+a.name(), b.kind()+b.name()) })
	return all
}

// sets returns the sets of values that are rendered, by their names.
func sets(t *testing.T) map[string]map[string]any {
	t.Helper()
	files, err := filepath.Glob("testdata/*.values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sets of values: %v", err)
	}
	all := map[string]map[string]any{}
	for _, file := range files {
		all[strings.TrimSuffix(filepath.Base(file), ".values.yaml")] = parse(t, read(t, file))
	}
	return all
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(read(t, name), got); diff != "" {
		t.Errorf("%s differs; if it should: go test ./... -update, in test/chart (-want +got)\n%s", name, diff)
	}
}
