package provider

import (
	"strings"
	"testing"

	"github.com/openfaas/faas-provider/types"
)

type (
	deployment = types.FunctionDeployment
	resources  = types.FunctionResources
)

func TestValidateReportsEveryProblem(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(d *deployment)
		want []string // parts of the text; none: valid
	}{
		{"a plain one", func(*deployment) {}, nil},
		{"empty quantities", func(d *deployment) { d.Limits = &resources{}; d.Requests = &resources{Memory: "", CPU: ""} }, nil},
		{"quantities", func(d *deployment) { d.Limits = &resources{Memory: "64Mi", CPU: "100m", NvidiaGPU: "1"} }, nil},
		{"no name", func(d *deployment) { d.Service = "" }, []string{"service"}},
		{"a name that is none", func(d *deployment) { d.Service = "Echo_1" }, []string{`"Echo_1"`}},
		{"a name with a namespace", func(d *deployment) { d.Service = "a.b" }, []string{`"a.b"`}},
		{"a namespace that is none", func(d *deployment) { d.Namespace = "-x" }, []string{`namespace "-x"`}},
		{"no image", func(d *deployment) { d.Image = "" }, []string{"image is missing"}},
		{"an image with a space", func(d *deployment) { d.Image = "a b" }, []string{`image "a b"`}},
		{"memory", func(d *deployment) { d.Limits = &resources{Memory: "lots"} }, []string{`limits.memory is "lots"`}},
		{"cpu", func(d *deployment) { d.Requests = &resources{CPU: "-1"} }, []string{`requests.cpu is "-1"`}},
		{"devices", func(d *deployment) { d.Limits = &resources{NvidiaGPU: "half"} }, []string{`limits.nvidia.com/gpu is "half"`}},
		{"settings", func(d *deployment) { d.Annotations = &map[string]string{"com.graphene.workers": "many"} }, []string{"com.graphene.workers", "many"}},
		{"settings in the environment", func(d *deployment) { d.EnvVars = map[string]string{"exec_timeout": "soon"} }, []string{"exec_timeout", "soon"}},
		{"scale", func(d *deployment) { d.Labels = &map[string]string{"com.openfaas.scale.min": "-1"} }, []string{"com.openfaas.scale.min"}},
		{"environment names", func(d *deployment) { d.EnvVars = map[string]string{"a=b": ""} }, []string{`"a=b"`}},
		{"environment values", func(d *deployment) { d.EnvVars = map[string]string{"a": "\x00"} }, []string{`"a"`}},
		{"secrets", func(d *deployment) { d.Secrets = []string{"../x"} }, []string{`"../x"`}},
		{"several at once", func(d *deployment) { d.Image, d.Service, d.Secrets = "", "-", []string{""} }, []string{"image", `"-"`, "secret name"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := deployment{Service: "echo", Namespace: "openfaas-fn", Image: "echo:latest"}
			tt.edit(&d)
			err := validate(d)
			if (err == nil) != (len(tt.want) == 0) {
				t.Fatalf("got %v", err)
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %s", err, part)
				}
			}
		})
	}
}
