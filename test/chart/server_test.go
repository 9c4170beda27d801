package chart

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

// An apiServer is a real API server, with helm and kubectl as users have them.
// What the tests make there they remove.
type apiServer struct {
	t         *testing.T
	environ   []string
	namespace string // of the release
	functions string // namespace of functions
}

// newServer returns the server that GRAPHENE_TEST_KUBECONFIG leads to, with a
// namespace of its own for a release. helm and kubectl are in the path. An API
// server without controllers is enough: `go run . light up` in test/cluster
// starts one.
func newServer(t *testing.T) apiServer {
	t.Helper()
	kubeconfig := os.Getenv("GRAPHENE_TEST_KUBECONFIG")
	if kubeconfig == "" {
		t.Skip("SKIPPED: the variable GRAPHENE_TEST_KUBECONFIG names no API server")
	}
	for _, program := range []string{"helm", "kubectl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatal(err)
		}
	}
	name := "graphene-" + strings.ToLower(rand.Text()[:8])
	s := apiServer{t: t, environ: append(os.Environ(), "KUBECONFIG="+kubeconfig), namespace: name, functions: name + "-fn"}
	s.kubectl("create", "namespace", name)
	t.Cleanup(func() {
		_, _ = s.try(nil, "helm", "uninstall", "graphene", "-n", s.namespace)
		s.kubectl("delete", "namespace", s.namespace, s.functions, "--ignore-not-found", "--wait=false")
	})
	return s
}

// try runs a program with input and returns what it printed.
func (s apiServer) try(input []byte, program string, args ...string) (string, error) {
	s.t.Helper()
	cmd := exec.CommandContext(context.Background(), program, args...) // cleaning up runs after the test's context
	cmd.Env, cmd.Stdin = s.environ, bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (s apiServer) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.try(nil, "kubectl", args...)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// helm runs install or upgrade with values.
func (s apiServer) helm(command string, set map[string]any) string {
	s.t.Helper()
	set = with(set, []string{"functionNamespace"}, s.functions)
	text, err := yaml.Marshal(set)
	if err != nil {
		s.t.Fatal(err)
	}
	out, err := s.try(text, "helm", command, "graphene", dir, "-n", s.namespace, "-f", "-")
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// get returns a field of an object in the release's namespace.
func (s apiServer) get(object, field string) string {
	s.t.Helper()
	return s.kubectl("get", "-n", s.namespace, object, "-o", "jsonpath={"+field+"}")
}

func (s apiServer) definitions() []string {
	s.t.Helper()
	return strings.Fields(s.kubectl("get", "crd", "-o", "name", "-l", "app.kubernetes.io/part-of=graphene"))
}

func TestTheServerTakesEverySetOfValues(t *testing.T) {
	for name, set := range sets(t) {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			// The server does not know the kind, and the namespaces are others' in
			// the next run.
			set = with(with(set, []string{"serviceMonitor", "enabled"}, false), []string{"functionNamespaces"}, []any{})
			if name == "minimal" {
				s.kubectl("create", "namespace", s.functions) // the chart is told not to
			}
			s.helm("install", set)
			s.helm("upgrade", set)
			// The pods themselves, where only restricted ones are let in.
			s.kubectl("label", "namespace", s.namespace, "pod-security.kubernetes.io/enforce=restricted")
			c := load(t)
			rendered, err := render(c, set)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range objects(t, rendered) {
				pod := o.pod()
				if pod == nil {
					continue
				}
				pod["apiVersion"], pod["kind"] = "v1", "Pod"
				pod["metadata"] = map[string]any{"name": o.name()}
				delete(pod["spec"].(map[string]any), "priorityClassName") // which the server does not have
				if claims, _ := o.field("spec", "volumeClaimTemplates").([]any); claims != nil {
					volumes := pod.field("spec", "volumes").([]any)
					pod["spec"].(map[string]any)["volumes"] = append(volumes, map[string]any{"name": "data", "emptyDir": map[string]any{}})
				}
				text, err := yaml.Marshal(pod)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.try(text, "kubectl", "create", "-n", s.namespace, "--dry-run=server", "-f", "-"); err != nil {
					t.Errorf("pod of %s: %v", o.name(), err)
				}
			}
		})
	}
}

func TestAnUpgradeKeepsThePasswords(t *testing.T) {
	s := newServer(t)
	secrets := func() string {
		return s.get("secret/basic-auth", ".data.basic-auth-user} {.data.basic-auth-password") + " " + s.get("secret/nats-auth", ".data.password")
	}
	s.helm("install", nil)
	first := secrets()
	if words := strings.Fields(first); len(words) != 3 || slices.ContainsFunc(words[1:], func(w string) bool { return len(w) < 40 }) {
		t.Fatalf("the secrets hold %d words, want a user and two long passwords", len(words))
	}
	// What of a volume was claimed once cannot change, as Kubernetes has it.
	s.helm("upgrade", with(sets(t)["ha"], []string{"nats", "persistence"}, map[string]any{}))
	if secrets() != first {
		t.Error("an upgrade changed a password")
	}
	if _, err := s.try(nil, "helm", "rollback", "graphene", "1", "-n", s.namespace); err != nil {
		t.Fatal(err)
	}
	if secrets() != first {
		t.Error("a rollback changed a password")
	}
}

func TestAPasswordThatWasThereIsUsed(t *testing.T) {
	s := newServer(t)
	s.kubectl("create", "namespace", s.functions)
	s.kubectl("create", "secret", "generic", "basic-auth", "-n", s.namespace, "--from-literal=basic-auth-user=me", "--from-literal=basic-auth-password=mine")
	before := s.get("secret/basic-auth", ".metadata.resourceVersion")
	s.helm("install", nil)
	s.helm("upgrade", parse(t, `gateway: {replicas: 3}`))
	if after := s.get("secret/basic-auth", ".metadata.resourceVersion"); after != before {
		t.Error("the secret basic-auth was changed, and is not the release's")
	}
}

func TestFunctionsAndTheirDefinitionsSurviveAnUninstall(t *testing.T) {
	s := newServer(t)
	if had := s.definitions(); len(had) > 0 {
		t.Skipf("SKIPPED: the server has %s from elsewhere, which stay untouched", had)
	}
	s.helm("install", nil)
	defined := s.definitions()
	if len(defined) < 2 {
		t.Fatalf("the chart installed the definitions %s", defined)
	}
	t.Cleanup(func() { s.kubectl(append([]string{"delete", "--wait=false"}, defined...)...) })
	if _, err := s.try(nil, "helm", "uninstall", "graphene", "-n", s.namespace); err != nil {
		t.Fatal(err)
	}
	if left := s.definitions(); !slices.Equal(left, defined) {
		t.Errorf("an uninstall left the definitions %s of %s", left, defined)
	}
	s.kubectl("get", "namespace", s.functions)
	if left := s.kubectl("get", "deploy,sts,svc,secret,role,networkpolicy", "-n", s.namespace, "-o", "name"); strings.TrimSpace(left) != "" {
		t.Errorf("an uninstall left %s", left)
	}
	// The same release again has them back; another one uses them and says so.
	s.helm("install", nil)
	other := newServer(t)
	if notes := other.helm("install", nil); !strings.Contains(notes, "functions.openfaas.com") {
		t.Errorf("the notes do not name definitions that another release has:\n%s", notes)
	}
}

func TestTheProviderMayDoWhatItMustAndNoMore(t *testing.T) {
	namespaced := newServer(t)
	namespaced.helm("install", nil)
	wide := newServer(t)
	wide.helm("install", parse(t, "clusterRole: true"))
	var reviews []any
	var want []string
	for _, tt := range []struct {
		verb, what string
		// Whether with rights in namespaces: where functions are, where the
		// platform is, elsewhere; and with rights in the cluster, elsewhere.
		functions, platform, elsewhere, wide bool
	}{
		{"create", "openfaas.com/functions", true, false, false, true},
		{"patch", "openfaas.com/functions/status", true, false, false, true},
		{"create", "apps/deployments", true, false, false, true},
		{"patch", "apps/deployments/scale", true, false, false, true},
		{"get", "/pods/log", true, false, false, true},
		{"patch", "/pods", true, false, false, true},
		{"list", "/secrets", true, false, false, true},
		{"watch", "openfaas.com/profiles", false, true, false, false},
		{"update", "coordination.k8s.io/leases/graphene-provider", false, true, false, false},
		{"update", "coordination.k8s.io/leases/another", false, false, false, false},
		{"create", "/namespaces", false, false, false, true},
		{"create", "/pods", false, false, false, false},
		{"create", "/pods/exec", false, false, false, false},
		{"create", "rbac.authorization.k8s.io/roles", false, false, false, false},
		{"list", "/nodes", false, false, false, false},
		{"impersonate", "/users", false, false, false, false},
	} {
		for _, where := range []struct {
			s         apiServer
			namespace string
			want      bool
		}{
			{namespaced, namespaced.functions, tt.functions},
			{namespaced, namespaced.namespace, tt.platform},
			{namespaced, "default", tt.elsewhere},
			{wide, "default", tt.wide},
		} {
			reviews = append(reviews, review(where.s, tt.verb, tt.what, where.namespace))
			want = append(want, fmt.Sprintf("%s %s in %s: %t", tt.verb, tt.what, where.namespace, where.want))
		}
	}
	text, err := yaml.Marshal(map[string]any{"apiVersion": "v1", "kind": "List", "items": reviews})
	if err != nil {
		t.Fatal(err)
	}
	answer, err := namespaced.try(text, "kubectl", "create", "-f", "-", "-o", `jsonpath={.status.allowed}{"\n"}`)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for i, allowed := range strings.Fields(answer) {
		got = append(got, want[i][:strings.LastIndex(want[i], " ")+1]+allowed)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// review asks whether a release's provider may do something in a namespace.
// what is GROUP/RESOURCE, and after another slash its subresource, or its name
// if the verb is update.
func review(s apiServer, verb, what, namespace string) any {
	parts := append(strings.Split(what, "/"), "")
	attributes := map[string]any{"verb": verb, "group": parts[0], "resource": parts[1], "namespace": namespace}
	if verb == "update" {
		attributes["name"] = parts[2]
	} else {
		attributes["subresource"] = parts[2]
	}
	return map[string]any{
		"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
		"spec": map[string]any{"user": "system:serviceaccount:" + s.namespace + ":provider", "resourceAttributes": attributes},
	}
}
