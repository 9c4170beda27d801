package templates_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
)

// mypyVersion is pinned, so that what passes today passes tomorrow.
const mypyVersion = "1.19.1"

// supported are the versions of Python that functions may have.
var supported = regexp.MustCompile(`^3\.(9|[1-9][0-9]+)$`)

// TestTheRuntimeRunsOnEveryPython runs the runtime's own tests with every
// supported interpreter of this machine: those in PATH and those that pyenv
// keeps.
func TestTheRuntimeRunsOnEveryPython(t *testing.T) {
	ran := regexp.MustCompile(`(?m)^Ran [1-9]`)
	for version, interpreter := range interpreters(t) {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), interpreter, "-B", "-W", "ignore", "-m", "unittest")
			cmd.Dir = "python"
			cmd.WaitDelay = time.Second // nothing that a test leaves behind is waited for
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%s -m unittest: %v\n%s", interpreter, err, out)
			}
			if !ran.Match(out) {
				t.Errorf("no tests ran:\n%s", out)
			}
		})
	}
}

// interpreters returns one interpreter of each supported version, and beside it
// the one that the system's packages provide, which is built differently.
func interpreters(t *testing.T) map[string]string {
	t.Helper()
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	dirs := filepath.SplitList(os.Getenv("PATH"))
	kept, err := filepath.Glob(filepath.Join(home, ".pyenv", "versions", "*", "bin"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, dir := range append(kept, dirs...) {
		names, err := filepath.Glob(filepath.Join(dir, "python3*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			version := strings.TrimPrefix(filepath.Base(name), "python")
			key := version
			if dir == "/usr/bin" {
				key += " of the system"
			}
			if version == "3" || !supported.MatchString(version) || found[key] != "" {
				continue
			}
			// A version manager's shim may have no interpreter behind it.
			out, err := exec.CommandContext(t.Context(), name, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").Output()
			if err == nil && strings.TrimSpace(string(out)) == version {
				found[key] = name
			}
		}
	}
	if len(found) == 0 {
		t.Fatal("there is no python3.N in PATH; the runtime of Python functions cannot be tested")
	}
	return found
}

// TestTheRuntimeIsTyped checks the runtime with mypy in its strict mode, from a
// virtual environment in .cache of the repository, for the oldest version that
// functions may have.
func TestTheRuntimeIsTyped(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short leaves out mypy, which has to be installed")
	}
	mypy := installMypy(t)
	cmd := exec.CommandContext(t.Context(), mypy, "--strict", "--python-version", "3.9", "--cache-dir", filepath.Join(t.TempDir(), "mypy"), "graphene_function")
	cmd.Dir = "python"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("mypy: %v\n%s", err, out)
	}
}

func installMypy(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".cache", "venv-mypy-"+mypyVersion))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	lock := flock.New(dir + ".lock") // several test processes may come here at once
	if err := lock.Lock(); err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock()

	mypy := filepath.Join(dir, "bin", "mypy")
	if exec.CommandContext(t.Context(), mypy, "--version").Run() == nil {
		return mypy
	}
	for _, args := range [][]string{
		{"python3", "-m", "venv", "--clear", dir},
		{filepath.Join(dir, "bin", "python3"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "mypy==" + mypyVersion},
	} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("mypy cannot be installed, so the types of the Python runtime are not checked: %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	return mypy
}
