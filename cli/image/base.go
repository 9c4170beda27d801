package image

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A base is what the layers of a function are put on: the layers and the
// configuration of other images. Its layers are read only by whoever needs
// their bytes: a registry that has them is asked to take them from there.
type base struct {
	ref    name.Reference // as it was asked for, for messages
	digest v1.Hash        // of the manifest
	config *v1.ConfigFile
	layers []v1.Layer
}

// maxManifest bounds what a registry may answer for a manifest or a
// configuration, in bytes.
const maxManifest = 8 << 20

// base reads the image ref for target, whose Python and C library do not
// matter. Manifests and configurations come from the cache if they are there;
// a tag is looked up in its registry each time, and means what it meant last
// while the registry cannot be reached.
func (b *build) base(ctx context.Context, ref string, target function.Target) (*base, error) {
	b.Progress.Step("read " + ref)
	r, err := name.ParseReference(ref)
	if err != nil {
		return nil, fault.Invalid.Errorf("base image %q: %w", ref, err)
	}
	p := puller{cache: b.cache, repo: r.Context(), options: remoteOptions(ctx, keychain(), b.Transport)}
	found, err := p.image(b, r, target)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("base image %s: %w", ref, err)
	}
	return found, nil
}

// keychain logs in with what "docker login" and its like have stored, helpers
// included.
func keychain() remote.Option { return remote.WithAuthFromKeychain(authn.DefaultKeychain) }

// remoteOptions say how registries are spoken to.
func remoteOptions(ctx context.Context, login remote.Option, t http.RoundTripper) []remote.Option {
	options := []remote.Option{remote.WithContext(ctx), login}
	if t != nil {
		options = append(options, remote.WithTransport(t))
	}
	return options
}

// A puller reads one repository through the cache.
type puller struct {
	cache   cache
	repo    name.Repository
	options []remote.Option
}

func (p puller) image(b *build, ref name.Reference, target function.Target) (*base, error) {
	digest, err := p.resolve(b, ref)
	if err != nil {
		return nil, err
	}
	raw, err := p.manifest(digest)
	if err != nil {
		return nil, err
	}
	var index v1.IndexManifest
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("read its manifest: %w", err)
	}
	if len(index.Manifests) > 0 {
		if digest, err = variantFor(index, target); err != nil {
			return nil, err
		}
		if raw, err = p.manifest(digest); err != nil {
			return nil, err
		}
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read its manifest: %w", err)
	}
	raw, err = p.small(manifest.Config)
	if err != nil {
		return nil, fmt.Errorf("read its configuration: %w", err)
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("read its configuration: %w", err)
	}
	if cmp.Or(config.OS, target.OS) != target.OS || cmp.Or(config.Architecture, target.Arch) != target.Arch {
		return nil, fault.Invalid.Errorf("it is for %s/%s, and the function is built for %s", config.OS, config.Architecture, target)
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, fault.Invalid.Errorf("it has %d layers, and its configuration tells of %d", len(manifest.Layers), len(config.RootFS.DiffIDs))
	}
	found := &base{ref: ref, digest: digest, config: config}
	for i, desc := range manifest.Layers {
		layer, err := partial.CompressedToLayer(&pulledLayer{puller: p, desc: desc, diffID: config.RootFS.DiffIDs[i]})
		if err != nil {
			return nil, err
		}
		found.layers = append(found.layers, &remote.MountableLayer{Layer: layer, Reference: p.repo.Digest(desc.Digest.String())})
	}
	return found, nil
}

// resolve returns the digest that ref means.
func (p puller) resolve(b *build, ref name.Reference) (v1.Hash, error) {
	if d, ok := ref.(name.Digest); ok {
		return v1.NewHash(d.DigestStr())
	}
	known := p.cache.path("bases", "ref-"+hashOf(ref.Name()))
	last, lastErr := os.ReadFile(known)
	options := p.options
	if lastErr == nil { // one try will do
		options = append(slices.Clone(options), remote.WithRetryPredicate(func(error) bool { return false }))
	}
	desc, err := remote.Head(ref, options...)
	if err == nil {
		return desc.Digest, os.WriteFile(known, []byte(desc.Digest.String()), 0o644)
	}
	if _, refused := errors.AsType[*transport.Error](err); refused {
		return v1.Hash{}, pullRefusal(ref.Context(), err)
	}
	if lastErr != nil {
		return v1.Hash{}, pullRefusal(ref.Context(), err)
	}
	fmt.Fprintf(b.Output, "%s cannot be asked for %s; what was there last is used\n", ref.Context().RegistryStr(), ref)
	return v1.NewHash(string(last))
}

// variantFor picks from an index what runs on target.
func variantFor(index v1.IndexManifest, target function.Target) (v1.Hash, error) {
	var have []string
	for _, m := range index.Manifests {
		if m.Platform == nil || m.Platform.OS == "unknown" {
			continue // a signature, or something else that does not run
		}
		if m.Platform.OS == target.OS && m.Platform.Architecture == target.Arch {
			return m.Digest, nil
		}
		have = append(have, m.Platform.OS+"/"+m.Platform.Architecture)
	}
	slices.Sort(have)
	return v1.Hash{}, fault.Invalid.Errorf("there is none for %s/%s, only for %s", target.OS, target.Arch, strings.Join(slices.Compact(have), ", "))
}

// manifest returns the bytes of a manifest.
func (p puller) manifest(digest v1.Hash) ([]byte, error) {
	if text, ok := p.cached(digest); ok {
		return text, nil
	}
	desc, err := remote.Get(p.repo.Digest(digest.String()), p.options...)
	if err != nil {
		return nil, pullRefusal(p.repo, err)
	}
	return desc.Manifest, p.keep(digest, bytes.NewReader(desc.Manifest))
}

// small returns a blob that is read as a whole.
func (p puller) small(desc v1.Descriptor) ([]byte, error) {
	if text, ok := p.cached(desc.Digest); ok {
		return text, nil
	}
	if desc.Size > maxManifest {
		return nil, fault.Invalid.Errorf("it has %d bytes, which is too much", desc.Size)
	}
	r, err := p.fetch(desc.Digest)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxManifest))
	if err != nil {
		return nil, pullRefusal(p.repo, err)
	}
	return text, p.keep(desc.Digest, bytes.NewReader(text))
}

// fetch reads a blob from the registry. Reading fails at the end if the bytes
// are not those of the digest.
func (p puller) fetch(digest v1.Hash) (io.ReadCloser, error) {
	layer, err := remote.Layer(p.repo.Digest(digest.String()), p.options...)
	if err != nil {
		return nil, pullRefusal(p.repo, err)
	}
	r, err := layer.Compressed()
	if err != nil {
		return nil, pullRefusal(p.repo, err)
	}
	return r, nil
}

func blobName(digest v1.Hash) string { return digest.Algorithm + "-" + digest.Hex }

// cached returns a blob that was kept and is whole.
func (p puller) cached(digest v1.Hash) ([]byte, bool) {
	if !p.cache.use("bases", blobName(digest)) {
		return nil, false
	}
	text, err := os.ReadFile(p.cache.path("bases", blobName(digest)))
	if err != nil {
		return nil, false
	}
	sum, _, err := v1.SHA256(bytes.NewReader(text))
	return text, err == nil && sum == digest
}

// keep writes a blob into the cache, if it is what digest says.
func (p puller) keep(digest v1.Hash, r io.Reader) (err error) {
	dir, err := p.cache.temp()
	if err != nil {
		return err
	}
	defer removeTemp(dir)
	f, err := os.Create(dir + "/blob")
	if err != nil {
		return err
	}
	sum, _, err := v1.SHA256(io.TeeReader(r, f))
	if err = errors.Join(err, f.Close()); err != nil {
		return pullRefusal(p.repo, err)
	}
	if sum != digest {
		return fault.Unavailable.Errorf("%s sends %s for %s", p.repo, sum, digest)
	}
	return p.cache.add(f.Name(), "bases", blobName(digest), true)
}

// A pulledLayer is a layer of a base. It is fetched when its bytes are first
// read, and kept.
type pulledLayer struct {
	puller
	desc   v1.Descriptor
	diffID v1.Hash
}

func (l *pulledLayer) Digest() (v1.Hash, error) { return l.desc.Digest, nil }
func (l *pulledLayer) DiffID() (v1.Hash, error) { return l.diffID, nil }
func (l *pulledLayer) Size() (int64, error)     { return l.desc.Size, nil }

// MediaType returns the name that OCI has for the kind of layer, since ours are
// OCI images and Docker's names mean the same bytes.
func (l *pulledLayer) MediaType() (types.MediaType, error) {
	switch l.desc.MediaType {
	case types.DockerLayer:
		return types.OCILayer, nil
	case types.DockerUncompressedLayer:
		return types.OCIUncompressedLayer, nil
	}
	return l.desc.MediaType, nil
}

func (l *pulledLayer) Compressed() (io.ReadCloser, error) {
	path := l.cache.path("bases", blobName(l.desc.Digest))
	if !l.cache.use("bases", blobName(l.desc.Digest)) {
		r, err := l.fetch(l.desc.Digest)
		if err != nil {
			return nil, err
		}
		err = l.keep(l.desc.Digest, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return nil, fmt.Errorf("fetch a layer of the base: %w", err)
		}
	}
	return os.Open(path)
}

// pullRefusal gives the error of a registry that was read from its kind.
func pullRefusal(repo name.Repository, err error) error {
	host := repo.RegistryStr()
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		said := sentence(answer)
		switch answer.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return fault.Unauthenticated.Errorf("the registry at %s does not let you read it; log in with \"docker login\" or the like: %w", host, said)
		case http.StatusNotFound:
			return fault.NotFound.Errorf("the registry at %s does not have it", host)
		}
		return fault.Unavailable.Errorf("the registry at %s answered %d: %w", host, answer.StatusCode, said)
	}
	if _, ok := errors.AsType[*url.Error](err); ok {
		return fault.Unavailable.Errorf("cannot reach the registry at %s: %w", host, err)
	}
	return err
}

// withWatchdog puts the watchdog of the image ref on top of b.
func (b *base) withWatchdog(dog *base) (*base, error) {
	if dog.config.Config.Labels[labelProgram] == "" || len(dog.layers) < 2 {
		return nil, fault.Invalid.Errorf("%s is not an image of the watchdog", dog.ref)
	}
	on := *b
	on.layers = slices.Concat(b.layers, dog.layers[len(dog.layers)-1:])
	return &on, nil
}

// withoutProgram is what is below the program in the image of one.
func (b *base) withoutProgram() (*base, error) {
	if b.config.Config.Labels[labelProgram] == "" || len(b.layers) < 2 {
		return nil, fault.Invalid.Errorf("%s is not an image of the watchdog", b.ref)
	}
	below := *b
	below.layers = b.layers[:len(b.layers)-1]
	return &below, nil
}

// environ is what a process gets from the base, without what env sets anew:
// the base's own variables, and a place to write to for programs that look for
// their user's home, since the function's user has none.
func (b *base) environ(env map[string]string) []string {
	var kept []string
	for _, kv := range append(slices.Clone(b.config.Config.Env), "HOME=/tmp") {
		name, _, _ := strings.Cut(kv, "=")
		if _, replaced := env[name]; !replaced {
			kept = append(kept, kv)
		}
	}
	return kept
}

// python returns the tag of the Python that the base says it has, such as
// cp313; "" if it says nothing.
func (b *base) python() string {
	for _, kv := range b.config.Config.Env {
		if version, ok := strings.CutPrefix(kv, "PYTHON_VERSION="); ok {
			major, rest, _ := strings.Cut(version, ".")
			minor, _, _ := strings.Cut(rest, ".")
			return "cp" + major + minor
		}
	}
	return ""
}

// pythonBase returns what a Python function is put on; nil is nothing.
func (p *pythonBuild) pythonBase(ctx context.Context) (*base, error) {
	if p.PythonImage == "" {
		return nil, nil
	}
	on, err := p.base(ctx, p.PythonImage, p.target)
	if err != nil {
		return nil, err
	}
	if has := on.python(); has != "" && has != p.target.Python {
		return nil, fault.Invalid.Errorf("base image %s has Python %s, and functions are built for %s: the gateway's settings build_python_image and build_target must agree", p.PythonImage, has, p.target)
	}
	dog, err := p.base(ctx, p.WatchdogImage, p.target)
	if err != nil {
		return nil, err
	}
	return on.withWatchdog(dog)
}
