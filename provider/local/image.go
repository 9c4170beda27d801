package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/graphene-faas/graphene/internal/atomicfile"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// An image is one that has been unpacked. It is never changed.
type image struct {
	digest string
	root   string // its file system
	config v1.Config
	target function.Target
	// foreign: the layers builder did not make it, so it needs a container.
	foreign bool
}

// images keeps unpacked images, each once, in a directory named for its digest.
type images struct {
	dir     string
	maxSize int64
	log     *slog.Logger
	// runsForeign says whether images of other builders can run.
	runsForeign func(ref string, c *v1.ConfigFile) error

	mu     sync.Mutex
	pinned map[string]int           // by digest: in use by whoever acquired it
	making map[string]chan struct{} // by digest: closed when unpacking has ended
}

func newImages(dir string, maxSize int64, runsForeign func(string, *v1.ConfigFile) error, log *slog.Logger) *images {
	return &images{dir: dir, maxSize: maxSize, runsForeign: runsForeign, log: log, pinned: map[string]int{}, making: map[string]chan struct{}{}}
}

// acquire returns the image that ref means now, unpacked, and keeps it until
// release is called. Errors that the deployer can do something about are
// fault.Invalid.
func (s *images) acquire(ctx context.Context, p Puller, ref string) (_ *image, release func(), err error) {
	remote, err := p.Pull(ctx, ref)
	if err != nil {
		return nil, nil, explainPull(ref, err)
	}
	hash, err := remote.Digest()
	if err != nil {
		return nil, nil, explainPull(ref, err)
	}
	config, err := remote.ConfigFile()
	if err != nil {
		return nil, nil, explainPull(ref, err)
	}
	if foreign(config.Config) {
		if err := s.runsForeign(ref, config); err != nil {
			return nil, nil, err
		}
	}

	digest := hash.String()
	s.mu.Lock()
	s.pinned[digest]++
	s.mu.Unlock()
	release = func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.pinned[digest]--; s.pinned[digest] == 0 {
			delete(s.pinned, digest)
		}
	}
	if err := s.ensure(ctx, digest, remote, config.Config); err != nil {
		release()
		if unreachable(err) {
			err = explainPull(ref, err) // its layers are fetched while they are unpacked
		}
		return nil, nil, fmt.Errorf("unpack image %s: %w", ref, err)
	}
	img, err := s.open(digest)
	if err != nil {
		release()
		return nil, nil, err
	}
	return img, release, nil
}

// explainPull says who can do what about an image that could not be had.
func explainPull(ref string, err error) error {
	if fault.KindOf(err) != fault.Internal || errors.Is(err, context.Canceled) {
		return fmt.Errorf("pull image %s: %w", ref, err)
	}
	if _, ok := errors.AsType[*name.ErrBadName](err); ok {
		return fault.Invalid.Errorf("image %s: %w", ref, err)
	}
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch answer.StatusCode {
		case http.StatusNotFound:
			return fault.Invalid.Errorf("image %s is not in its registry: push it first, with \"graphene push\"", ref)
		case http.StatusUnauthorized, http.StatusForbidden:
			return fault.Invalid.Errorf("image %s may not be pulled: %w", ref, err)
		}
	}
	if unreachable(err) {
		return fault.Unavailable.Errorf("registry %s cannot be reached, or cannot answer now, for image %s: %w", registryOf(ref), ref, err)
	}
	return storage(fmt.Errorf("pull image %s: %w", ref, err))
}

// unreachable reports whether err is of the network, or of a registry that is
// in trouble: it may pass.
func unreachable(err error) bool {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		return answer.StatusCode >= http.StatusInternalServerError || answer.StatusCode == http.StatusTooManyRequests
	}
	_, request := errors.AsType[*url.Error](err)
	_, network := errors.AsType[net.Error](err)
	return request || network
}

// registryOf is the registry of an image, as far as its name says.
func registryOf(ref string) string {
	if parsed, err := name.ParseReference(ref); err == nil {
		return parsed.Context().RegistryStr()
	}
	return "of the image"
}

func (s *images) path(digest string) string {
	return filepath.Join(s.dir, strings.ReplaceAll(digest, ":", "-"))
}

const imageConfig, imageRoot = "config.json", "rootfs"

// ensure unpacks an image unless it is there. Only one caller at a time does
// so for one digest; the others wait.
func (s *images) ensure(ctx context.Context, digest string, img v1.Image, config v1.Config) error {
	for {
		s.mu.Lock()
		other, busy := s.making[digest]
		if !busy {
			break
		}
		s.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	done := make(chan struct{})
	s.making[digest] = done
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.making, digest)
		s.mu.Unlock()
		close(done)
	}()
	if _, err := os.Stat(s.path(digest)); err == nil {
		return nil
	}
	return s.unpack(ctx, digest, img, config)
}

// unpack writes an image beside its place and moves it there when it is whole.
func (s *images) unpack(ctx context.Context, digest string, img v1.Image, config v1.Config) (err error) {
	tmp, err := os.MkdirTemp(s.dir, ".tmp-*")
	if err != nil {
		return storage(err)
	}
	defer func() {
		if err != nil {
			err = storage(errors.Join(err, removeTree(tmp)))
		}
	}()
	root := filepath.Join(tmp, imageRoot)
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	layers, err := img.Layers()
	if err != nil {
		return fmt.Errorf("list layers: %w", err)
	}
	if layers, config.Env, err = withoutBase(layers, config); err != nil {
		return err
	}
	u, err := newUnpacker(root, s.maxSize, foreign(config))
	if err != nil {
		return err
	}
	defer u.close()
	for i, layer := range layers {
		if err := u.layer(ctx, layer); err != nil {
			return fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	if err := u.seal(); err != nil {
		return err
	}
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(tmp, imageConfig), text, 0o644); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := syncTree(tmp); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path(digest)); err != nil {
		return err
	}
	return atomicfile.SyncDir(s.dir)
}

// withoutBase returns the layers and the environment that an image of the
// layers builder has beside those of its base: interpreter and watchdog in it
// are for clusters, and here are others.
func withoutBase(layers []v1.Layer, c v1.Config) (rest []v1.Layer, env []string, err error) {
	rest, env = layers, c.Env
	if foreign(c) {
		return rest, env, nil
	}
	ofBase := func(label string, most int) int {
		n, e := strconv.Atoi(cmp.Or(c.Labels[label], "0"))
		if e != nil || n < 0 || n > most {
			n, err = 0, fault.Invalid.Errorf("its label %s is %q, want a number up to %d", label, c.Labels[label], most)
		}
		return n
	}
	rest = rest[ofBase(function.ImageBaseLayers, len(rest)):]
	env = env[ofBase(function.ImageBaseEnv, len(env)):]
	return rest, env, err
}

// open returns an image that has been unpacked, or fault.NotFound.
func (s *images) open(digest string) (*image, error) {
	dir := s.path(digest)
	text, err := os.ReadFile(filepath.Join(dir, imageConfig))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.NotFound.Errorf("image %s is not on this machine any more: deploy the function again", digest)
	}
	if err != nil {
		return nil, fmt.Errorf("open image %s: %w", digest, err)
	}
	img := &image{digest: digest, root: filepath.Join(dir, imageRoot)}
	if err := json.Unmarshal(text, &img.config); err != nil {
		return nil, fmt.Errorf("open image %s: %w", digest, err)
	}
	if img.foreign = foreign(img.config); img.foreign {
		img.target = function.Target{OS: runtime.GOOS, Arch: runtime.GOARCH} // what else was refused
		return img, nil
	}
	if img.target, err = function.ParseTarget(img.config.Labels[function.ImageTarget]); err != nil {
		return nil, fmt.Errorf("image %s: %w", digest, err)
	}
	return img, nil
}

// sweep removes the images that are neither pinned nor in use.
func (s *images) sweep(used func() map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Under the lock: whoever is about to use an image has pinned it before.
	keep := map[string]bool{}
	for digest := range used() {
		keep[filepath.Base(s.path(digest))] = true
	}
	for digest := range s.pinned {
		keep[filepath.Base(s.path(digest))] = true
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		s.log.Warn("unused images remain", "err", err)
		return
	}
	for _, e := range entries {
		// A directory of another name is being filled by someone who holds a
		// pin, or is left from one who was killed.
		if keep[e.Name()] || strings.HasPrefix(e.Name(), ".tmp-") && len(s.making) > 0 {
			continue
		}
		if err := removeTree(filepath.Join(s.dir, e.Name())); err != nil {
			s.log.Warn("unused image remains", "image", e.Name(), "err", err)
		}
	}
}
