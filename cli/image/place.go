package image

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// layoutScheme begins a place that is an OCI layout: a directory.
const layoutScheme = "oci:"

// refName is the annotation that holds a tag in an OCI layout.
const refName = "org.opencontainers.image.ref.name"

// CopyOptions say how to copy images.
type CopyOptions struct {
	// Targets picks from images for several platforms; empty is all of them.
	Targets []function.Target
	// Transport carries requests to registries; nil means the network.
	Transport http.RoundTripper
	// Progress is told how many bytes are sent; nil is silent.
	Progress Progress
}

// Copy copies an image, with the bills of materials that an OCI layout has of
// it. A place is a reference into a registry, such as
// registry.example.com/team/gateway:1.0, or oci:DIR, an OCI layout. A place to
// copy to without a tag takes the tag that the image had. Registries are
// spoken to with the logins of the container tools.
func Copy(ctx context.Context, from, to string, o CopyOptions) error {
	source, err := parsePlace(from)
	if err != nil {
		return err
	}
	target, err := parsePlace(to)
	if err != nil {
		return err
	}
	objects, err := source.read(ctx, o)
	if err != nil {
		return fmt.Errorf("read %s: %w", from, err)
	}
	return target.write(ctx, objects, o)
}

// Copy writes the program's image and its bills of materials to a place, as
// the function Copy does. A place without a tag takes the program's version.
func (p *Program) Copy(ctx context.Context, to string, o CopyOptions) error {
	target, err := parsePlace(to)
	if err != nil {
		return err
	}
	objects := []object{{tag: p.Version, index: p.Index}}
	for _, v := range p.Variants {
		bill, err := v.bill()
		if err != nil {
			return err
		}
		objects = append(objects, object{image: bill})
	}
	return target.write(ctx, objects, o)
}

// bill makes of the variant's bill of materials what a registry can hold and
// shows to those who ask what refers to the image.
func (v Variant) bill() (v1.Image, error) {
	subject, err := partial.Descriptor(v.Image)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), mediaSPDX)
	img, err = mutate.AppendLayers(img, static.NewLayer(v.SBOM, mediaSPDX))
	if err != nil {
		return nil, err
	}
	return mutate.Subject(img, *subject).(v1.Image), nil
}

// An object is an image, for one platform or for several, with its tag if it
// has one.
type object struct {
	tag   string
	index v1.ImageIndex // or
	image v1.Image
}

// A place holds images: a directory, or else a repository.
type place struct {
	dir string
	ref name.Reference
	tag bool // ref has a tag or digest of its own
}

func parsePlace(s string) (place, error) {
	if dir, ok := strings.CutPrefix(s, layoutScheme); ok {
		if dir == "" {
			return place{}, fault.Invalid.Errorf("%q names no directory", s)
		}
		return place{dir: dir}, nil
	}
	ref, err := name.ParseReference(s)
	if err != nil {
		return place{}, fault.Invalid.Errorf("%q is neither an image's name nor %sDIR: %w", s, layoutScheme, err)
	}
	return place{ref: ref, tag: strings.ContainsAny(s[strings.LastIndex(s, "/")+1:], ":@")}, nil
}

func (p place) read(ctx context.Context, o CopyOptions) ([]object, error) {
	if p.dir != "" {
		return readLayout(p.dir, o.Targets)
	}
	desc, err := remote.Get(p.ref, remoteOptions(ctx, keychain(), o.Transport)...)
	if err != nil {
		return nil, pullRefusal(p.ref.Context(), err)
	}
	found := object{tag: "latest"}
	if t, ok := p.ref.(name.Tag); ok {
		found.tag = t.TagStr()
	}
	if !desc.MediaType.IsIndex() {
		found.image, err = desc.Image()
		return []object{found}, err
	}
	index, err := desc.ImageIndex()
	if err != nil {
		return nil, err
	}
	found.index, err = pick(index, o.Targets)
	return []object{found}, err
}

func readLayout(dir string, targets []function.Target) ([]object, error) {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return nil, fault.NotFound.Errorf("%s is no OCI layout: %w", dir, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var objects []object
	for _, desc := range manifest.Manifests {
		found := object{tag: desc.Annotations[refName]}
		if desc.MediaType.IsIndex() {
			all, err := index.ImageIndex(desc.Digest)
			if err != nil {
				return nil, err
			}
			if found.index, err = pick(all, targets); err != nil {
				return nil, err
			}
		} else if found.image, err = index.Image(desc.Digest); err != nil {
			return nil, err
		}
		objects = append(objects, found)
	}
	return objects, nil
}

// pick drops from an index what is not for one of the targets.
func pick(index v1.ImageIndex, targets []function.Target) (v1.ImageIndex, error) {
	if len(targets) == 0 {
		return index, nil
	}
	wanted := func(d v1.Descriptor) bool {
		return d.Platform != nil && slices.ContainsFunc(targets, func(t function.Target) bool {
			return t.OS == d.Platform.OS && t.Arch == d.Platform.Architecture
		})
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(manifest.Manifests, wanted) {
		return nil, fault.NotFound.Errorf("it is for none of %v", targets)
	}
	return mutate.RemoveManifests(index, func(d v1.Descriptor) bool { return !wanted(d) }), nil
}

func (p place) write(ctx context.Context, objects []object, o CopyOptions) error {
	if p.dir != "" {
		if err := writeLayout(p.dir, objects); err != nil {
			return fmt.Errorf("write %s: %w", p.dir, err)
		}
		return nil
	}
	for _, x := range objects {
		ref, err := p.refFor(x)
		if err != nil {
			return err
		}
		err = send(ctx, ref, o.Progress, func(options ...remote.Option) error {
			options = append(options, remoteOptions(ctx, keychain(), o.Transport)...)
			if x.index != nil {
				return remote.WriteIndex(ref, x.index, options...)
			}
			return remote.Write(ref, x.image, options...)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// refFor returns what to call an object: a tagged one has the place's tag, or
// else its own; others, such as bills of materials, have their digest.
func (p place) refFor(x object) (name.Reference, error) {
	if x.tag == "" {
		digest, err := x.image.Digest()
		return p.ref.Context().Digest(digest.String()), err
	}
	if p.tag {
		return p.ref, nil
	}
	return p.ref.Context().Tag(x.tag), nil
}

// writeLayout writes an OCI layout of the objects to dir, in place of the one
// that is there. Something else there stays, and is an error.
func writeLayout(dir string, objects []object) (err error) {
	if _, err := os.Stat(filepath.Join(dir, "index.json")); errors.Is(err, os.ErrNotExist) {
		_ = os.Remove(dir) // an empty directory may be there
		if _, err := os.Lstat(dir); err == nil {
			return fault.Exists.Errorf("there is something else than an OCI layout")
		}
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".layout-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	path, err := layout.Write(tmp, empty.Index)
	if err != nil {
		return err
	}
	for _, x := range objects {
		var options []layout.Option
		if x.tag != "" {
			options = append(options, layout.WithAnnotations(map[string]string{refName: x.tag}))
		}
		if x.index != nil {
			err = path.AppendIndex(x.index, options...)
		} else {
			err = path.AppendImage(x.image, options...)
		}
		if err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}
