package local

import (
	"archive/tar"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/graphene-faas/graphene/internal/fault"
)

// maxEntries bounds the files of an image, which cost inodes and not bytes.
const maxEntries = 1_000_000

// An unpacker applies layers to a directory. Nothing it writes can lie
// outside: it works through an [os.Root], and links that lead out are refused.
type unpacker struct {
	root    *os.Root
	size    int64 // bytes that may still be written
	entries int   // files that may still be made
	// foreign images keep owners and modes, as their containers expect, and
	// may have links to absolute paths, which are their own.
	foreign bool
}

func newUnpacker(dir string, size int64, foreign bool) (*unpacker, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &unpacker{root: root, size: size, entries: maxEntries, foreign: foreign}, nil
}

func (u *unpacker) close() { u.root.Close() }

// layer applies one layer on top of those before it.
func (u *unpacker) layer(ctx context.Context, layer v1.Layer) error {
	r, err := layer.Uncompressed()
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	defer r.Close()
	if err := u.archive(ctx, r); err != nil {
		return err
	}
	// The digest is checked at the very end of the stream.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}

// archive applies a tar stream.
func (u *unpacker) archive(ctx context.Context, r io.Reader) error {
	own := map[string]bool{} // what this layer made, which its own whiteouts do not hide
	for t := tar.NewReader(r); ; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fault.Invalid.Errorf("broken archive: %w", err)
		}
		name := path.Clean(strings.TrimLeft(h.Name, "/"))
		if name == "." {
			continue
		}
		if !filepath.IsLocal(name) {
			return fault.Invalid.Errorf("%q lies outside the image", h.Name)
		}
		if u.entries--; u.entries < 0 {
			return fault.TooLarge.Errorf("image has more than %d files", maxEntries)
		}
		if err := u.entry(h, name, t, own); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}

const (
	whiteout       = ".wh."         // before the name of a file that the layers below have and this one hides
	opaqueWhiteout = ".wh..wh..opq" // hides everything the layers below have in this directory
)

func (u *unpacker) entry(h *tar.Header, name string, content io.Reader, own map[string]bool) error {
	dir, base := path.Split(name)
	if base == opaqueWhiteout {
		return u.hideBelow(path.Clean(dir), own)
	}
	if hidden, ok := strings.CutPrefix(base, whiteout); ok {
		if hidden == "" || hidden == "." || hidden == ".." {
			return fault.Invalid.Errorf("not a file name")
		}
		return u.root.RemoveAll(path.Join(dir, hidden))
	}
	if dir != "" {
		if err := u.root.MkdirAll(path.Clean(dir), 0o755); err != nil {
			return err
		}
	}
	for p := name; p != "."; p = path.Dir(p) {
		own[p] = true
	}

	if h.Typeflag == tar.TypeDir {
		if info, err := u.root.Lstat(name); err == nil && info.IsDir() {
			return u.own(h, name)
		}
	}
	if err := u.root.RemoveAll(name); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if err := u.root.Mkdir(name, 0o755); err != nil {
			return err
		}
		return u.own(h, name)
	case tar.TypeReg:
		if err := u.file(name, h, content); err != nil {
			return err
		}
		return u.own(h, name)
	case tar.TypeSymlink:
		if u.foreign {
			return u.foreignLink(h, name)
		}
		if path.IsAbs(h.Linkname) || !filepath.IsLocal(path.Join(dir, h.Linkname)) {
			return fault.Invalid.Errorf("symbolic link to %q leads out of the image", h.Linkname)
		}
		return u.root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		target := path.Clean(strings.TrimLeft(h.Linkname, "/"))
		info, err := u.root.Lstat(target)
		if err != nil || !info.Mode().IsRegular() {
			return fault.Invalid.Errorf("hard link to %q, which is not a file of the image", h.Linkname)
		}
		return u.root.Link(target, name)
	}
	if u.foreign { // the container has the devices it may use
		return nil
	}
	return fault.Invalid.Errorf("is neither a file, a directory nor a link, and functions need nothing else")
}

// file writes a regular file. Of its mode only whether it is executable
// matters: everyone may read an image and nobody may change it.
func (u *unpacker) file(name string, h *tar.Header, content io.Reader) error {
	if u.size -= h.Size; u.size < 0 {
		return fault.TooLarge.Errorf("image is larger than this platform allows")
	}
	mode := fs.FileMode(0o444)
	if h.Mode&0o111 != 0 {
		mode = 0o555
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

// own gives a file or directory of a foreign image its owner and mode. What
// would give its user more rights than it has is left out.
func (u *unpacker) own(h *tar.Header, name string) error {
	if !u.foreign {
		return nil
	}
	if err := u.root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	return u.root.Chmod(name, h.FileInfo().Mode()&(fs.ModePerm|fs.ModeSticky))
}

// foreignLink makes a symbolic link. One to an absolute path is meant below
// the image's root, which is what it leads to when it is made a relative one.
func (u *unpacker) foreignLink(h *tar.Header, name string) error {
	target := h.Linkname
	if path.IsAbs(target) {
		up := strings.Repeat("../", strings.Count(name, "/"))
		target = up + strings.TrimLeft(path.Clean(target), "/")
	}
	if err := u.root.Symlink(cmp.Or(target, "."), name); err != nil {
		return err
	}
	return u.root.Lchown(name, h.Uid, h.Gid)
}

// hideBelow removes what dir holds from the layers below.
func (u *unpacker) hideBelow(dir string, own map[string]bool) error {
	entries, err := fs.ReadDir(u.root.FS(), dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		if !own[name] {
			if err := u.root.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// seal takes away the right to write into any directory, so that a replica
// that runs as our own user does not change the image by accident.
func (u *unpacker) seal() error {
	if u.foreign {
		return nil // its replicas write to a layer of their own
	}
	return fs.WalkDir(u.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return u.root.Chmod(name, 0o555)
	})
}

// removeTree removes a directory, sealed or not.
func removeTree(dir string) error {
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = os.Chmod(name, 0o700)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.RemoveAll(dir)
}
