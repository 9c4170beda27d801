package image

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/pyenv"
)

// goRuntime and goSources stand in for the template and the watchdog.
var (
	goRuntime = fstest.MapFS{"main.go": {Data: []byte(`package main

import (
	"net/http"
	"os"

	"github.com/graphene-faas/graphene/watchdog"
	"handler/function"
)

func main() { os.Exit(watchdog.Main(http.HandlerFunc(function.Handle))) }
`)}}
	goSources = fstest.MapFS{"watchdog/watchdog.go": {Data: []byte(`package watchdog

import "net/http"

func Main(h http.Handler) int { return 0 }
`)}}
	pythonRuntime = fstest.MapFS{
		"graphene_function/__init__.py":                  {},
		"graphene_function/__main__.py":                  {Data: []byte("print('serving')\n")},
		"graphene_function/__pycache__/x.cpython-38.pyc": {Data: []byte("stale")},
	}
)

const goHandler = `package function

import "net/http"

func Handle(w http.ResponseWriter, r *http.Request) {}
`

// write makes a directory of the files, given as path and content in turn.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func goOptions(t *testing.T, files map[string]string) Options {
	return Options{
		Name: "fn", Kind: Go, Language: "go", Dir: write(t, files),
		Runtime: goRuntime, Sources: goSources, CacheDir: t.TempDir(), Output: t.Output(),
	}
}

func pythonOptions(t *testing.T, files map[string]string) Options {
	return Options{
		Name: "fn", Kind: Python, Language: "python3-http", Dir: write(t, files),
		Runtime: pythonRuntime, CacheDir: t.TempDir(), Output: t.Output(),
	}
}

func mustBuild(t *testing.T, o Options) v1.Image {
	t.Helper()
	img, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Fatalf("the image is not valid: %v", err)
	}
	return img
}

// refused checks that a build fails for a reason its user can correct.
func refused(t *testing.T, o Options, kind fault.Kind, texts ...string) {
	t.Helper()
	o.Output = nil // so that what tools print is in the error
	_, err := Build(t.Context(), o)
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want kind %q", err, kind)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error does not contain %q:\n%v", text, err)
		}
	}
	if strings.Contains(err.Error(), o.CacheDir) {
		t.Errorf("error names a temporary file:\n%v", err)
	}
}

func digest(t *testing.T, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// contents returns the files of each layer; directories have a final slash.
func contents(t *testing.T, img v1.Image) []map[string]string {
	t.Helper()
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var all []map[string]string
	for _, l := range layers {
		r, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		tr := tar.NewReader(r)
		for {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if h.Uid != 0 || h.Gid != 0 || !h.ModTime.Equal(epoch) {
				t.Errorf("%s: owner %d:%d and time %v depend on the machine", h.Name, h.Uid, h.Gid, h.ModTime)
			}
			text, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			files[h.Name] = string(text)
		}
		r.Close()
		all = append(all, files)
	}
	return all
}

// names returns the names of the files, without directories.
func names(files map[string]string) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !strings.HasSuffix(name, "/") {
			all = append(all, name)
		}
	}
	return all
}

func TestGoHandlerBecomesOneStaticBinary(t *testing.T) {
	o := goOptions(t, map[string]string{
		"handler.go":         "package function\n\nimport (\n\t\"net/http\"\n\t\"handler/function/words\"\n)\n\nfunc Handle(w http.ResponseWriter, r *http.Request) { w.Write([]byte(words.Hello)) }\n",
		"handler_test.go":    "package function\n",
		"words/words.go":     "package words\n\nconst Hello = \"hello\"\n",
		"static/index.html":  "<p>",
		".git/config":        "x",
		"venv/pyvenv.cfg":    "x",
		"README.md":          "# fn",
		"node_modules/x.txt": "y",
		".dockerignore":      "node_modules\n",
	})
	o.Env = map[string]string{"b": "2", "a": "1"}
	o.Labels = map[string]string{"team": "blue", function.ImageTarget: "forged"}
	img := mustBuild(t, o)

	layers := contents(t, img)
	if diff := cmp.Diff([]string{"home/app/handler"}, names(layers[0])); diff != "" {
		t.Errorf("first layer (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{"home/app/static/index.html"}, names(layers[1])); diff != "" {
		t.Errorf("second layer (-want +got)\n%s", diff)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	want := v1.Config{
		Entrypoint: []string{"./handler"}, Env: []string{"a=1", "b=2"}, User: "12000", WorkingDir: "/home/app",
		Labels: map[string]string{
			function.ImageBuilder: "layers", function.ImageLang: "go", function.ImageTarget: runtime.GOOS + "/" + runtime.GOARCH, "team": "blue",
		},
	}
	if diff := cmp.Diff(want, cfg.Config); diff != "" {
		t.Errorf("configuration (-want +got)\n%s", diff)
	}
	if cfg.OS != runtime.GOOS || cfg.Architecture != runtime.GOARCH {
		t.Errorf("platform %s/%s", cfg.OS, cfg.Architecture)
	}
}

func TestSameInputGivesTheSameDigestFromAnyDirectory(t *testing.T) {
	for _, tt := range []struct {
		name    string
		options func() Options
	}{
		{"go", func() Options { return goOptions(t, map[string]string{"handler.go": goHandler, "data.txt": "x"}) }},
		{"python", func() Options {
			return pythonOptions(t, map[string]string{
				"handler.py":       "WORDS = {'a', 'b', 'c'}\n\ndef handle(event, context):\n    return event in {'x', 'y', 'z'}\n",
				"requirements.txt": "tiny==1.0\n",
				"build.py":         "open('made', 'w').write(repr({'a', 'b', 'c', 'd'}))\n",
			})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got [2]string
			for i := range got {
				o := tt.options()
				o.PipArgs = wheelhouse(t)
				got[i] = digest(t, mustBuild(t, o))
			}
			if got[0] != got[1] {
				t.Errorf("digests differ: %s and %s", got[0], got[1])
			}
		})
	}
}

func TestGoCompilesForTheTarget(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED in short mode: compiles the standard library for another architecture")
	}
	o := goOptions(t, map[string]string{"handler.go": goHandler})
	o.Target = function.Target{OS: "linux", Arch: "arm64", Python: "cp311", Libc: "glibc"}
	info, err := Inspect(mustBuild(t, o))
	if err != nil {
		t.Fatal(err)
	}
	if want := (function.Target{OS: "linux", Arch: "arm64"}); info.Target != want {
		t.Errorf("target %v, want %v", info.Target, want)
	}
}

func TestGoHandlerKeepsItsOwnModule(t *testing.T) {
	o := goOptions(t, map[string]string{
		"go.mod":          "module example.com/own\n\ngo 1.21\n\nrequire example.com/dep v1.0.0\n\nreplace example.com/dep => ./dep\n",
		"handler.go":      "package function\n\nimport (\n\t\"net/http\"\n\t\"example.com/dep\"\n\t\"example.com/own/sub\"\n)\n\nfunc Handle(w http.ResponseWriter, r *http.Request) { w.Write([]byte(dep.Text + sub.Text)) }\n",
		"sub/sub.go":      "package sub\n\nconst Text = \"sub\"\n",
		"dep/go.mod":      "module example.com/dep\n",
		"dep/dep.go":      "package dep\n\nconst Text = \"dep\"\n",
		"dep/more.txt":    "x",
		"testdata/in.txt": "x",
	})
	mustBuild(t, o)
}

// vendored is a handler that brings a package which is nowhere else.
func vendored(handler string) map[string]string {
	return map[string]string{
		"go.mod":     "module example.com/own\n\ngo 1.21\n\nrequire example.com/dep v1.0.0\n\nreplace example.com/dep => ../gone\n",
		"handler.go": handler,
		"sub/sub.go": "package sub\n\nconst Text = \"sub\"\n",
		"vendor/modules.txt": "# example.com/dep v1.0.0 => ../gone\n## explicit\nexample.com/dep\n" +
			"# example.com/dep => ../gone\n",
		"vendor/example.com/dep/dep.go": "package dep\n\nconst Text = \"vendored\"\n",
	}
}

const vendoredHandler = "package function\n\nimport (\n\t\"net/http\"\n\t\"example.com/dep\"\n\t\"example.com/own/sub\"\n)\n\n" +
	"func Handle(w http.ResponseWriter, r *http.Request) { w.Write([]byte(dep.Text + sub.Text)) }\n"

func TestGoHandlerBringsItsVendorDirectory(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	files := vendored(vendoredHandler)
	files["static/index.html"] = "hello"
	info, err := Inspect(mustBuild(t, goOptions(t, files)))
	if err != nil || info.Target.Arch == "" {
		t.Errorf("%+v, %v", info, err)
	}

	files = vendored(strings.Replace(vendoredHandler, "sub.Text)", "sub.Missing)", 1))
	o := goOptions(t, files)
	refused(t, o, fault.Invalid, filepath.Join(o.Dir, "handler.go:9:"), "undefined: sub.Missing")

	files = vendored(vendoredHandler)
	files["sub/sub.go"] = "package sub\n\nconst Text = nothing\n"
	o = goOptions(t, files)
	refused(t, o, fault.Invalid, filepath.Join(o.Dir, "sub/sub.go:3:14: undefined: nothing"))

	files = vendored(vendoredHandler)
	files["vendor/modules.txt"] = "# example.com/other v1.0.0\n## explicit\n"
	refused(t, goOptions(t, files), fault.Invalid, "inconsistent vendoring")

	files = vendored(vendoredHandler)
	files["go.mod"] = strings.Replace(files["go.mod"], "require", "require github.com/graphene-faas/graphene v1.0.0\nrequire", 1)
	refused(t, goOptions(t, files), fault.Invalid, "which the platform adds itself")
}

func TestGoErrorsNameTheAuthorsFiles(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"syntax", map[string]string{"handler.go": "package function\n\nfunc Handle( {\n"}, []string{"handler.go:3:14: syntax error"}},
		{"types", map[string]string{"handler.go": goHandler + "\nvar x int = \"y\"\n", "sub/sub.go": "package sub\n"}, []string{"handler.go:7:13: cannot use"}},
		{"subpackage", map[string]string{"handler.go": strings.Replace(goHandler, "\"net/http\"", "(\n\"net/http\"\n_ \"handler/function/sub\"\n)", 1), "sub/sub.go": "package sub\n\nvar x = y\n"}, []string{"sub/sub.go:3:9: undefined: y"}},
		{"no Handle", map[string]string{"handler.go": "package function\n\nfunc handle() {}\n"}, []string{"must define func Handle(w http.ResponseWriter"}},
		{"another package", map[string]string{"handler.go": strings.Replace(goHandler, "package function", "package wrong", 1)}, []string{"must define func Handle(w http.ResponseWriter"}},
		{"a program", map[string]string{"handler.go": strings.Replace(goHandler, "package function", "package main", 1)}, []string{"must define func Handle(w http.ResponseWriter"}},
		{"another Handle", map[string]string{"handler.go": "package function\n\nfunc Handle(s string) string { return s }\n"}, []string{"must define func Handle(w http.ResponseWriter"}},
		{"no Go files", map[string]string{"handler.py": ""}, []string{"has no Go files"}},
		{"bad go.mod", map[string]string{"handler.go": goHandler, "go.mod": "module handler/function\nrequire x\n"}, []string{"go.mod:2"}},
		{"no module line", map[string]string{"handler.go": goHandler, "go.mod": "go 1.24\n"}, []string{"no module directive"}},
		{"a file in the program's place", map[string]string{"handler.go": goHandler, "handler": "x"}, []string{"rename it"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := goOptions(t, tt.files)
			var want []string
			for _, w := range tt.want {
				if strings.Contains(w, ".go:") || strings.Contains(w, "go.mod:") {
					w = filepath.Join(o.Dir, w)
				}
				want = append(want, w)
			}
			refused(t, o, fault.Invalid, want...)
		})
	}
}

func TestMissingCompilerIsSaid(t *testing.T) {
	o := goOptions(t, map[string]string{"handler.go": goHandler})
	t.Setenv("PATH", t.TempDir())
	refused(t, o, fault.NotFound, "install Go")
}

// wheelhouse makes a directory with two wheels, tiny 1.0 and forge 1.0, and
// returns the arguments by which pip finds them without a network.
func wheelhouse(t *testing.T) []string {
	t.Helper()
	dir := t.TempDir()
	wheel(t, dir, "tiny", "py3-none-any", "NAMES = {'a', 'b', 'c'}\nVALUE = 'tiny value'\n")
	wheel(t, dir, "forge", "py3-none-any", "VALUE = 'forged'\n")
	wheel(t, dir, "native", "cp39-cp39-manylinux_2_17_aarch64", "VALUE = 'for arm'\n")
	return []string{"--no-index", "--find-links", dir}
}

func wheel(t *testing.T, dir, name, tag, module string) {
	t.Helper()
	info := name + "-1.0.dist-info/"
	files := []struct{ name, text string }{
		{name + ".py", module},
		{"broken_" + name + ".py", "print 'a file for Python 2'\n"},
		{info + "METADATA", "Metadata-Version: 2.1\nName: " + name + "\nVersion: 1.0\n"},
		{info + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: " + tag + "\n"},
		{info + "entry_points.txt", "[console_scripts]\n" + name + " = " + name + ":main\n"},
	}
	var record strings.Builder
	var buf bytes.Buffer
	zw := zip.NewWriter(&buf)
	for _, f := range files {
		sum := sha256.Sum256([]byte(f.text))
		fmt.Fprintf(&record, "%s,sha256=%s,%d\n", f.name, base64.RawURLEncoding.EncodeToString(sum[:]), len(f.text))
		zipFile(t, zw, f.name, f.text)
	}
	zipFile(t, zw, info+"RECORD", record.String()+info+"RECORD,,\n")
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+"-1.0-"+tag+".whl"), buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func zipFile(t *testing.T, zw *zip.Writer, name, text string) {
	t.Helper()
	w, err := zw.Create(name)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err != nil {
		t.Fatal(err)
	}
}

const pythonHandler = "def handle(event, context):\n    return 'ok'\n"

func TestPythonHandlerHasThreeLayers(t *testing.T) {
	o := pythonOptions(t, map[string]string{
		"handler.py":               pythonHandler,
		"helper/__init__.py":       "",
		"model.bin":                "weights",
		"requirements.txt":         "# packages\ntiny==1.0  # small\n",
		"test_handler.py":          "import no_such_module\n",
		"__pycache__/handler.pyc":  "stale",
		"venv/pyvenv.cfg":          "x",
		"venv/lib/site-package.py": "x",
	})
	o.PipArgs = wheelhouse(t)
	o.Env = map[string]string{"mode": "pool", "handler_style": "http"}
	img := mustBuild(t, o)

	python, err := pyenv.Find(t.Context(), "python3")
	if err != nil {
		t.Fatal(err)
	}
	tag := strings.Replace(python.Target.Python, "cp", "cpython-", 1)
	want := [][]string{
		{
			"home/app/python/__pycache__/tiny." + tag + ".pyc", "home/app/python/broken_tiny.py",
			"home/app/python/tiny-1.0.dist-info/INSTALLER", "home/app/python/tiny-1.0.dist-info/METADATA",
			"home/app/python/tiny-1.0.dist-info/RECORD", "home/app/python/tiny-1.0.dist-info/REQUESTED",
			"home/app/python/tiny-1.0.dist-info/WHEEL", "home/app/python/tiny-1.0.dist-info/entry_points.txt",
			"home/app/python/tiny.py",
		},
		{
			"home/app/python/graphene_function/__init__.py", "home/app/python/graphene_function/__main__.py",
			"home/app/python/graphene_function/__pycache__/__init__." + tag + ".pyc",
			"home/app/python/graphene_function/__pycache__/__main__." + tag + ".pyc",
		},
		{
			"home/app/function/__pycache__/handler." + tag + ".pyc", "home/app/function/handler.py",
			"home/app/function/helper/__init__.py", "home/app/function/helper/__pycache__/__init__." + tag + ".pyc",
			"home/app/function/model.bin", "home/app/function/requirements.txt",
		},
	}
	var got [][]string
	for _, files := range contents(t, img) {
		got = append(got, names(files))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files of the layers (-want +got)\n%s", diff)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	wantEnv := []string{"PYTHONPATH=python", "fprocess=python3 -m graphene_function", "handler_style=http", "mode=pool"}
	if diff := cmp.Diff(wantEnv, cfg.Config.Env); diff != "" {
		t.Errorf("environment (-want +got)\n%s", diff)
	}
	info, err := Inspect(img)
	if err != nil {
		t.Fatal(err)
	}
	if info.Target != python.Target || info.Builder != "layers" || info.Language != "python3-http" {
		t.Errorf("the image says %+v", info)
	}
}

func TestOnlyTheHandlersLayerChangesWithTheHandler(t *testing.T) {
	files := map[string]string{"handler.py": pythonHandler, "requirements.txt": "tiny\n"}
	o := pythonOptions(t, files)
	o.PipArgs = wheelhouse(t)
	before, err := mustBuild(t, o).Layers()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "handler.py"), []byte(pythonHandler+"# changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	after, err := mustBuild(t, o).Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, same := range []bool{true, true, false} {
		a, _ := before[i].Digest()
		b, _ := after[i].Digest()
		if (a == b) != same {
			t.Errorf("layer %d: equal is %v, want %v", i, a == b, same)
		}
	}
}

func TestDependenciesAreInstalledOnce(t *testing.T) {
	o := pythonOptions(t, map[string]string{"handler.py": pythonHandler, "requirements.txt": "-r more/base.txt\n", "more/base.txt": "tiny==1.0\n"})
	o.PipArgs = wheelhouse(t)
	var log strings.Builder
	o.Output = &log
	first := digest(t, mustBuild(t, o))
	if !strings.Contains(log.String(), "Successfully installed tiny") {
		t.Errorf("pip's output is not shown: %q", log.String())
	}
	log.Reset()
	if second := digest(t, mustBuild(t, o)); second != first || log.Len() != 0 {
		t.Errorf("the second build installed again: %s, then %s\n%s", first, second, log.String())
	}
	o.NoCache = true
	if third := digest(t, mustBuild(t, o)); third != first || log.Len() == 0 {
		t.Errorf("a build without cache gave %s instead of %s, and said %q", third, first, log.String())
	}
	o.NoCache = false
	if err := os.WriteFile(filepath.Join(o.Dir, "more/base.txt"), []byte("tiny==1.0\nforge\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	log.Reset()
	if mustBuild(t, o); log.Len() == 0 {
		t.Error("a changed file that requirements.txt includes changed nothing")
	}
}

func TestConcurrentBuildsShareTheCache(t *testing.T) {
	o := pythonOptions(t, map[string]string{"handler.py": pythonHandler, "requirements.txt": "tiny==1.0\n", "build.py": "open('made', 'w').write('x')\n"})
	o.PipArgs, o.Output = wheelhouse(t), nil
	digests := make(chan string, 3)
	for range cap(digests) {
		go func() {
			img, err := Build(t.Context(), o)
			if err != nil {
				digests <- err.Error()
				return
			}
			d, _ := img.Digest()
			digests <- d.String()
		}()
	}
	first := <-digests
	for range cap(digests) - 1 {
		if d := <-digests; d != first {
			t.Errorf("%s, then %s", first, d)
		}
	}
	if !strings.HasPrefix(first, "sha256:") {
		t.Error(first)
	}
}

func TestDependenciesForAnotherMachineComeAsWheels(t *testing.T) {
	o := pythonOptions(t, map[string]string{"handler.py": pythonHandler, "requirements.txt": "native\ntiny\n", "build.py": "import sys\n"})
	o.PipArgs = wheelhouse(t)
	o.Target = function.Target{OS: "linux", Arch: "arm64", Python: "cp39", Libc: "glibc"}
	refused(t, o, fault.Invalid, "requirements.txt", "native") // build.py runs here, where there is no such wheel

	if err := os.Remove(filepath.Join(o.Dir, "build.py")); err != nil {
		t.Fatal(err)
	}
	img := mustBuild(t, o)
	layers := contents(t, img)
	if got := layers[0]["home/app/python/native.py"]; got != "VALUE = 'for arm'\n" {
		t.Errorf("the package for the target is not there: %v", names(layers[0]))
	}
	for _, files := range layers {
		for name := range files {
			if strings.HasSuffix(name, ".pyc") {
				t.Errorf("%s was compiled by another version of Python", name)
			}
		}
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Architecture != "arm64" || cfg.Config.Labels[function.ImageTarget] != "linux/arm64/cp39/glibc" {
		t.Errorf("the image is for %s, labelled %v", cfg.Architecture, cfg.Config.Labels)
	}
}

func TestBuildScriptRunsOnceAndAddsFiles(t *testing.T) {
	o := pythonOptions(t, map[string]string{
		"handler.py":             pythonHandler,
		"requirements.txt":       "tiny\n",
		"build-requirements.txt": "forge\n",
		"build.py":               "import forge, os, tiny\nprint('training')\nopen('model.txt', 'w').write(forge.VALUE + ' and ' + tiny.VALUE)\nos.mkdir('build')\nos.symlink('../model.txt', 'build/link')\n",
		"stack.yaml":             "version: 1.0\n",
	})
	o.PipArgs = wheelhouse(t)
	var log strings.Builder
	o.Output = &log
	img := mustBuild(t, o)
	layers := contents(t, img)
	last := layers[len(layers)-1]
	if got := last["home/app/function/model.txt"]; got != "forged and tiny value" {
		t.Errorf("model.txt holds %q", got)
	}
	if _, ok := last["home/app/function/build/link"]; !ok {
		t.Error("what build.py made is not there whole")
	}
	for _, files := range layers {
		for name := range files {
			if base := filepath.Base(name); base == "build.py" || base == "build-requirements.txt" || strings.HasPrefix(base, "forge") {
				t.Errorf("%s is shipped, though only the build needs it", name)
			}
		}
	}
	if !strings.Contains(log.String(), "training\n") {
		t.Errorf("build.py's output is not shown: %q", log.String())
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "model.txt")); err == nil {
		t.Error("build.py ran in the author's directory")
	}

	log.Reset()
	if again := mustBuild(t, o); digest(t, again) != digest(t, img) || log.Len() > 0 {
		t.Errorf("build.py ran again although nothing changed: %q", log.String())
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "handler.py"), []byte(pythonHandler+"#\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if mustBuild(t, o); !strings.Contains(log.String(), "training\n") {
		t.Error("build.py did not run again although the handler changed")
	}
}

func TestPythonErrorsNameTheAuthorsFiles(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"syntax", map[string]string{"handler.py": "def handle(event, context)\n    pass\n"}, []string{"/handler.py:1:27: "}},
		{"syntax of two files", map[string]string{"handler.py": pythonHandler + "x = = 1\n", "lib/more.py": "(\n"}, []string{"/handler.py:3:5: ", "/lib/more.py:1:1: "}},
		{"no handler", map[string]string{"function.py": pythonHandler}, []string{"/handler.py: there is no such file"}},
		{"no handle", map[string]string{"handler.py": "def Handle(): pass\n"}, []string{"/handler.py: defines no function handle"}},
		{"null bytes", map[string]string{"handler.py": pythonHandler + "\x00"}, []string{"/handler.py"}},
		{"unknown requirement", map[string]string{"handler.py": pythonHandler, "requirements.txt": "no-such-package-anywhere\n"}, []string{"/requirements.txt", "No matching distribution found for no-such-package-anywhere"}},
		{"malformed requirement", map[string]string{"handler.py": pythonHandler, "requirements.txt": "tiny\n???\n"}, []string{"/requirements.txt", "???"}},
		{"missing include", map[string]string{"handler.py": pythonHandler, "requirements.txt": "-r other.txt\n"}, []string{"/requirements.txt", "other.txt"}},
		{"endless include", map[string]string{"handler.py": pythonHandler, "requirements.txt": "-r requirements.txt\n"}, []string{"/requirements.txt", "too deeply"}},
		{"build.py fails", map[string]string{"handler.py": pythonHandler, "build.py": "raise ValueError('no data')\n"}, []string{"/build.py", "ValueError: no data"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := pythonOptions(t, tt.files)
			o.PipArgs = wheelhouse(t)
			var want []string
			for _, w := range tt.want {
				if strings.HasPrefix(w, "/") {
					w = o.Dir + w
				}
				want = append(want, w)
			}
			refused(t, o, fault.Invalid, want...)
		})
	}
}

func TestWhatAToolPrintsIsShownOnce(t *testing.T) {
	o := pythonOptions(t, map[string]string{"handler.py": pythonHandler, "build.py": "raise ValueError('no data')\n"})
	var shown bytes.Buffer
	o.Output = &shown
	_, err := Build(t.Context(), o)
	if err == nil || strings.Contains(err.Error(), "no data") || strings.Count(shown.String(), "ValueError: no data") != 1 {
		t.Errorf("after\n%s\ncomes %v", shown.String(), err)
	}
}

func TestModelHandlerMustLoad(t *testing.T) {
	o := pythonOptions(t, map[string]string{"handler.py": "def handle(model, event, context): pass\n"})
	o.Env = map[string]string{"handler_style": "model"}
	refused(t, o, fault.Invalid, "defines no function load")
}

func TestHandleMayBeImported(t *testing.T) {
	for _, text := range []string{"from app import handle\n", "from app import *\n", "import app\nhandle = app.run\n", "if True:\n    async def handle(e, c): pass\n"} {
		mustBuild(t, pythonOptions(t, map[string]string{"handler.py": text, "app.py": pythonHandler}))
	}
}

func TestHandlerDirectoryIsCheckedAndFiltered(t *testing.T) {
	t.Run("missing", func(t *testing.T) {
		o := pythonOptions(t, nil)
		o.Dir = filepath.Join(o.Dir, "nowhere")
		refused(t, o, fault.Invalid, "there is no handler directory "+o.Dir)
	})
	t.Run("a link out of it", func(t *testing.T) {
		o := pythonOptions(t, map[string]string{"handler.py": pythonHandler})
		if err := os.Symlink("../elsewhere", filepath.Join(o.Dir, "link")); err != nil {
			t.Fatal(err)
		}
		refused(t, o, fault.Invalid, "the link link points to ../elsewhere")
	})
	t.Run("a link within it, exceptions from ignore rules, a project's directories", func(t *testing.T) {
		o := pythonOptions(t, map[string]string{
			"handler.py": pythonHandler, "stack.yaml": "x", "template/x": "x", "build/x": "x", "lib/template/kept.txt": "x",
			".dockerignore": "data\n!data/keep.csv\n*.log\n**/*.tmp\n", "data/keep.csv": "x", "data/drop.csv": "x", "a.log": "x", "lib/b.tmp": "x", "lib/c.log": "x",
		})
		if err := os.Symlink("data/keep.csv", filepath.Join(o.Dir, "link")); err != nil {
			t.Fatal(err)
		}
		layers := contents(t, mustBuild(t, o))
		var got []string
		for _, name := range names(layers[len(layers)-1]) {
			if !strings.HasSuffix(name, ".pyc") {
				got = append(got, strings.TrimPrefix(name, "home/app/function/"))
			}
		}
		want := []string{"data/keep.csv", "handler.py", "lib/c.log", "lib/template/kept.txt", "link", "stack.yaml"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("files (-want +got)\n%s", diff)
		}
	})
	t.Run("extras", func(t *testing.T) {
		o := pythonOptions(t, map[string]string{"handler.py": "from common.app import handle\n"})
		t.Chdir(write(t, map[string]string{"common/app.py": pythonHandler}))
		o.Extras = []string{"common"}
		layers := contents(t, mustBuild(t, o))
		if got := layers[len(layers)-1]["home/app/function/common/app.py"]; got != pythonHandler {
			t.Errorf("the extra directory is not there")
		}
		o.Extras = []string{"../common"}
		refused(t, o, fault.Invalid, "leaves the working directory")
	})
}

func TestBuildEndsWithItsContext(t *testing.T) {
	o := pythonOptions(t, map[string]string{"handler.py": pythonHandler, "build.py": "print('started', flush=True)\nimport time\ntime.sleep(600)\n"})
	ctx, cancel := context.WithCancel(t.Context())
	o.Output = writerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	})
	if _, err := Build(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
	left, err := os.ReadDir(filepath.Join(o.CacheDir, "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("left in the cache: %v", left)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestUnusedCacheEntriesAreRemoved(t *testing.T) {
	c, err := openCache(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"old", "new"} {
		if err := os.Mkdir(c.path("deps", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	old := epoch
	if err := os.Chtimes(c.path("deps", "old"), old, old); err != nil {
		t.Fatal(err)
	}
	if _, err := openCache(c.dir); err != nil {
		t.Fatal(err)
	}
	if c.use("deps", "old") || !c.use("deps", "new") {
		t.Error("the wrong entry was removed")
	}
}

func FuzzRequirementLines(f *testing.F) {
	for _, seed := range []string{"tiny==1.0 # x\n", "-r a.txt", "-c\n", "--requirement=https://x/y", "-e .\n", "\x00\n#", "a @ file:///x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, requirements), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		lines, err := requirementLines(dir, requirements, 0)
		if err != nil {
			return
		}
		for _, line := range lines {
			if strings.TrimSpace(line) != line || line == "" || strings.HasPrefix(line, "#") {
				t.Errorf("line %q", line)
			}
			changing(line)
		}
	})
}
