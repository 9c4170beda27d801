package kube

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/testkit"
)

var testPods = PodConfig{ImagePullPolicy: "Always", Settle: 2 * time.Second}

// readSource reads a Function and the profiles it names, separated by "---".
func readSource(t *testing.T, path string) source {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var s source
	for document := range bytes.SplitSeq(text, []byte("\n---\n")) {
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(document, &kind); err != nil {
			t.Fatal(err)
		}
		if kind.Kind == "Profile" {
			p := &Profile{}
			if err := yaml.UnmarshalStrict(document, p); err != nil {
				t.Fatal(err)
			}
			s.Profiles = append(s.Profiles, p)
			continue
		}
		s.Function = &Function{}
		if err := yaml.UnmarshalStrict(document, s.Function); err != nil {
			t.Fatal(err)
		}
	}
	s.Function.Namespace, s.Function.UID, s.Function.Generation = "openfaas-fn", "4b6f0e3c", 7
	for _, name := range s.Function.Spec.Secrets {
		if strings.HasPrefix(name, "registry") {
			s.PullSecrets = append(s.PullSecrets, name)
		}
	}
	return s
}

func TestWhatFunctionsAreMadeInto(t *testing.T) {
	inputs, err := filepath.Glob("testdata/render/*.in.yaml")
	if err != nil || len(inputs) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, in := range inputs {
		t.Run(strings.TrimSuffix(filepath.Base(in), ".in.yaml"), func(t *testing.T) {
			o, err := render(readSource(t, in), testPods)
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			for _, object := range []any{o.Deployment, o.Service} {
				text, err := yaml.Marshal(object)
				if err != nil {
					t.Fatal(err)
				}
				out.WriteString("---\n")
				out.Write(text)
			}
			testkit.Golden(t, strings.TrimSuffix(in, ".in.yaml")+".out.yaml", out.Bytes())
		})
	}
}

func TestRenderingTheSameGivesTheSame(t *testing.T) {
	in := "testdata/render/full.in.yaml"
	first, err := render(readSource(t, in), testPods)
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		s := readSource(t, in)
		before := s.Function.DeepCopy()
		again, err := render(s, testPods)
		if err != nil {
			t.Fatal(err)
		}
		if first.hash() != again.hash() {
			t.Fatal("two renderings of one function differ")
		}
		if diff := cmp.Diff(before, s.Function); diff != "" {
			t.Fatalf("rendering changes the function:\n%s", diff)
		}
	}
}

func TestWhatCannotBeRenderedIsSaid(t *testing.T) {
	for want, spec := range map[string]FunctionSpec{
		`constraint "zone"`:             {Constraints: []string{"zone"}},
		`limits.memory is "lots"`:       {Limits: &Resources{Memory: "lots"}},
		`requests.cpu is "x"`:           {Requests: &Resources{CPU: "x"}},
		`periodSeconds is "0"`:          {Annotations: map[string]string{"com.openfaas.ready.http.periodSeconds": "0"}},
		`initialDelaySeconds is "soon"`: {Annotations: map[string]string{"com.openfaas.health.http.initialDelaySeconds": "soon"}},
		`com.graphene.exec_timeout`:     {Annotations: map[string]string{"com.graphene.exec_timeout": "never"}},
	} {
		spec.Name, spec.Image = "f", "i"
		f := &Function{Spec: spec}
		f.Name = "f"
		_, err := render(source{Function: f}, testPods)
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %s", err, want)
		}
	}
}

func TestAnInstallationDecidesAboutItsPods(t *testing.T) {
	o, err := render(readSource(t, "testdata/render/plain.in.yaml"), PodConfig{ImagePullPolicy: "Never", ImageUser: true})
	if err != nil {
		t.Fatal(err)
	}
	pod := o.Deployment.Spec.Template.Spec
	if pod.SecurityContext.RunAsUser != nil || !*pod.SecurityContext.RunAsNonRoot {
		t.Errorf("the security context is %v", pod.SecurityContext)
	}
	if c := pod.Containers[0]; c.ImagePullPolicy != "Never" || c.Lifecycle != nil {
		t.Errorf("the container is %v", c)
	}
}

func TestProfilesAreMergedInTheOrderTheyAreNamed(t *testing.T) {
	got := profileNames(&Function{Spec: FunctionSpec{Annotations: map[string]string{annotationProfile: " gpu, spot ,,gpu"}}})
	if diff := cmp.Diff([]string{"gpu", "spot"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTheRegistryIsAskedOnlyWhereItsAnswerMayHaveChanged(t *testing.T) {
	const tagged, fixed = "r.example/f:latest", "r.example/f:latest@sha256:0123"
	for _, tt := range []struct {
		policy, image string
		want          corev1.PullPolicy
	}{
		{PullAuto, tagged, corev1.PullAlways},
		{PullAuto, fixed, corev1.PullIfNotPresent},
		{"Always", fixed, corev1.PullAlways},
		{"Never", tagged, corev1.PullNever},
	} {
		if got := (PodConfig{ImagePullPolicy: tt.policy}).pullPolicy(tt.image); got != tt.want {
			t.Errorf("%s of %s is %s, want %s", tt.policy, tt.image, got, tt.want)
		}
	}
}
