package templates_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/templates"
)

func TestEveryTemplateDescribesItself(t *testing.T) {
	names := map[string]bool{}
	for _, template := range templates.List() {
		t.Run(template.Name, func(t *testing.T) {
			if template.Description == "" || strings.HasSuffix(template.Description, ".") {
				t.Errorf("description %q, want one line without a full stop", template.Description)
			}
			if template.Config.Language != template.Name {
				t.Errorf("language %q, want the template's name", template.Config.Language)
			}
			if template.Config.WelcomeMessage == "" {
				t.Error("no welcome message")
			}
			for _, name := range append(template.Config.Aliases, template.Name) {
				if names[name] {
					t.Errorf("two templates answer to %s", name)
				}
				names[name] = true
				if got, ok := templates.Get(name); !ok || got.Name != template.Name {
					t.Errorf("Get(%q) = %q, %t", name, got.Name, ok)
				}
			}
			if err := fstest.TestFS(template.Files, "README.md"); err != nil {
				t.Errorf("files: %v", err)
			}
		})
	}
}

func TestOpenFaaSNamesFindTheTemplateWithTheSameHandler(t *testing.T) {
	for alias, want := range map[string]string{
		"golang-middleware":   "go",
		"python3-http-debian": "python3-http",
		"python3-flask":       "python3",
	} {
		if got, ok := templates.Get(alias); !ok || got.Name != want {
			t.Errorf("Get(%q) = %q, %t, want %q", alias, got.Name, ok, want)
		}
	}
	if got, ok := templates.Get("cobol"); ok {
		t.Errorf(`Get("cobol") = %q`, got.Name)
	}
}

func TestPythonTemplatesTellTheWatchdogTheirHandlersSignature(t *testing.T) {
	want := map[string]string{"python3-http": "http", "python3": "classic", "python3-model": "model"}
	got := map[string]string{}
	for _, template := range templates.List() {
		if template.Kind != templates.Python {
			continue
		}
		got[template.Name] = template.Config.Env["handler_style"]
		if mode := template.Config.Env["mode"]; mode != "pool" {
			t.Errorf("%s: mode %q, want pool", template.Name, mode)
		}
		if want := "python3 -m graphene_function"; template.Config.Fprocess != want {
			t.Errorf("%s: fprocess %q, want %q", template.Name, template.Config.Fprocess, want)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("handler styles (-want +got):\n%s", diff)
	}
}

func TestTheRuntimeIsWhatABuildAdds(t *testing.T) {
	for _, template := range templates.List() {
		want := map[templates.Kind]string{
			templates.Go:     "main.go",
			templates.Python: "graphene_function/__init__.py",
		}[template.Kind]
		if err := fstest.TestFS(template.Runtime, want); err != nil {
			t.Errorf("%s: %v", template.Name, err)
		}
		for _, file := range list(t, template.Runtime) {
			if !strings.HasSuffix(file, ".go") && !strings.HasPrefix(file, "graphene_function/") {
				t.Errorf("%s: the runtime holds %s", template.Name, file)
			}
		}
	}
}

func TestThePythonRuntimeIsWhole(t *testing.T) {
	const dir = "python/graphene_function"
	var want []string
	for _, file := range list(t, os.DirFS(dir)) {
		if strings.HasSuffix(file, ".py") {
			want = append(want, "graphene_function/"+file)
		}
	}
	template, _ := templates.Get("python3")
	if diff := cmp.Diff(want, list(t, template.Runtime)); diff != "" {
		t.Errorf("files of %s that are embedded (-want +got):\n%s", dir, diff)
	}
}

func TestScaffoldMakesAFunctionWhoseTestsPass(t *testing.T) {
	commands := map[templates.Kind][]string{
		templates.Go:     {"go", "test", "./..."},
		templates.Python: {"python3", "-B", "-m", "unittest", "-v"},
	}
	ran := map[templates.Kind]*regexp.Regexp{
		templates.Go:     regexp.MustCompile(`(?m)^ok  `),
		templates.Python: regexp.MustCompile(`(?m)^Ran [1-9]`),
	}
	for _, template := range templates.List() {
		t.Run(template.Name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "echo")
			if err := templates.Scaffold(template, "echo", dir); err != nil {
				t.Fatal(err)
			}

			args := commands[template.Kind]
			cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
			cmd.Dir = dir
			// A workspace or flags of the developer's would not find the module.
			cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "GO111MODULE=on")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
			}
			if !ran[template.Kind].Match(out) {
				t.Errorf("%s ran no tests:\n%s", strings.Join(args, " "), out)
			}
		})
	}
}

func TestScaffoldNamesTheFunctionInItsReadme(t *testing.T) {
	for _, template := range templates.List() {
		dir := t.TempDir()
		if err := templates.Scaffold(template, "resnet", dir); err != nil {
			t.Fatal(err)
		}
		readme, err := os.ReadFile(filepath.Join(dir, "README.md"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(readme), "# resnet\n") || strings.Contains(string(readme), "{{") {
			t.Errorf("%s: README.md:\n%s", template.Name, readme)
		}
	}
}

func TestScaffoldOverwritesNothing(t *testing.T) {
	template, _ := templates.Get("python3-http")
	dir := t.TempDir()
	mine := filepath.Join(dir, "requirements.txt")
	if err := os.WriteFile(mine, []byte("flask\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	err := templates.Scaffold(template, "echo", dir)

	if !errors.Is(err, fault.Exists) || !strings.Contains(err.Error(), mine) {
		t.Errorf("got %v, want %v naming %s", err, fault.Exists, mine)
	}
	if content, _ := os.ReadFile(mine); string(content) != "flask\n" {
		t.Errorf("requirements.txt became %q", content)
	}
	if diff := cmp.Diff([]string{"requirements.txt"}, list(t, os.DirFS(dir))); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestScaffoldStaysInItsDirectory(t *testing.T) {
	outside := t.TempDir()
	dir := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "lib")); err != nil {
		t.Fatal(err)
	}
	template, err := templates.Load(fstest.MapFS{
		"x/template.yml":         {Data: []byte("kind: python")},
		"x/function/lib/evil.py": {Data: []byte("pass")},
	}, "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := templates.Scaffold(template, "echo", dir); err == nil {
		t.Error("no error")
	}
	if diff := cmp.Diff([]string(nil), list(t, os.DirFS(outside))); diff != "" {
		t.Errorf("files outside (-want +got):\n%s", diff)
	}
}

func TestLoadReadsATemplateInOpenFaaSLayout(t *testing.T) {
	template, err := templates.Load(fstest.MapFS{
		"node22/template.yml": {Data: []byte(`language: node22
fprocess: node index.js
build_options:
- name: dev
  packages: [make, g++]
welcome_message: |
  Welcome
`)},
		"node22/Dockerfile":                    {Data: []byte("FROM node:22-alpine")},
		"node22/index.js":                      {Data: []byte("")},
		"node22/function/handler.js":           {Data: []byte("")},
		"node22/function/mail.tmpl":            {Data: []byte("")},
		"node22/function/package.json":         {Data: []byte("{}")},
		"node22/function/.git/config":          {Data: []byte("")},
		"node22/__pycache__/index.cpython.pyc": {Data: []byte("")},
	}, "node22")
	if err != nil {
		t.Fatal(err)
	}

	want := templates.Config{
		Language:       "node22",
		Fprocess:       "node index.js",
		WelcomeMessage: "Welcome\n",
		HandlerFolder:  "function",
		BuildOptions:   []templates.BuildOption{{Name: "dev", Packages: []string{"make", "g++"}}},
		Kind:           templates.Docker,
	}
	if diff := cmp.Diff(want, template.Config); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"handler.js", "mail.tmpl", "package.json"}, list(t, template.Files)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"Dockerfile", "index.js"}, list(t, template.Runtime)); diff != "" {
		t.Errorf("runtime (-want +got):\n%s", diff)
	}
}

func TestLoadSaysWhatIsWrongWithATemplate(t *testing.T) {
	tests := map[string]struct {
		files fstest.MapFS
		kind  fault.Kind
		want  string
	}{
		"no such template": {
			fstest.MapFS{}, fault.NotFound,
			"template x: it has no template.yml",
		},
		"broken YAML": {
			file("template.yml", "language: x\nfprocess: [\n"), fault.Invalid,
			"template x: template.yml: yaml: line 2: did not find expected node content",
		},
		"no handler folder": {
			file("template.yml", "kind: go"), fault.Invalid,
			`template x: template.yml: handler_folder "function" is not a directory of the template`,
		},
		"a handler folder outside": {
			file("template.yml", "kind: go\nhandler_folder: ../function"), fault.Invalid,
			`template x: template.yml: handler_folder "../function" is not below the template`,
		},
		"no way to build it": {
			fstest.MapFS{"x/template.yml": {}, "x/function/a": {}}, fault.Invalid,
			"template x: template.yml names no kind, and there is no Dockerfile",
		},
		"an unknown way to build it": {
			fstest.MapFS{"x/template.yml": {Data: []byte("kind: cobol")}, "x/function/a": {}}, fault.Invalid,
			`template x: template.yml: kind "cobol" is none of go, python and dockerfile`,
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := templates.Load(tt.files, "x")
			if !errors.Is(err, tt.kind) || err.Error() != tt.want {
				t.Errorf("got %v, want %v: %s", err, tt.kind, tt.want)
			}
		})
	}
	for _, name := range []string{"", ".", "..", "../x", "/x"} {
		if _, err := templates.Load(fstest.MapFS{}, name); !errors.Is(err, fault.Invalid) {
			t.Errorf("Load(%q): got %v, want %v", name, err, fault.Invalid)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("language: go\nkind: go\n"))
	f.Add([]byte("handler_folder: ./function\naliases: [a, b]\nenvironment: {mode: pool}"))
	f.Add([]byte("build_options: [{name: dev, packages: [make]}]"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, config []byte) {
		template, err := templates.Load(fstest.MapFS{
			"x/template.yml":        {Data: config},
			"x/Dockerfile":          {},
			"x/function/handler.go": {},
		}, "x")
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("got %v, want %v", err, fault.Invalid)
			}
			return
		}
		if got := list(t, template.Files); !slices.Contains(got, "handler.go") {
			t.Errorf("files %q", got)
		}
	})
}

// file returns the files of a template x that has only this one.
func file(name, content string) fstest.MapFS {
	return fstest.MapFS{"x/" + name: {Data: []byte(content)}}
}

// list returns the paths of all files in fsys, in order.
func list(t *testing.T, fsys fs.FS) []string {
	t.Helper()
	var files []string
	err := fs.WalkDir(fsys, ".", func(file string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, file)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
