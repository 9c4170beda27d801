package local

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/fault"
)

// entry is one file of an archive.
type entry struct {
	name, link, content string
	kind                byte // 0 is a regular file
	mode                int64
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Linkname: e.link, Typeflag: e.kind, Mode: e.mode, Size: int64(len(e.content))}
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// unpackAll applies layers and returns what there is then: files with their
// mode and content, links with their target.
func unpackAll(t testing.TB, limit int64, layers ...[]byte) (map[string]string, error) {
	t.Helper()
	root := t.TempDir()
	u, err := newUnpacker(root, limit, false)
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	for _, layer := range layers {
		if err := u.archive(t.Context(), bytes.NewReader(layer)); err != nil {
			return nil, err
		}
	}
	tree := map[string]string{}
	err = filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			tree[rel] = "directory"
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			tree[rel] = "-> " + target
		default:
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			tree[rel] = info.Mode().String() + " " + string(text)
		}
		return nil
	})
	return tree, err
}

func TestLayersAreAppliedInOrder(t *testing.T) {
	got, err := unpackAll(t, 1<<20,
		archive(t,
			entry{name: "home/app/", kind: tar.TypeDir, mode: 0o700},
			entry{name: "home/app/handler", content: "old", mode: 0o4755},
			entry{name: "home/app/gone", content: "x"},
			entry{name: "./data/a", content: "a"},
			entry{name: "/data/b", content: "b"},
			entry{name: "swap/inner", content: "x"},
		),
		archive(t,
			entry{name: "home/app/handler", content: "new", mode: 0o755},
			entry{name: "home/app/.wh.gone"},
			entry{name: "data/c", content: "c"},
			entry{name: "data/.wh..wh..opq"},
			entry{name: "swap", content: "a file now"},
			entry{name: "link", link: "home/app/handler", kind: tar.TypeSymlink},
			entry{name: "home/up", link: "../data/c", kind: tar.TypeSymlink},
			entry{name: "hard", link: "/data/c", kind: tar.TypeLink},
		),
	)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"home": "directory", "home/app": "directory", "data": "directory",
		"home/app/handler": "-r-xr-xr-x new",
		"data/c":           "-r--r--r-- c",
		"swap":             "-r--r--r-- a file now",
		"link":             "-> home/app/handler",
		"home/up":          "-> ../data/c",
		"hard":             "-r--r--r-- c",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAnImageCannotReachOutOfItsDirectory(t *testing.T) {
	for name, entries := range map[string][]entry{
		"a path with dots":             {{name: "../evil", content: "x"}},
		"dots in the middle":           {{name: "a/../../evil", content: "x"}},
		"an absolute symbolic link":    {{name: "a", link: "/etc", kind: tar.TypeSymlink}},
		"a symbolic link upwards":      {{name: "a/b", link: "../../etc", kind: tar.TypeSymlink}},
		"a write through a link":       {{name: "a", link: "b", kind: tar.TypeSymlink}, {name: "b", link: "..", kind: tar.TypeSymlink}, {name: "a/evil", content: "x"}},
		"a hard link to the outside":   {{name: "a", link: "/etc/passwd", kind: tar.TypeLink}},
		"a hard link upwards":          {{name: "a", link: "../../etc/passwd", kind: tar.TypeLink}},
		"a hard link to a link":        {{name: "a", link: "b", kind: tar.TypeSymlink}, {name: "c", link: "a", kind: tar.TypeLink}},
		"a whiteout of its own root":   {{name: ".wh..", content: ""}},
		"a whiteout upwards":           {{name: "a/.wh...", content: ""}},
		"a device":                     {{name: "dev", kind: tar.TypeBlock}},
		"a pipe":                       {{name: "pipe", kind: tar.TypeFifo}},
		"more bytes than are allowed":  {{name: "a", content: strings.Repeat("x", 600)}, {name: "b", content: strings.Repeat("x", 600)}},
		"a file where a directory was": {{name: "a", content: "x"}, {name: "a/b", content: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			if tree, err := unpackAll(t, 1000, archive(t, entries...)); err == nil {
				t.Errorf("it was unpacked: %v", tree)
			}
		})
	}
	if _, err := unpackAll(t, 1000, []byte("not an archive, but long enough for one header"+strings.Repeat(".", 512))); !errors.Is(err, fault.Invalid) {
		t.Errorf("a broken archive: %v", err)
	}
}

// FuzzUnpack checks that no archive makes or changes anything outside.
func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, entry{name: "a/b", content: "x"}, entry{name: "c", link: "a/b", kind: tar.TypeSymlink}))
	f.Add(archive(f, entry{name: "a", link: "..", kind: tar.TypeSymlink}, entry{name: "a/outside", content: "x"}))
	f.Add(archive(f, entry{name: "a/.wh..wh..opq"}, entry{name: "../.wh.outside"}))
	f.Fuzz(func(t *testing.T, layer []byte) {
		parent := t.TempDir()
		if err := os.WriteFile(filepath.Join(parent, "outside"), []byte("same"), 0o644); err != nil {
			t.Fatal(err)
		}
		root := filepath.Join(parent, "root")
		if err := os.Mkdir(root, 0o755); err != nil {
			t.Fatal(err)
		}
		u, err := newUnpacker(root, 1<<20, false)
		if err != nil {
			t.Fatal(err)
		}
		defer u.close()
		_ = u.archive(t.Context(), bytes.NewReader(layer)) // whether it is a good one does not matter
		if text, err := os.ReadFile(filepath.Join(parent, "outside")); err != nil || string(text) != "same" {
			t.Errorf("the file outside is %q, %v", text, err)
		}
		if entries, err := os.ReadDir(parent); err != nil || len(entries) != 2 {
			t.Errorf("outside there are %d files, %v", len(entries), err)
		}
	})
}
