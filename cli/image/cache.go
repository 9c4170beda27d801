package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
)

// unusedFor is how long an entry of the cache lives that nobody uses.
const unusedFor = 30 * 24 * time.Hour

// A cache is a directory of things that are expensive to make:
//
//	layers/DIGEST.tar.gz         layers, by what they hold
//	deps/KEY/{root,layer.json}   installed Python packages, by what was asked for
//	built/KEY/                   handler directories after their build.py
//	docker/NAME.tar              the last image a container tool made of a function
//	bases/ALGORITHM-HEX          manifests, configurations and layers of base images, by digest
//	bases/ref-KEY                the digest that a tag of a base image meant last
//	pushed/KEY                   a repository that has a layer, by registry and layer
//	tmp/                         work in progress
//
// Entries appear by rename, whole or not at all, so builds may share a cache
// and be killed at any time.
type cache struct{ dir string }

func openCache(dir string) (cache, error) {
	if dir == "" {
		return cache{}, errors.New("no cache directory is given")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return cache{}, fmt.Errorf("find the cache directory: %w", err)
	}
	c := cache{dir}
	for _, sub := range []string{"layers", "deps", "built", "docker", "bases", "pushed", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return cache{}, fmt.Errorf("make the cache directory: %w", err)
		}
		if err := c.prune(sub); err != nil {
			return cache{}, fmt.Errorf("clean the cache: %w", err)
		}
	}
	return c, nil
}

// temp makes a directory for work in progress, on the same file system as the
// entries.
func (c cache) temp() (string, error) {
	return os.MkdirTemp(filepath.Join(c.dir, "tmp"), "build-")
}

// removeTemp removes what temp made. Files that cannot be removed are left for
// prune: that is no reason for a build to fail.
func removeTemp(dir string) { _ = os.RemoveAll(dir) }

func (c cache) path(sub, name string) string { return filepath.Join(c.dir, sub, name) }

// lock waits until nobody else makes the entry name of sub, in this process or
// another. The caller unlocks.
func (c cache) lock(ctx context.Context, sub, name string) (unlock func(), err error) {
	l := flock.New(c.path(sub, name+".lock"))
	if _, err := l.TryLockContext(ctx, 50*time.Millisecond); err != nil {
		return nil, fmt.Errorf("wait for another build: %w", err)
	}
	return func() { _ = l.Unlock() }, nil
}

// use reports whether the entry exists, and keeps it from being pruned.
func (c cache) use(sub, name string) bool {
	path := c.path(sub, name)
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

// add moves the finished file or directory at path into the cache. An entry
// that was there stays if keep is true, and is replaced otherwise.
func (c cache) add(path, sub, name string, keep bool) error {
	dst := c.path(sub, name)
	if _, err := os.Lstat(dst); err == nil {
		if keep {
			return nil
		}
		// A directory cannot be replaced by a rename, so the old one steps aside.
		old, err := c.temp()
		if err != nil {
			return err
		}
		defer removeTemp(old)
		if err := os.Rename(dst, filepath.Join(old, "entry")); err != nil {
			return err
		}
	}
	if err := os.Rename(path, dst); err != nil {
		return err
	}
	c.use(sub, name)
	return nil
}

// prune removes what was not used for long.
func (c cache) prune(sub string) error {
	entries, err := os.ReadDir(filepath.Join(c.dir, sub))
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another build pruned it
		}
		if err != nil {
			return err
		}
		if time.Since(info.ModTime()) > unusedFor {
			if err := os.RemoveAll(c.path(sub, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
