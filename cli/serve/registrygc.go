package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/opencontainers/go-digest"
)

// repositoriesPath is where the library keeps what is known by name, below the
// registry's directory.
const repositoriesPath = "/docker/registry/v2/repositories"

// abandonedAfter is how long an upload may rest before it is removed.
const abandonedAfter = 24 * time.Hour

func repositoryPath(repository string, parts ...string) string {
	return path.Join(append([]string{repositoriesPath, repository}, parts...)...)
}

// disk returns the name in the file system of a path among the library's.
func (r *registry) disk(path string) string {
	return filepath.Join(r.dir, filepath.FromSlash(path))
}

// collectGarbage removes everything that no tag leads to, except what pushes of
// the last hour rely on. It returns how many bytes of layers it removed.
// Pushes go on meanwhile; only the writing of manifests waits.
func (r *registry) collectGarbage(ctx context.Context) (freed int64, err error) {
	r.collecting.Lock()
	defer r.collecting.Unlock()
	r.dropLeases()

	c := collection{registry: r, used: map[digest.Digest]bool{}}
	if err := c.mark(ctx); err != nil {
		return 0, fmt.Errorf("collect garbage: find what is used: %w", err)
	}
	if err := c.sweep(ctx); err != nil {
		return c.freed, fmt.Errorf("collect garbage: remove what is not used: %w", err)
	}
	return c.freed, nil
}

// A collection is one run of collectGarbage.
type collection struct {
	*registry
	used  map[digest.Digest]bool // manifests and layers
	found []foundRepository
	freed int64
}

type foundRepository struct {
	name      string
	tags      []string
	manifests []digest.Digest
	layers    []digest.Digest
}

// mark finds all repositories and everything their tags lead to.
func (c *collection) mark(ctx context.Context) error {
	all, ok := c.namespace.(distribution.RepositoryEnumerator)
	if !ok {
		return errors.ErrUnsupported
	}
	return ignoreMissing(all.Enumerate(ctx, func(name string) error {
		if err := c.markRepository(ctx, name); err != nil {
			return fmt.Errorf("repository %s: %w", name, err)
		}
		return nil
	}))
}

func (c *collection) markRepository(ctx context.Context, name string) error {
	repository, err := c.repository(ctx, name)
	if err != nil {
		return err
	}
	manifests, err := repository.Manifests(ctx)
	if err != nil {
		return err
	}
	found := foundRepository{name: name}
	if found.manifests, err = enumerate(ctx, manifests); err != nil {
		return err
	}
	if found.layers, err = enumerate(ctx, repository.Blobs(ctx)); err != nil {
		return err
	}
	tags := repository.Tags(ctx)
	if found.tags, err = tags.All(ctx); err != nil && !isUnknown(err) {
		return err
	}
	roots := map[digest.Digest]bool{}
	for _, tag := range found.tags {
		d, err := tags.Get(ctx, tag)
		if isUnknown(err) {
			continue // a tag cut short by a crash
		}
		if err != nil {
			return err
		}
		roots[d.Digest] = true
	}
	for _, d := range found.manifests {
		if roots[d] || c.leased(d) {
			if err := c.follow(ctx, manifests, d); err != nil {
				return err
			}
		}
	}
	c.found = append(c.found, found)
	return nil
}

// follow marks what a manifest refers to, and the manifest. One that is there
// no more, or only in part, leads nowhere: its layers could not be pulled
// either.
func (c *collection) follow(ctx context.Context, manifests distribution.ManifestService, d digest.Digest) error {
	if c.used[d] {
		return nil
	}
	c.used[d] = true
	manifest, err := manifests.Get(ctx, d)
	if isUnknown(err) {
		c.log.Warn("the registry holds only a part of an image", "digest", d.String(), "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	for _, ref := range manifest.References() {
		// Only a list of images refers to manifests; asking costs one look.
		child, err := manifests.Exists(ctx, ref.Digest)
		if err != nil && !isUnknown(err) {
			return err
		}
		if child {
			err = c.follow(ctx, manifests, ref.Digest)
		}
		if child && err != nil {
			return err
		}
		c.used[ref.Digest] = true
	}
	return nil
}

// sweep removes what is not marked.
func (c *collection) sweep(ctx context.Context) error {
	vacuum := storage.NewVacuum(logContext{ctx, c.logger}, c.files)
	for _, found := range c.found {
		for _, d := range found.manifests {
			if c.used[d] {
				continue
			}
			if err := vacuum.RemoveManifest(found.name, d, found.tags); err != nil {
				return err
			}
			c.log.Info("an image without a tag was removed from the registry", "repository", found.name, "digest", d.String())
		}
		for _, d := range found.layers {
			link := repositoryPath(found.name, "_layers", d.Algorithm().String(), d.Encoded())
			if err := c.unlessUsed(d, func() error { return c.files.Delete(ctx, link) }); err != nil {
				return err
			}
		}
	}
	if err := c.sweepBlobs(ctx, vacuum); err != nil {
		return err
	}
	if err := c.removeUploads(); err != nil {
		return err
	}
	return c.removeEmpty()
}

func (c *collection) sweepBlobs(ctx context.Context, vacuum storage.Vacuum) error {
	blobs, err := enumerate(ctx, c.namespace.Blobs())
	if err != nil {
		return err
	}
	for _, d := range blobs {
		err := c.unlessUsed(d, func() error {
			info, err := c.namespace.BlobStatter().Stat(ctx, d)
			if err == nil {
				c.freed += info.Size
			}
			return vacuum.RemoveBlob(d.String())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// unlessUsed removes something of digest d, unless it is used or a push has
// asked for it meanwhile. Whoever asks later is told that it is gone.
func (c *collection) unlessUsed(d digest.Digest, remove func() error) error {
	if c.used[d] {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.leases[d]; ok {
		return nil
	}
	return ignoreMissing(remove())
}

func (r *registry) leased(d digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.leases[d]
	return ok
}

// dropLeases forgets what pushes relied on long ago.
func (r *registry) dropLeases() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d, since := range r.leases {
		if time.Since(since) > r.grace {
			delete(r.leases, d)
		}
	}
}

// removeUploads removes uploads that nobody continues: those of an earlier
// process, whose signatures nobody can check, and those that rest.
func (c *collection) removeUploads() error {
	return filepath.WalkDir(c.disk(repositoriesPath), func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // never used, or removed by its push
		}
		if err != nil || !d.IsDir() {
			return err
		}
		if d.Name() == "_layers" || d.Name() == "_manifests" {
			return fs.SkipDir
		}
		if filepath.Base(filepath.Dir(p)) != "_uploads" {
			return nil
		}
		info, err := os.Stat(filepath.Join(p, "data"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err != nil {
			if info, err = d.Info(); err != nil {
				return nil // removed by its push
			}
		}
		// The clock of a file system may lag behind the process's a little.
		if last := info.ModTime().Add(time.Second); last.Before(c.opened) || time.Since(last) > abandonedAfter {
			if err := os.RemoveAll(p); err != nil {
				return err
			}
		}
		return fs.SkipDir
	})
}

// removeEmpty removes the directories of repositories that hold nothing any
// more. A directory that a push has just put something into is not empty, and
// stays.
func (c *collection) removeEmpty() error {
	for _, found := range c.found {
		kept := false
		for _, d := range found.manifests {
			kept = kept || c.used[d]
		}
		if kept {
			continue
		}
		if err := os.RemoveAll(c.disk(repositoryPath(found.name, "_manifests"))); err != nil {
			return err
		}
		for _, sub := range []string{"_layers/sha256", "_layers/sha512", "_layers", "_uploads"} {
			_ = os.Remove(c.disk(repositoryPath(found.name, sub)))
		}
		for name := found.name; name != "."; name = path.Dir(name) {
			if os.Remove(c.disk(repositoryPath(name))) != nil {
				break
			}
		}
	}
	return nil
}

// enumerate lists the digests of a store that can do so.
func enumerate(ctx context.Context, store any) ([]digest.Digest, error) {
	e, ok := store.(interface {
		Enumerate(context.Context, func(digest.Digest) error) error
	})
	if !ok {
		return nil, errors.ErrUnsupported
	}
	var all []digest.Digest
	err := e.Enumerate(ctx, func(d digest.Digest) error {
		all = append(all, d)
		return nil
	})
	return all, ignoreMissing(err)
}

// ignoreMissing drops an error that says only that a path is not there.
func ignoreMissing(err error) error {
	if _, ok := errors.AsType[driver.PathNotFoundError](err); ok {
		return nil
	}
	return err
}

// isUnknown reports whether the registry's files do not hold what was asked for.
func isUnknown(err error) bool {
	if err == nil {
		return false
	}
	if errors.Is(err, distribution.ErrBlobUnknown) || ignoreMissing(err) == nil {
		return true
	}
	if _, ok := errors.AsType[distribution.ErrRepositoryUnknown](err); ok {
		return true
	}
	if _, ok := errors.AsType[distribution.ErrTagUnknown](err); ok {
		return true
	}
	if _, ok := errors.AsType[distribution.ErrManifestUnknown](err); ok {
		return true
	}
	_, ok := errors.AsType[distribution.ErrManifestUnknownRevision](err)
	return ok
}
