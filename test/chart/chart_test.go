package chart

import (
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
)

func TestTheChartRendersTheGoldenFiles(t *testing.T) {
	checkKnown(t) // which the notes are made from
	c := load(t)
	for name, set := range sets(t) {
		t.Run(name, func(t *testing.T) {
			rendered, err := render(c, set)
			if err != nil {
				t.Fatal(err)
			}
			objects(t, rendered) // fails for what is no YAML, or has a key twice
			golden(t, "testdata/"+name+".golden.yaml", manifests(rendered))
			golden(t, "testdata/"+name+".golden.txt", rendered["graphene/templates/NOTES.txt"])
		})
	}
}

func TestHelmsLinterFindsNothing(t *testing.T) {
	for name, set := range sets(t) {
		for _, m := range lint.RunAll(dir, set, "openfaas").Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %s", name, m)
			}
		}
	}
}

func TestTheDefinitionsAreTheProviders(t *testing.T) {
	ours, err := filepath.Glob(dir + "/files/crd/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := filepath.Glob(root + "/provider/kube/crd/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(theirs) < 2 || len(ours) != len(theirs) {
		t.Fatalf("the chart has %q, the provider %q", ours, theirs)
	}
	for _, file := range theirs {
		golden(t, filepath.Join(dir, "files/crd", filepath.Base(file)), read(t, file))
	}
	rendered, err := render(load(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range objects(t, rendered) {
		if o.kind() == "CustomResourceDefinition" && o.field("metadata", "annotations", "helm.sh/resource-policy") != "keep" {
			t.Errorf("%s does not survive an uninstall", o.name())
		}
	}
}

// TestEveryPodIsRestricted holds the pods to the restricted profile of
// Kubernetes, and to more: no writable root, a user of its own, and limits.
func TestEveryPodIsRestricted(t *testing.T) {
	c := load(t)
	for name, set := range sets(t) {
		rendered, err := render(c, set)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects(t, rendered) {
			pod := o.pod()
			if pod == nil {
				continue
			}
			where := name + ": " + o.name()
			wantPod := map[string]any{
				"runAsNonRoot": true, "runAsUser": 65532.0, "runAsGroup": 65532.0, "fsGroup": 65532.0,
				"seccompProfile": map[string]any{"type": "RuntimeDefault"},
			}
			if diff := cmp.Diff(wantPod, pod.field("spec", "securityContext")); diff != "" {
				t.Errorf("%s: %s", where, diff)
			}
			if token := pod.field("spec", "automountServiceAccountToken"); token != (o.name() == "provider") {
				t.Errorf("%s: automountServiceAccountToken is %v", where, token)
			}
			for _, each := range pod.field("spec", "containers").([]any) {
				container := object(each.(map[string]any))
				want := map[string]any{
					"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
					"capabilities": map[string]any{"drop": []any{"ALL"}},
				}
				if diff := cmp.Diff(want, container.field("securityContext")); diff != "" {
					t.Errorf("%s: %s", where, diff)
				}
				for _, part := range []string{"readinessProbe", "livenessProbe", "resources"} {
					if container.field(part) == nil {
						t.Errorf("%s has no %s", where, part)
					}
				}
			}
		}
	}
}

// TestPodsAreSetUpByWhatTheirProgramsRead compares the environment of each
// program with its reference page, which is made from its settings.
func TestPodsAreSetUpByWhatTheirProgramsRead(t *testing.T) {
	c := load(t)
	for name, set := range sets(t) {
		rendered, err := render(c, set)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range objects(t, rendered) {
			if o.kind() != "Deployment" {
				continue
			}
			page := read(t, root+"/docs/reference/"+o.name()+".md")
			seen := map[string]bool{}
			for _, each := range o.pod().field("spec", "containers").([]any)[0].(map[string]any)["env"].([]any) {
				setting := fmt.Sprint(each.(map[string]any)["name"])
				if seen[setting] && name != "mesh" {
					t.Errorf("%s: %s has %s twice", name, o.name(), setting)
				}
				seen[setting] = true
				if !strings.Contains(page, "| `"+setting+"` |") {
					t.Errorf("%s: %s has the variable %s, which docs/reference/%s.md does not have", name, o.name(), setting, o.name())
				}
			}
		}
	}
}

func TestServiceAccountsNeedRulesAsResources(t *testing.T) {
	c := load(t)
	for values, ok := range map[string]bool{
		"iam: {serviceAccounts: {enabled: true}}":                false,
		"iam: {enabled: true, serviceAccounts: {enabled: true}}": true,
		"iam: {serviceAccounts: {audience: other}}":              true,
	} {
		if _, err := render(c, parse(t, values)); (err == nil) != ok {
			t.Errorf("%s: %v", values, err)
		}
	}
}

// TestEveryValueDoesSomething changes one value after the other and expects
// that what is rendered changes too, with one of several sets of others.
func TestEveryValueDoesSomething(t *testing.T) {
	c := load(t)
	text := func(set map[string]any) string {
		rendered, err := render(c, set)
		if err != nil {
			return "" // a change that the schema refuses shows nothing
		}
		return manifests(rendered) + rendered["graphene/templates/crds.yaml"]
	}
	all := sets(t)
	bases := []map[string]any{{}, all["ingress"], all["mesh"], all["external-nats"], all["cluster-wide"], all["identity"], parse(t, "{exposeServices: true, nats: {external: {enabled: true, host: nats}}}")}
	before := make([]string, len(bases))
	for i, base := range bases {
		if before[i] = text(base); before[i] == "" {
			t.Fatalf("%v is not rendered", base)
		}
	}
	matters := func(path string, at schema) bool {
		for i, base := range bases {
			for _, other := range others(at) {
				if after := text(with(base, strings.Split(path, "."), other)); after != "" && after != before[i] {
					return true
				}
			}
		}
		return false
	}
	s := readSchema(t)
	for _, path := range s.paths("") {
		if at := s.at(path); len(at.Properties) == 0 && !matters(path, at) {
			t.Errorf("%s changes nothing", path)
		}
	}
}

// others returns values of s, at least one of which is not the default.
func others(s schema) []any {
	if len(s.Enum) > 0 {
		return s.Enum
	}
	switch s.what() {
	case "boolean":
		return []any{true, false}
	case "integer":
		return []any{7.0}
	case "number":
		return []any{0.7}
	case "string":
		return []any{"other", "/other"}
	case "duration":
		return []any{"7s"}
	case "bytes":
		return []any{"7M"}
	case "array":
		return []any{[]any{map[string]any{"host": "other", "name": "other"}}, []any{"other"}}
	case "rules":
		return []any{map[string]any{"issuers": []any{map[string]any{"name": "other", "iss": "https://other", "aud": "other"}}}}
	case "resources":
		return []any{map[string]any{"requests": map[string]any{"cpu": 7.0}}}
	}
	return []any{map[string]any{"other": "other"}}
}

// with returns set with a value at path.
func with(set map[string]any, path []string, value any) map[string]any {
	changed := maps.Clone(set)
	if changed == nil {
		changed = map[string]any{}
	}
	if len(path) > 1 {
		below, _ := changed[path[0]].(map[string]any)
		value = with(below, path[1:], value)
	}
	changed[path[0]] = value
	return changed
}
