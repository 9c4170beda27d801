package serve

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/distribution/distribution/v3"
	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/distribution/distribution/v3/registry/storage"
	"github.com/distribution/distribution/v3/registry/storage/driver"
	"github.com/distribution/distribution/v3/registry/storage/driver/filesystem"
	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/uuid"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/graphene-faas/graphene/cli/image"
	"github.com/graphene-faas/graphene/internal/web"
)

// ownRegistry stands for this registry in references inside the process. It
// can be nobody's address.
const ownRegistry = "registry.invalid"

// Bounds of a registry whose options leave them zero.
const (
	defaultMaxBlob = 8 << 30
	defaultMinFree = 128 << 20
	defaultGrace   = time.Hour
)

// maxManifest is the largest manifest the registry takes, in bytes. Manifests
// are held in memory.
const maxManifest = 4 << 20

// registryOptions configure a registry; only dir is required.
type registryOptions struct {
	dir     string        // holds everything; nobody else may use it
	maxBlob int64         // largest layer, in bytes; 0 is 8 GiB
	minFree int64         // free disk space below which uploads are refused; 0 is 128 MiB
	grace   time.Duration // how long what a push has touched is kept without a tag; 0 is an hour, negative is not at all
	log     *slog.Logger
}

// A registry is an OCI registry in this process, with its files below one
// directory. It is an http.Handler for /v2/, without authentication: that is
// its caller's. It is ready when newRegistry returns and needs no closing: it
// does nothing in the background (though its library leaves an idle goroutine
// that lives as long as the process). collectGarbage must be called from time
// to time.
type registry struct {
	registryOptions
	app       http.Handler
	files     driver.StorageDriver
	namespace distribution.Namespace // the same files as app's, for collectGarbage
	transport http.RoundTripper      // to this very handler
	logger    *logrus.Entry          // the library's way to log
	opened    time.Time

	// collecting is held for reading while a manifest is written or removed,
	// and for writing while garbage is looked for: a manifest must not appear
	// between the moment its layers are found unused and their removal.
	collecting sync.RWMutex

	mu     sync.Mutex
	leases map[digest.Digest]time.Time // by digest: when a push last relied on it
}

// newRegistry opens the registry in o.dir, making it if there is none. ctx
// supplies values only.
func newRegistry(ctx context.Context, o registryOptions) (*registry, error) {
	if o.maxBlob == 0 {
		o.maxBlob = defaultMaxBlob
	}
	if o.minFree == 0 {
		o.minFree = defaultMinFree
	}
	if o.grace == 0 {
		o.grace = defaultGrace
	}
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	logger := bridgeLog(ctx, o.log)
	ctx = logContext{context.WithoutCancel(ctx), logger}
	files := filesystem.New(filesystem.DriverParameters{RootDirectory: o.dir, MaxThreads: 100})
	namespace, err := storage.NewRegistry(ctx, files, storage.EnableDelete)
	if err != nil {
		return nil, fmt.Errorf("open the registry: %w", err)
	}
	r := &registry{
		registryOptions: o,
		files:           files,
		namespace:       namespace,
		logger:          logger,
		opened:          time.Now(),
		leases:          map[digest.Digest]time.Time{},
	}
	r.app = handlers.NewApp(ctx, r.configuration())
	r.transport = web.InProcess(r)
	return r, nil
}

func (r *registry) configuration() *configuration.Configuration {
	c := &configuration.Configuration{Storage: configuration.Storage{
		"filesystem": {"rootdirectory": r.dir},
		"delete":     {"enabled": true},
		"redirect":   {"disable": true},
		// Old uploads are removed together with other garbage.
		"maintenance": {"uploadpurging": map[any]any{"enabled": false}},
	}}
	c.Catalog.MaxEntries = 1000
	// Locations without a host hold behind every proxy and port.
	c.HTTP.RelativeURLs = true
	// The secret signs the state of uploads in progress. A new one at every
	// start makes clients begin those again, and is nothing to keep safe.
	c.HTTP.Secret = rand.Text()
	return c
}

// ServeHTTP answers a request below /v2/.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	req = req.WithContext(logContext{req.Context(), r.logger})
	t := parseTarget(req.URL.Path)
	switch {
	case t.kind == manifestTarget && (req.Method == http.MethodPut || req.Method == http.MethodDelete):
		r.serveManifestChange(w, req, t)
	case t.kind == uploadTarget && req.Method != http.MethodGet && req.Method != http.MethodDelete:
		r.lease(req.URL.Query().Get("digest"), req.URL.Query().Get("mount"))
		r.serveUpload(w, req, t)
	case t.kind == blobTarget && req.Method == http.MethodHead:
		r.lease(t.reference) // whoever asks whether a layer is there may push without it
		r.app.ServeHTTP(w, req)
	default:
		r.app.ServeHTTP(w, req)
	}
}

// serveManifestChange reads the manifest before it locks, so that a client
// that sends slowly delays nobody.
func (r *registry) serveManifestChange(w http.ResponseWriter, req *http.Request, t target) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxManifest))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("a manifest may have %d bytes", maxManifest))
		return
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, "MANIFEST_INVALID", "the manifest did not arrive whole")
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(body))
	if req.Method == http.MethodDelete {
		r.collecting.RLock()
		defer r.collecting.RUnlock()
		r.app.ServeHTTP(w, req)
		return
	}
	if r.full(int64(len(body))) {
		r.refuseFull(w)
		return
	}
	tagged := !strings.Contains(t.reference, ":")
	if !tagged {
		r.lease(t.reference) // an index that leads to it follows
	}
	answer := &statusWriter{ResponseWriter: w}
	r.collecting.RLock()
	defer r.collecting.RUnlock()
	r.app.ServeHTTP(answer, req)
	if tagged && answer.status == http.StatusCreated {
		r.release(body)
	}
}

// A statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// serveUpload passes on a part of a layer as long as layer and disk have room.
func (r *registry) serveUpload(w http.ResponseWriter, req *http.Request, t target) {
	room := r.maxBlob - r.uploaded(req.Context(), t)
	if req.ContentLength > room {
		r.refuseLarge(w)
		return
	}
	if r.full(max(req.ContentLength, 0)) {
		r.refuseFull(w)
		return
	}
	body := http.MaxBytesReader(w, req.Body, room)
	watch := &watchedBody{ReadCloser: body}
	req.Body = watch
	r.app.ServeHTTP(&uploadWriter{ResponseWriter: w, registry: r, body: watch}, req)
}

// uploaded returns how much of a layer has arrived in earlier requests.
func (r *registry) uploaded(ctx context.Context, t target) int64 {
	if _, err := uuid.Parse(t.reference); err != nil {
		return 0
	}
	if _, err := reference.WithName(t.repository); err != nil {
		return 0
	}
	info, err := r.files.Stat(ctx, repositoryPath(t.repository, "_uploads", t.reference, "data"))
	if err != nil {
		return 0
	}
	return info.Size()
}

// full reports whether n more bytes would use up the disk's reserve.
func (r *registry) full(n int64) bool {
	var disk unix.Statfs_t
	if err := unix.Statfs(r.dir, &disk); err != nil {
		r.log.Warn("cannot tell how much disk space is free", "dir", r.dir, "error", err)
		return false
	}
	free := disk.Bavail * uint64(disk.Bsize)
	return free < uint64(n) || free-uint64(n) < uint64(r.minFree)
}

func (r *registry) refuseFull(w http.ResponseWriter) {
	r.log.Error("an image was refused because the disk is full", "dir", r.dir)
	refuse(w, http.StatusInsufficientStorage, "INSUFFICIENT_STORAGE", "the platform's disk is full: free some space, or remove functions")
}

func (r *registry) refuseLarge(w http.ResponseWriter) {
	refuse(w, http.StatusRequestEntityTooLarge, "SIZE_INVALID", fmt.Sprintf("a layer may have %d bytes here; the platform's GRAPHENE_MAX_UPLOAD sets the limit", r.maxBlob))
}

// refuse answers with an error as OCI registries write them.
func refuse(w http.ResponseWriter, status int, code, message string) {
	type problem struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Del("Content-Length")
	w.WriteHeader(status)
	// An error here means that the client has gone.
	_ = json.NewEncoder(w).Encode(map[string][]problem{"errors": {{code, message}}})
}

// A watchedBody remembers that more was sent than there was room for.
type watchedBody struct {
	io.ReadCloser
	tooLarge bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		b.tooLarge = true
	}
	return n, err
}

// An uploadWriter says why an upload failed, where the registry's code only
// says that it did.
type uploadWriter struct {
	http.ResponseWriter
	registry *registry
	body     *watchedBody
	replaced bool
}

func (w *uploadWriter) WriteHeader(status int) {
	switch {
	case status < 400:
		w.ResponseWriter.WriteHeader(status)
	case w.body.tooLarge:
		w.replaced = true
		w.registry.refuseLarge(w.ResponseWriter)
	case status >= 500 && w.registry.full(0):
		w.replaced = true
		w.registry.refuseFull(w.ResponseWriter)
	default:
		w.ResponseWriter.WriteHeader(status)
	}
}

func (w *uploadWriter) Write(p []byte) (int, error) {
	if w.replaced {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// lease keeps digests from being collected until the grace period has passed.
func (r *registry) lease(digests ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, text := range digests {
		if d, err := digest.Parse(text); err == nil {
			r.leases[d] = time.Now()
		}
	}
}

// release ends the leases of what a manifest refers to: from now on its tag
// keeps that, and once the tag is gone nothing should.
func (r *registry) release(manifest []byte) {
	type descriptor struct {
		Digest digest.Digest `json:"digest"`
	}
	var m struct {
		Config    descriptor   `json:"config"`
		Layers    []descriptor `json:"layers"`
		Manifests []descriptor `json:"manifests"`
	}
	if json.Unmarshal(manifest, &m) != nil {
		return // the leases end by themselves
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.leases, m.Config.Digest)
	for _, d := range append(m.Layers, m.Manifests...) {
		delete(r.leases, d.Digest)
	}
}

// Pull returns an image by the name a deployment gives it: one of this
// registry's if it has no host, otherwise one of the registry it names, with
// the credentials that container tools have stored. Layers are fetched when
// they are read, until ctx ends.
func (r *registry) Pull(ctx context.Context, ref string) (v1.Image, error) {
	parsed, own, err := parseReference(ref)
	if err != nil {
		return nil, err
	}
	options := []remote.Option{
		remote.WithContext(ctx),
		remote.WithPlatform(v1.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}),
	}
	if own {
		options = append(options, remote.WithTransport(r.transport))
	} else {
		options = append(options, remote.WithAuthFromKeychain(authn.DefaultKeychain))
	}
	img, err := remote.Image(parsed, options...)
	if err != nil {
		return nil, fmt.Errorf("pull %s: %w", ref, err)
	}
	return img, nil
}

func (r *registry) repository(ctx context.Context, repository string) (distribution.Repository, error) {
	named, err := reference.WithName(repository)
	if err != nil {
		return nil, err
	}
	return r.namespace.Repository(ctx, named)
}

// parseReference reads an image's name; own tells whether it means this
// registry.
func parseReference(ref string) (parsed name.Reference, own bool, err error) {
	parsed, err = image.ResolveRef(ref, "http://"+ownRegistry)
	if err != nil {
		return nil, false, err
	}
	return parsed, parsed.Context().RegistryStr() == ownRegistry, nil
}

// A target is what the path of a request is about.
type target struct {
	kind       targetKind
	repository string
	reference  string // tag, digest, or the id of an upload
}

type targetKind int

const (
	otherTarget targetKind = iota
	manifestTarget
	blobTarget
	uploadTarget
)

// parseTarget reads /v2/REPOSITORY/manifests/REFERENCE, …/blobs/DIGEST and
// …/blobs/uploads/[ID]. It does not check the parts.
func parseTarget(path string) target {
	path, ok := strings.CutPrefix(path, "/v2/")
	if !ok {
		return target{}
	}
	parent, reference := cutLast(path)
	repository, kind := cutLast(parent)
	switch kind {
	case "manifests":
		return target{manifestTarget, repository, reference}
	case "blobs":
		return target{blobTarget, repository, reference}
	case "uploads":
		if repository, kind = cutLast(repository); kind == "blobs" {
			return target{uploadTarget, repository, reference}
		}
	}
	return target{}
}

func cutLast(path string) (before, last string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}
