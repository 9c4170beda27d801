package stack_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/internal/fault"
)

const complete = `version: 1.0
provider:
  name: openfaas
  gateway: http://127.0.0.1:8080

x-common: &common
  TZ: UTC
  level: debug

functions:
  wine:
    lang: python3-model
    handler: ./wine
    image: wine:latest
    namespace: lab
    fprocess: python3 -m graphene_function
    environment:
      <<: *common
      level: info
      write_debug: true
      retries: 3
      empty:
    environment_file: [env.yml]
    secrets: [api-key]
    constraints: ["node.role == worker"]
    labels:
      com.openfaas.scale.max: 4
    annotations:
      topic: a,b
    limits: {memory: 128Mi, cpu: 500m}
    requests: {memory: 64Mi, cpu: ""}
    readonly_root_filesystem: true
    workers: 2
    exec_timeout: 5s
    build_args: {A: 1}
    build_options: [dev]
    build_secrets: {npm: ./npmrc}
    platforms: linux/amd64
  figlet:
    skip_build: true
    image: ghcr.io/openfaas/figlet:latest

configuration:
  templates:
    - name: rust
      source: https://example.com/rust.git#v1
  copy: [./shared]
`

func TestACompleteFileIsRead(t *testing.T) {
	got, err := stack.Parse("stack.yaml", []byte(complete))
	if err != nil {
		t.Fatal(err)
	}
	want := &stack.Stack{
		Name:     "stack.yaml",
		Provider: stack.Provider{Name: "openfaas", Gateway: "http://127.0.0.1:8080"},
		Functions: []stack.Function{{
			Name:             "wine",
			Namespace:        "lab",
			Lang:             "python3-model",
			Handler:          "./wine",
			Image:            "wine:latest",
			FProcess:         "python3 -m graphene_function",
			Environment:      map[string]string{"TZ": "UTC", "level": "info", "write_debug": "true", "retries": "3", "empty": ""},
			EnvironmentFiles: []string{"env.yml"},
			Secrets:          []string{"api-key"},
			Constraints:      []string{"node.role == worker"},
			Labels:           map[string]string{"com.openfaas.scale.max": "4"},
			Annotations:      map[string]string{"topic": "a,b", "com.graphene.workers": "2", "com.graphene.exec_timeout": "5s"},
			Limits:           stack.Resources{Memory: "128Mi", CPU: "500m"},
			Requests:         stack.Resources{Memory: "64Mi"},

			ReadOnlyRootFilesystem: true,

			BuildArgs:    map[string]string{"A": "1"},
			BuildOptions: []string{"dev"},
		}, {
			Name:      "figlet",
			Image:     "ghcr.io/openfaas/figlet:latest",
			SkipBuild: true,
		}},
		Templates: []stack.TemplateSource{{Name: "rust", Source: "https://example.com/rust.git#v1"}},
		Copy:      []string{"./shared"},
		Warnings: []string{
			`stack.yaml:6:1: the file has an unknown key "x-common"`,
			`stack.yaml:37:20: build_secrets has no effect: builds take no secrets yet`,
			`stack.yaml:38:16: platforms has no effect: "graphene build --target" chooses the machine to build for`,
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestEveryProblemIsReportedWithItsPlace(t *testing.T) {
	_, err := stack.Parse("s.yml", []byte(`version: "2"
provider: {name: faas}
functions:
  Bad_Name:
    lang: go
    handler: ./x
  none: {}
  half:
    lang: go
  loud:
    image: x
    workers: many
    limits: {memory: lots}
    readonly_root_filesystem: perhaps
    environment: [a]
    lang: {}
  loud:
    image: y
  named:
    image: me/Wine:latest
`))
	if !errors.Is(err, fault.Invalid) {
		t.Fatalf("err = %v, want fault.Invalid", err)
	}
	want := []string{
		`s.yml:1:10: version is "2"; the only one there is is "1.0"`,
		`s.yml:2:18: provider.name is "faas"; it must be "openfaas"`,
		`s.yml:4:3: function name "Bad_Name" must be lower-case letters, digits and inner dashes`,
		`s.yml:7:3: function "none" has neither lang and handler, to build it, nor image`,
		`s.yml:8:3: function "half" has no handler: the directory of its source code`,
		`s.yml:13:22: there is "lots", want an amount of memory such as 500M, 64Mi or 2Gi`,
		`s.yml:14:31: there is "perhaps", want true or false`,
		`s.yml:15:18: the value is a list, want a map`,
		`s.yml:16:11: there is a map, want text`,
		`s.yml:12:14: workers is "many": want a whole number, 0 or more`,
		`s.yml:17:3: functions has the key "loud" twice`,
		`s.yml:20:12: image "me/Wine:latest": a name has no capital letters`,
	}
	if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAnUnknownKeyIsAWarningThatNamesItsNeighbour(t *testing.T) {
	got, err := stack.Parse("stack.yaml", []byte("functions:\n  a:\n    image: a\n    secret: [x]\n    flavour: sweet\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`stack.yaml:4:5: function "a" has an unknown key "secret"; did you mean "secrets"?`,
		`stack.yaml:5:5: function "a" has an unknown key "flavour"`,
	}
	if diff := cmp.Diff(want, got.Warnings); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestBrokenYAMLIsReportedWithItsLine(t *testing.T) {
	for text, want := range map[string]string{
		"functions:\n  a: [1\n":         "did not find expected",
		"a\nb: c":                       "stack.yaml:2: ",
		"functions: 3":                  `stack.yaml:1:12: functions is "3", want a map`,
		"- a":                           "stack.yaml:1:1: the file is a list, want a map",
		"a: b\n---\nc: d\n":             "stack.yaml:2:1: a second document begins here",
		"functions: &a\n  b: *a\n":      "stack.yaml:2:",
		"functions: {a: &x {<<: *x}}\n": "refers to itself",
	} {
		_, err := stack.Parse("stack.yaml", []byte(text))
		if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q): %v, want fault.Invalid with %q", text, err, want)
		}
	}
}

func TestAliasesCannotUnfoldWithoutLimit(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 {k: v}\n")
	for i := range 40 {
		// Each level stands for twice the one before.
		n, m := string(rune('A'+i/26))+string(rune('a'+i%26)), "a0"
		if i > 0 {
			m = string(rune('A'+(i-1)/26)) + string(rune('a'+(i-1)%26))
		}
		b.WriteString(n + ": &" + n + " {<<: [*" + m + ", *" + m + "]}\n")
		if i == 39 {
			b.WriteString("functions: {f: {image: x, environment: *" + n + "}}\n")
		}
	}
	_, err := stack.Parse("stack.yaml", []byte(b.String()))
	if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "unfolds to more than") {
		t.Errorf("err = %v", err)
	}
}

func TestVariablesAreReplacedBeforeTheFileIsRead(t *testing.T) {
	env := map[string]string{"TAG": "1.2"}
	got, err := stack.Expand("stack.yaml", []byte("image: ${REGISTRY:-ghcr.io}/a:${TAG}${GONE}\n"), func(k string) string { return env[k] })
	if err != nil || string(got) != "image: ghcr.io/a:1.2\n" {
		t.Errorf("Expand = %q, %v", got, err)
	}
	if _, err := stack.Expand("stack.yaml", []byte("image: ${TAG"), func(string) string { return "" }); !errors.Is(err, fault.Invalid) {
		t.Errorf("err = %v, want fault.Invalid", err)
	}
}

func TestSelect(t *testing.T) {
	st := &stack.Stack{Name: "stack.yaml", Functions: []stack.Function{{Name: "hello"}, {Name: "help"}, {Name: "wine"}}}
	for _, tt := range []struct {
		by   stack.Selection
		want string
		kind fault.Kind
	}{
		{stack.Selection{}, "hello help wine", ""},
		{stack.Selection{Filter: "hel*"}, "hello help", ""},
		{stack.Selection{Regex: "^w|p$"}, "help wine", ""},
		{stack.Selection{Names: []string{"wine", "hello"}}, "hello wine", ""},
		{stack.Selection{Names: []string{"beer"}}, "", fault.NotFound},
		{stack.Selection{Filter: "x*"}, "", fault.NotFound},
		{stack.Selection{Filter: "[", Names: nil}, "", fault.Invalid},
		{stack.Selection{Regex: "("}, "", fault.Invalid},
		{stack.Selection{Regex: "a", Filter: "b"}, "", fault.Invalid},
	} {
		picked, err := st.Select(tt.by)
		var names []string
		for _, f := range picked {
			names = append(names, f.Name)
		}
		if got := strings.Join(names, " "); got != tt.want {
			t.Errorf("Select(%+v) = %q, want %q", tt.by, got, tt.want)
		}
		if (err != nil) != (tt.kind != "") || err != nil && !errors.Is(err, tt.kind) {
			t.Errorf("Select(%+v): %v, want %s", tt.by, err, tt.kind)
		}
	}
}

func TestEnvironmentFiles(t *testing.T) {
	got, err := stack.ParseEnvironment("env.yml", []byte("environment:\n  A: 1\n  B: yes\n"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"A": "1", "B": "yes"}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if _, err := stack.ParseEnvironment("env.yml", []byte("environment: x")); !errors.Is(err, fault.Invalid) {
		t.Errorf("err = %v, want fault.Invalid", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(complete))
	f.Add([]byte("functions: {a: &x {<<: *x}}"))
	f.Add([]byte("functions:\n  a:\n    image: a\n    environment: {<<: [1, {}, []]}\n"))
	f.Add([]byte("? {a: b}\n: [*x]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		st, err := stack.Parse("stack.yaml", text)
		if err != nil {
			if !errors.Is(err, fault.Invalid) || !strings.HasPrefix(err.Error(), "stack.yaml:") {
				t.Errorf("error %v has no kind or no place", err)
			}
			return
		}
		for _, fn := range st.Functions {
			if fn.Name == "" || fn.Image == "" && fn.Lang == "" {
				t.Errorf("function %+v cannot be deployed", fn)
			}
		}
	})
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"${A}", "${A:-b}", "${A", "$$", "${A/b/c}", "${#A}", "${A:1:2}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, err := stack.Expand("stack.yaml", []byte(s), func(string) string { return "value" })
		if err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("Expand(%q): %v", s, err)
		}
	})
}
