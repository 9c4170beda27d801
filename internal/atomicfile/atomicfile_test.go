package atomicfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/atomicfile"
)

// names returns what is in a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func wantFile(t *testing.T, path, text string, perm fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != text || info.Mode() != perm {
		t.Errorf("%s holds %q with mode %s, want %q with %s", path, got, info.Mode(), text, perm)
	}
}

func TestWriteMakesAndReplacesAFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "key")
	if err := atomicfile.Write(path, []byte("one, which is longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "one, which is longer", 0o644)
	if err := atomicfile.Write(path, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "two", 0o600)
	if diff := cmp.Diff([]string{"key"}, names(t, dir)); diff != "" {
		t.Errorf("the directory (-want +got):\n%s", diff)
	}
}

func TestWhoeverReadsSeesAWholeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	versions := [][]byte{bytes.Repeat([]byte("a"), 1<<16), bytes.Repeat([]byte("b"), 1<<10)}
	if err := atomicfile.Write(path, versions[0], 0o600); err != nil {
		t.Fatal(err)
	}
	var done atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() {
		for !done.Load() {
			got, err := os.ReadFile(path)
			if err != nil || !bytes.Equal(got, versions[0]) && !bytes.Equal(got, versions[1]) {
				t.Errorf("read %d bytes (%v), want a whole version", len(got), err)
				return
			}
		}
	})
	for i := range 50 {
		if err := atomicfile.Write(path, versions[i%2], 0o600); err != nil {
			t.Error(err)
		}
	}
	done.Store(true)
	reader.Wait()
}

func TestWriteFollowsALink(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	real, link := filepath.Join(elsewhere, "config.yml"), filepath.Join(dir, "config.yml")
	if err := os.WriteFile(real, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(link, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFile(t, real, "new", 0o600)
	if got, err := os.Readlink(link); err != nil || got != real {
		t.Errorf("the link leads to %q (%v), want it as it was", got, err)
	}
}

func TestALinkToNothingIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yml")
	if err := os.Symlink("nothing", path); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "new", 0o600)
}

func TestAFailedWriteLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("text"), 0o600); err == nil {
		t.Error("a directory was replaced by a file")
	}
	if err := atomicfile.Create(path, []byte("text"), 0o600); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create where there is a directory: %v, want %v", err, fs.ErrExist)
	}
	if diff := cmp.Diff([]string{"taken"}, names(t, dir)); diff != "" {
		t.Errorf("the directory (-want +got):\n%s", diff)
	}
	if err := atomicfile.Write(filepath.Join(dir, "none", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Write into no directory: %v, want %v", err, fs.ErrNotExist)
	}
}

func TestCreateSucceedsOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "password")
	var won atomic.Int32
	var all sync.WaitGroup
	for _, text := range []string{"a", "b", "c", "d"} {
		all.Go(func() {
			switch err := atomicfile.Create(path, []byte(text), 0o600); {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of four created the file, want one", won.Load())
	}
	if diff := cmp.Diff([]string{"password"}, names(t, dir)); diff != "" {
		t.Errorf("the directory (-want +got):\n%s", diff)
	}
}
