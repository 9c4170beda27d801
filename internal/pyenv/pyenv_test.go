package pyenv

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

func TestFindSeesThroughAShim(t *testing.T) {
	real, err := Find(t.Context(), "python3")
	if err != nil {
		t.Fatal(err)
	}
	shim := filepath.Join(t.TempDir(), "python3")
	if err := os.WriteFile(shim, []byte("#!/bin/sh\nexec "+real.Path+" \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	got, err := Find(t.Context(), shim)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(real, got); diff != "" {
		t.Errorf("through a shim (-real +got)\n%s", diff)
	}
	if !filepath.IsAbs(got.Path) {
		t.Errorf("path %q is not absolute", got.Path)
	}
	if got.Target.OS != runtime.GOOS || got.Target.Arch != runtime.GOARCH || !strings.HasPrefix(got.Target.Python, "cp3") {
		t.Errorf("target %v does not fit this machine", got.Target)
	}
	if _, err := function.ParseTarget(got.Target.String()); err != nil {
		t.Errorf("the target's text cannot be read back: %v", err)
	}
}

func TestFindStaysInAVirtualEnvironment(t *testing.T) {
	base, err := Find(t.Context(), "python3")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "venv")
	if out, err := exec.CommandContext(t.Context(), base.Path, "-m", "venv", "--without-pip", dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no virtual environment can be made here: %v\n%s", err, out)
	}
	name := filepath.Join(dir, "bin", "python")
	got, err := Find(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if got.Path != name {
		t.Errorf("path %q, want %q", got.Path, name)
	}
	if got.Target != base.Target {
		t.Errorf("target %v, want %v", got.Target, base.Target)
	}
}

func TestFindSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	script := func(name, body string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, tt := range []struct {
		name, python string
		kind         fault.Kind
		text         string
	}{
		{"a program that is not there", "no-such-python", fault.NotFound, "install Python"},
		{"a program that fails", script("fails", "echo no luck >&2; exit 3"), fault.NotFound, "no luck"},
		{"a program that is no Python", script("echo", "echo hello"), fault.Unsupported, "not a Python"},
		{"a Python that is too old", script("old", `echo '{"implementation":"cpython","version":"3.8.1","old":true}'`), fault.Unsupported, "3.8.1"},
		{"another Python", script("pypy", `echo '{"implementation":"pypy","version":"3.10"}'`), fault.Unsupported, "pypy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Find(t.Context(), tt.python)
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v, want kind %q and %q in it", err, tt.kind, tt.text)
			}
		})
	}
}

func TestFindEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Find(ctx, "python3"); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestMachineNamesAreGoNames(t *testing.T) {
	for machine, want := range map[string]string{"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm", "riscv64": "riscv64", "": runtime.GOARCH} {
		if got := goArch(machine); got != want {
			t.Errorf("goArch(%q) = %q, want %q", machine, got, want)
		}
	}
}
