package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"

	"github.com/graphene-faas/graphene/internal/fault"
)

// litter is never part of a function: what version control, interpreters and
// test runners leave in a working copy.
var litter = map[string]bool{
	".git": true, ".hg": true, ".svn": true, ".DS_Store": true, ".dockerignore": true,
	"__pycache__": true, ".venv": true, ".mypy_cache": true, ".pytest_cache": true, ".ruff_cache": true, ".tox": true,
}

// copyHandler copies what belongs to the function from b.Dir, and then
// b.Extras, to dst, which must not exist.
func (b *build) copyHandler(dst string) error {
	info, err := os.Stat(b.Dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return fault.Invalid.Errorf("there is no handler directory %s", b.Dir)
	}
	if err != nil {
		return err
	}
	ignored, err := readIgnore(b.Dir)
	if err != nil {
		return err
	}
	if err := copyTree(dst, b.Dir, ignored); err != nil {
		return err
	}
	for _, extra := range b.Extras {
		if !filepath.IsLocal(extra) {
			return fault.Invalid.Errorf("the extra path %s leaves the working directory", extra)
		}
		if err := copyTree(filepath.Join(dst, extra), extra, nil); err != nil {
			return err
		}
	}
	return nil
}

// readIgnore returns the rules of dir's .dockerignore, nil if it has none.
func readIgnore(dir string) (*patternmatcher.PatternMatcher, error) {
	name := filepath.Join(dir, ".dockerignore")
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ignore rules: %w", err)
	}
	defer f.Close()
	patterns, err := ignorefile.ReadAll(f)
	if err != nil {
		return nil, fault.Invalid.Errorf("read %s: %w", name, err)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fault.Invalid.Errorf("read %s: %w", name, err)
	}
	return m, nil
}

// copyTree copies the file or directory src to dst, without litter and without
// what is ignored. Files already at dst are replaced.
func copyTree(dst, src string, ignored *patternmatcher.PatternMatcher) error {
	root, err := filepath.EvalSymlinks(src) // WalkDir does not follow a link it starts from
	if err != nil {
		return fault.Invalid.Errorf("copy the handler: %w", err)
	}
	c := copier{root: root, ignored: ignored, project: isProject(root)}
	return filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil {
			err = c.visit(dst, p, d)
		}
		if err != nil && !errors.Is(err, filepath.SkipDir) {
			return fmt.Errorf("copy the handler: %w", err)
		}
		return err
	})
}

// isProject reports whether a stack file lies in dir. Then dir is also where
// faas-cli keeps templates and build contexts, which are no part of a handler.
func isProject(dir string) bool {
	for _, name := range []string{"stack.yaml", "stack.yml"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return true
		}
	}
	return false
}

type copier struct {
	root    string
	ignored *patternmatcher.PatternMatcher
	project bool
}

// visit copies one entry of the walk, or skips it.
func (c *copier) visit(dst, p string, d fs.DirEntry) error {
	rel, err := filepath.Rel(c.root, p)
	if err != nil {
		return err
	}
	if rel != "." && c.isLitter(p, rel, d) {
		if d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	}
	if rel != "." && c.ignored != nil {
		ignored, err := c.ignored.MatchesOrParentMatches(filepath.ToSlash(rel))
		if err != nil {
			return err
		}
		if ignored && d.IsDir() && !c.ignored.Exclusions() {
			return filepath.SkipDir
		}
		if ignored {
			return nil // below an ignored directory, a rule with "!" may still keep something
		}
	}
	return c.copy(filepath.Join(dst, rel), p, rel, d)
}

func (c *copier) isLitter(p, rel string, d fs.DirEntry) bool {
	switch name := d.Name(); {
	case litter[name]:
		return true
	case d.IsDir() && c.project && (rel == "build" || rel == "template"):
		return true
	case d.IsDir():
		_, err := os.Stat(filepath.Join(p, "pyvenv.cfg"))
		return err == nil
	default:
		return strings.HasSuffix(name, ".pyc")
	}
}

func (c *copier) copy(dst, p, rel string, d fs.DirEntry) error {
	switch {
	case d.IsDir():
		return os.MkdirAll(dst, 0o755)
	case d.Type()&fs.ModeSymlink != 0:
		target, err := os.Readlink(p)
		if err != nil {
			return err
		}
		if filepath.IsAbs(target) || !filepath.IsLocal(filepath.Join(filepath.Dir(rel), target)) {
			return fault.Invalid.Errorf("the link %s points to %s, which is outside the handler directory", rel, target)
		}
		return os.Symlink(target, dst)
	case !d.Type().IsRegular():
		return fault.Invalid.Errorf("%s is neither a file nor a directory", rel)
	}
	return copyFile(dst, p)
}

// copyFile copies the file src to dst, with its permissions, making the
// directories above dst.
func copyFile(dst, src string) error {
	r, err := os.Open(src)
	if err != nil {
		return err
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return err
	}
	return writeFile(dst, r, info.Mode()|0o600)
}

func writeFile(dst string, r io.Reader, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	w, err := os.OpenFile(dst, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode.Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

// copyFS writes the files of fsys below dst. Directories called skip are left
// out at any depth.
func copyFS(dst string, fsys fs.FS, skip string) error {
	return fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == skip {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		r, err := fsys.Open(p)
		if err != nil {
			return err
		}
		defer r.Close()
		return writeFile(filepath.Join(dst, filepath.FromSlash(p)), r, info.Mode()|0o644)
	})
}
