package stack_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/internal/fault"
)

func TestAFunctionIsAddedAndTheRestOfTheFileStays(t *testing.T) {
	b := stack.Function{Name: "b", Lang: "go", Handler: "./b", Image: "b:latest", Limits: stack.Resources{Memory: "64Mi"}}
	for _, tt := range []struct{ name, text, want string }{
		{
			"a new file", string(stack.New("http://127.0.0.1:8080")),
			"version: 1.0\nprovider:\n  name: openfaas\n  gateway: http://127.0.0.1:8080\nfunctions:\n  b:\n    lang: go\n    handler: ./b\n    image: b:latest\n    limits:\n      memory: 64Mi\n",
		},
		{
			"no line end, deep indentation", "functions:\n    a:\n        image: a # mine",
			"functions:\n    a:\n        image: a # mine\n    b:\n        lang: go\n        handler: ./b\n        image: b:latest\n        limits:\n            memory: 64Mi\n",
		},
		{
			"something after the functions", "functions:\n  a:\n    image: a\n\n# What we share.\nconfiguration:\n  copy: [x]\n",
			"functions:\n  a:\n    image: a\n\n  b:\n    lang: go\n    handler: ./b\n    image: b:latest\n    limits:\n      memory: 64Mi\n# What we share.\nconfiguration:\n  copy: [x]\n",
		},
	} {
		got, err := stack.Append("stack.yaml", []byte(tt.text), b)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if diff := cmp.Diff(tt.want, string(got)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.name, diff)
		}
	}

	for text, kind := range map[string]fault.Kind{
		"functions:\n  b:\n    image: b\n":   fault.Exists,
		"functions: {a: {image: a}}\n":       fault.Invalid,
		"functions: 3\n":                     fault.Invalid,
		"version: 1.0\n":                     fault.Invalid,
		"functions:\n  - not a map\n":        fault.Invalid,
		"functions: {}\nconfiguration: {}\n": fault.Invalid,
	} {
		if got, err := stack.Append("stack.yaml", []byte(text), b); !errors.Is(err, kind) {
			t.Errorf("Append to %q = %q, %v; want %s", text, got, err, kind)
		}
	}
}

func FuzzAppend(f *testing.F) {
	f.Add([]byte(complete))
	f.Add([]byte("functions:\n"))
	f.Add([]byte("functions:\n\ta: b"))
	f.Fuzz(func(t *testing.T, text []byte) {
		out, err := stack.Append("stack.yaml", text, stack.Function{Name: "zz", Lang: "go", Handler: "./zz", Image: "zz:latest"})
		if err != nil {
			return
		}
		st, err := stack.Parse("stack.yaml", out)
		if err != nil {
			t.Fatalf("%q became %q: %v", text, out, err)
		}
		if fn, ok := st.Function("zz"); !ok || fn.Image != "zz:latest" {
			t.Errorf("%q became %q, whose function is %+v", text, out, fn)
		}
	})
}
