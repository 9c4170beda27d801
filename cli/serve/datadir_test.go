package serve

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/fault"
)

func TestADataDirectoryIsHeldByOneProcessAtATime(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	first, err := openDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openDataDir(dir); !errors.Is(err, fault.Exists) || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("second open = %v, want fault.Exists that names the remedy", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := openDataDir(dir)
	if err != nil {
		t.Fatalf("open after close: %v", err)
	}
	again.Close()
}

func TestADataDirectoryMayBeNamedFromHere(t *testing.T) {
	here := t.TempDir()
	t.Chdir(here)
	d, err := openDataDir("data")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if want := filepath.Join(here, "data"); d.path != want {
		t.Errorf("the directory is %s, want %s", d.path, want)
	}
}

func TestADataDirectoryOfAnotherKindIsRefused(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"newer":     {"VERSION": "2\n"},
		"damaged":   {"VERSION": "\x00\x00"},
		"empty":     {"VERSION": ""},
		"strangers": {"holiday.jpg": "…"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for f, text := range files {
				if err := os.WriteFile(filepath.Join(dir, f), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := openDataDir(dir); !errors.Is(err, fault.Invalid) {
				t.Fatalf("open = %v, want fault.Invalid", err)
			}
			if name == "strangers" {
				if left, _ := os.ReadDir(dir); len(left) != 1 {
					t.Errorf("the directory now holds %v", left)
				}
			}
			for f, text := range files {
				if got, _ := os.ReadFile(filepath.Join(dir, f)); string(got) != text {
					t.Errorf("%s was changed to %q", f, got)
				}
			}
		})
	}
}

func TestAStartThatWasCutShortIsTakenUp(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"lock", ".tmp-1234"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d, err := openDataDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
}
