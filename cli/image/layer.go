package image

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
)

// gzipLevel is a compromise: level 9 would save some five per cent of a
// typical dependency layer and take ten times as long.
const gzipLevel = 4

// A layerFile is a layer in the cache, and its own record on disk.
type layerFile struct {
	BlobDigest v1.Hash `json:"digest"`
	DiffHash   v1.Hash `json:"diffID"`
	Length     int64   `json:"size"`
	path       string
}

func (l *layerFile) Digest() (v1.Hash, error)            { return l.BlobDigest, nil }
func (l *layerFile) DiffID() (v1.Hash, error)            { return l.DiffHash, nil }
func (l *layerFile) Size() (int64, error)                { return l.Length, nil }
func (l *layerFile) MediaType() (types.MediaType, error) { return types.OCILayer, nil }
func (l *layerFile) Compressed() (io.ReadCloser, error)  { return os.Open(l.path) }

// layer writes a layer that holds the trees, sorted, with owner, times and
// modes that do not depend on the machine.
func (c cache) layer(ctx context.Context, trees ...tree) (*layerFile, error) {
	files, err := list(trees)
	if err != nil {
		return nil, err
	}
	tmp, err := os.CreateTemp(filepath.Join(c.dir, "tmp"), "layer-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()

	l, err := writeLayer(ctx, tmp, files)
	if err != nil {
		return nil, err
	}
	if err := tmp.Close(); err != nil {
		return nil, err
	}
	name := layerName(l.BlobDigest)
	if err := os.Chmod(tmp.Name(), 0o644); err != nil {
		return nil, err
	}
	if err := c.add(tmp.Name(), "layers", name, true); err != nil {
		return nil, fmt.Errorf("keep a layer: %w", err)
	}
	l.path = c.path("layers", name)
	return l, nil
}

func layerName(digest v1.Hash) string { return digest.Hex + ".tar.gz" }

// saveLayer records l beside what it was made from, so that loadLayer can find
// it without reading it.
func saveLayer(path string, l *layerFile) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o644)
}

// loadLayer returns the layer recorded at path, or nil if the record or the
// layer is not there any more.
func (c cache) loadLayer(path string) *layerFile {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	l := new(layerFile)
	if json.Unmarshal(text, l) != nil || !c.use("layers", layerName(l.BlobDigest)) {
		return nil
	}
	l.path = c.path("layers", layerName(l.BlobDigest))
	return l
}

func asLayer(l *layerFile) (v1.Layer, error) { return partial.CompressedToLayer(l) }

// A tree is a directory laid into an image at a path, without leading slash.
type tree struct {
	at  string
	dir string
}

// A file is one entry of a layer.
type file struct {
	name string // in the image; directories end in a slash
	src  string // on disk; empty for a directory above a tree
	mode fs.FileMode
	size int64
	link string
}

// list returns the files of all trees and the directories above them, in the
// order in which they are archived.
func list(trees []tree) ([]file, error) {
	all := map[string]file{}
	for _, t := range trees {
		for dir := t.at; dir != "."; dir = path.Dir(dir) {
			all[dir+"/"] = file{name: dir + "/", mode: fs.ModeDir}
		}
		err := filepath.WalkDir(t.dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || p == t.dir {
				return err
			}
			f, err := newFile(t, p, d)
			if err == nil {
				all[f.name] = f
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	files := make([]file, 0, len(all))
	for _, f := range all {
		files = append(files, f)
	}
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

func newFile(t tree, p string, d fs.DirEntry) (file, error) {
	rel, err := filepath.Rel(t.dir, p)
	if err != nil {
		return file{}, err
	}
	info, err := d.Info()
	if err != nil {
		return file{}, err
	}
	f := file{name: path.Join(t.at, filepath.ToSlash(rel)), src: p, mode: info.Mode(), size: info.Size()}
	switch {
	case info.IsDir():
		f.name += "/"
	case info.Mode()&fs.ModeSymlink != 0:
		f.link, err = os.Readlink(p)
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s is neither a file nor a directory", rel)
	}
	return f, err
}

func (f file) header() *tar.Header {
	h := &tar.Header{Name: f.name, ModTime: epoch, Format: tar.FormatPAX}
	switch {
	case f.mode.IsDir() && f.mode&fs.ModeSticky != 0: // /tmp
		h.Typeflag, h.Mode = tar.TypeDir, 0o1777
	case f.mode.IsDir():
		h.Typeflag, h.Mode = tar.TypeDir, 0o755
	case f.link != "":
		h.Typeflag, h.Mode, h.Linkname = tar.TypeSymlink, 0o777, f.link
	case f.mode&0o111 != 0:
		h.Typeflag, h.Mode, h.Size = tar.TypeReg, 0o755, f.size
	default:
		h.Typeflag, h.Mode, h.Size = tar.TypeReg, 0o644, f.size
	}
	return h
}

// writeLayer archives and compresses files into w and says what came of it.
func writeLayer(ctx context.Context, w io.Writer, files []file) (*layerFile, error) {
	blob := &digester{w: w, sum: sha256.New()}
	zw, err := gzip.NewWriterLevel(blob, gzipLevel)
	if err != nil {
		return nil, err
	}
	diff := &digester{w: zw, sum: sha256.New()}
	tw := tar.NewWriter(diff)
	for _, f := range files {
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		if err := f.write(tw); err != nil {
			return nil, fmt.Errorf("archive %s: %w", f.name, err)
		}
	}
	if err := tw.Close(); err != nil {
		return nil, err
	}
	if err := zw.Close(); err != nil {
		return nil, err
	}
	return &layerFile{BlobDigest: blob.hash(), DiffHash: diff.hash(), Length: blob.n}, nil
}

func (f file) write(tw *tar.Writer) error {
	h := f.header()
	if err := tw.WriteHeader(h); err != nil || h.Typeflag != tar.TypeReg {
		return err
	}
	r, err := os.Open(f.src)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(tw, r)
	return err
}

// A digester hashes and counts what passes through it.
type digester struct {
	w   io.Writer
	sum hash.Hash
	n   int64
}

func (d *digester) Write(p []byte) (int, error) {
	n, err := d.w.Write(p)
	d.sum.Write(p[:n])
	d.n += int64(n)
	return n, err
}

func (d *digester) hash() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(d.sum.Sum(nil))}
}

// hashTree returns a digest of everything in dir: names, contents, links, and
// whether files can be executed.
func hashTree(dir string) (string, error) {
	files, err := list([]tree{{at: ".", dir: dir}})
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	for _, f := range files {
		h := f.header()
		fmt.Fprintf(sum, "%q %c %o %d %q\n", h.Name, h.Typeflag, h.Mode, h.Size, h.Linkname)
		if h.Typeflag == tar.TypeReg {
			if err := copyFrom(sum, f.src); err != nil {
				return "", err
			}
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func copyFrom(w io.Writer, path string) error {
	r, err := os.Open(path)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}
