// Package examples_test runs the tests of the examples: those in Go with the
// go command, those in Python in a virtual environment that holds the packages
// of all of them, made once in .cache of the repository.
package examples_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gofrs/flock"
	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/templates"
)

func TestTheStackNamesEveryExample(t *testing.T) {
	all := readStack(t, "stack.yaml")
	files, err := filepath.Glob("*/stack.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(all.Functions) {
		t.Errorf("stack.yaml names %d functions, and there are %d examples", len(all.Functions), len(files))
	}
	for _, file := range files {
		dir := filepath.Dir(file)
		for _, own := range readStack(t, file).Functions {
			if _, ok := templates.Get(own.Lang); !ok {
				t.Errorf("%s: %s is written in %q, which is no template", file, own.Name, own.Lang)
			}
			if want := own.Name + ":latest"; own.Image != want {
				t.Errorf("%s: the image of %s is %q, want %q", file, own.Name, own.Image, want)
			}
			own.Handler = "./" + path.Join(dir, own.Handler)
			shared, _ := all.Function(own.Name)
			if diff := cmp.Diff(own, shared); diff != "" {
				t.Errorf("%s in %s and in stack.yaml (-own +shared):\n%s", own.Name, file, diff)
			}
		}
	}
}

func readStack(t *testing.T, file string) *stack.Stack {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	st, err := stack.Parse(file, text)
	if err != nil {
		t.Fatal(err)
	}
	for _, warning := range st.Warnings {
		t.Error(warning)
	}
	return st
}

func TestGoExamples(t *testing.T) {
	for _, dir := range examplesWith(t, "go.mod") {
		t.Run(dir, func(t *testing.T) {
			t.Parallel()
			function := filepath.Join(dir, "function")
			env := []string{"GOWORK=off", "GOFLAGS="}
			run(t, function, env, "go", "vet", "./...")
			if out := run(t, function, env, "go", "test", "./..."); !strings.Contains(out, "ok  ") {
				t.Errorf("no tests ran:\n%s", out)
			}
		})
	}
}

func TestPythonExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short leaves out the Python examples, whose packages are hundreds of megabytes")
	}
	python := venv(t)
	for _, dir := range examplesWith(t, "handler.py") {
		t.Run(dir, func(t *testing.T) {
			function := build(t, dir, python)
			out := run(t, function, pythonEnv, python, "-m", "unittest", "-v")
			if !regexp.MustCompile(`(?m)^Ran [1-9]`).MatchString(out) {
				t.Errorf("no tests ran:\n%s", out)
			}
		})
	}
}

func TestABuildIsTheSameEveryTime(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short leaves out the Python examples, whose packages are hundreds of megabytes")
	}
	python := venv(t)
	for _, dir := range examplesWith(t, "build.py") {
		t.Run(dir, func(t *testing.T) {
			first, second := build(t, dir, python), build(t, dir, python)
			if diff := cmp.Diff(digests(t, first), digests(t, second)); diff != "" {
				t.Errorf("two builds of %s differ:\n%s", dir, diff)
			}
		})
	}
}

// pythonEnv is what the platform's builder sets for build.py.
var pythonEnv = []string{"PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1"}

// build copies an example, runs its build.py where there is one, and returns
// the function directory of the copy.
func build(t *testing.T, dir, python string) string {
	t.Helper()
	copied := filepath.Join(t.TempDir(), dir)
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	// What a build leaves in the source tree is in the example's .gitignore. It
	// must not hide that a build no longer makes it.
	ignored, err := os.ReadFile(filepath.Join(dir, ".gitignore"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(ignored)) {
		if strings.HasPrefix(name, "function/") {
			if err := os.RemoveAll(filepath.Join(copied, name)); err != nil {
				t.Fatal(err)
			}
		}
	}

	function := filepath.Join(copied, "function")
	if _, err := os.Stat(filepath.Join(function, "build.py")); err == nil {
		t.Logf("build.py: %s", run(t, function, pythonEnv, python, "build.py"))
	}
	return function
}

// venv returns the interpreter of a virtual environment that has what all
// examples require. It is made anew when the requirements change.
func venv(t *testing.T) string {
	t.Helper()
	cache, err := filepath.Abs("../.cache")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "venv-examples")
	// Several test processes may come here at once.
	lock := flock.New(dir + ".lock")
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()

	wanted := requirements(t)
	interpreter := filepath.Join(dir, "bin", "python3")
	installed := filepath.Join(dir, "requirements.txt") // written last
	if have, err := os.ReadFile(installed); err == nil && bytes.Equal(have, wanted) {
		if exec.CommandContext(t.Context(), interpreter, "-c", "").Run() == nil {
			return interpreter
		}
	}

	t.Logf("installing the examples' packages into %s", dir)
	if out, err := exec.CommandContext(t.Context(), "python3", "-m", "venv", "--clear", dir).CombinedOutput(); err != nil {
		t.Fatalf("the Python examples need python3 with venv and pip (Debian: apt install python3-venv): %v\n%s", err, out)
	}
	list := filepath.Join(dir, "wanted.txt")
	if err := os.WriteFile(list, wanted, 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, dir, nil, interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", list)
	if err := os.Rename(list, installed); err != nil {
		t.Fatal(err)
	}
	return interpreter
}

// requirements returns all requirements of all examples and of their tests.
func requirements(t *testing.T) []byte {
	t.Helper()
	files, err := filepath.Glob("*/function/*requirements.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	for _, file := range append(files, "test-requirements.txt") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.Bytes()
}

// examplesWith returns the directories of the examples whose functions have a
// file of that name.
func examplesWith(t *testing.T, name string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("*", "function", name))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatalf("no example has a %s", name)
	}
	var dirs []string
	for _, file := range files {
		dirs = append(dirs, filepath.Dir(filepath.Dir(file)))
	}
	return dirs
}

// run runs a command in dir and returns its output; a failure is the test's.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// digests returns the digest of each file in dir.
func digests(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	sums := map[string][sha256.Size]byte{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(filepath.Join(dir, name))
		sums[name] = sha256.Sum256(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sums
}

// TestLeaksOfTheResearchScriptAreFound holds the guide to what it says of the
// step at which a handler still keeps files and history.
func TestLeaksOfTheResearchScriptAreFound(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short leaves out the Python examples, whose packages are hundreds of megabytes")
	}
	cmd := exec.CommandContext(t.Context(), venv(t), "-m", "graphene_function", "leaks", "steps/2-loaded", "--style", "model", "--calls", "12", "--warmup", "2", "--body", "digit.json")
	cmd.Dir = "research"
	cmd.Env = append(os.Environ(), append(pythonEnv, "PYTHONPATH=../../templates/python")...)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 {
		t.Fatalf("ended with %v, want exit status 1\n%s", err, out)
	}
	for _, want := range []string{
		`log = open(f"{tempfile.gettempdir()}/digits.log", "a")`,
		"pixels = json.loads(event.body)",
		"odds = model.predict_proba([pixels])[0]",
		"open files: ",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the report does not say %q:\n%s", want, out)
		}
	}
}
