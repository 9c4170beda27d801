package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// ResolveRef returns the place in a registry that an image's name means. A
// name without a host ("echo", "team/echo:1") means the registry of the
// platform at the URL gateway; every other name ("ghcr.io/team/echo",
// "localhost:5000/echo") means what it says. Without a tag it is "latest".
// The platform's registry is spoken to without TLS if gateway is.
// A name or URL that cannot be understood is fault.Invalid.
func ResolveRef(image, gateway string) (name.Reference, error) {
	u, err := url.Parse(gateway)
	if err != nil || u.Host == "" {
		return nil, fault.Invalid.Errorf("the gateway's address %q is no URL with a host", gateway)
	}
	options := []name.Option{name.WithDefaultRegistry(u.Host)}
	ref, err := name.ParseReference(image, options...)
	if err == nil && u.Scheme == "http" && ref.Context().RegistryStr() == u.Host {
		ref, err = name.ParseReference(image, append(options, name.Insecure)...)
	}
	if err == nil && strings.HasPrefix(ref.Context().RegistryStr(), ".") {
		err = errors.New("a host cannot begin with a dot")
	}
	if err != nil {
		return nil, fault.Invalid.Errorf("image name %q: %w", image, err)
	}
	return ref, nil
}

// noHost stands for the registry of a name that has none.
const noHost = "none.invalid"

// Resolve is ResolveRef for a platform that says b of itself: a name without a
// host means its own registry, or the one it names, and is fault.Invalid if
// there is neither.
func Resolve(image, gateway string, b function.Builds) (name.Reference, error) {
	if b.OwnRegistry {
		return ResolveRef(image, gateway)
	}
	ref, err := name.ParseReference(image, name.WithDefaultRegistry(noHost))
	if err != nil {
		return nil, fault.Invalid.Errorf("image name %q: %w", image, err)
	}
	switch {
	case ref.Context().RegistryStr() != noHost:
		ref, err = name.ParseReference(image)
	case b.Registry == "":
		return nil, fault.Invalid.Errorf("image name %q has no host, and the platform at %s names no registry for such: write one, as in registry.example.com/%s, or have the platform's build_registry set", image, gateway, image)
	default:
		image = strings.TrimSuffix(b.Registry, "/") + "/" + image
		ref, err = name.ParseReference(image)
	}
	if err != nil {
		return nil, fault.Invalid.Errorf("image name %q: %w", image, err)
	}
	return ref, nil
}

// HasHost reports whether the name of an image says in which registry it is.
func HasHost(image string) bool {
	ref, err := name.ParseReference(image, name.WithDefaultRegistry(noHost))
	return err == nil && ref.Context().RegistryStr() != noHost
}

// Pinned returns the name of an image that was pushed to ref, such that it will
// always mean that image.
func Pinned(ref name.Reference, digest v1.Hash) string {
	if tag, ok := ref.(name.Tag); ok {
		return tag.Name() + "@" + digest.String()
	}
	return ref.Name()
}

// PushOptions say how to push. The zero value pushes with the credentials of
// the container tools' own logins.
type PushOptions struct {
	// Username and Password are for basic authentication. If both are empty,
	// what "docker login" and its like have stored for the registry is used.
	Username, Password string
	// CacheDir is that of the builds. It remembers where in a registry layers
	// are, so that another repository there takes them from the first; empty
	// remembers nothing.
	CacheDir string
	// Transport carries the requests; nil means the network.
	Transport http.RoundTripper
	// Progress is told how many bytes are sent; nil is silent.
	Progress Progress
}

// Push sends to ref what the registry does not have of img: it asks for each
// layer first, and has the registry take those of a base image or of an
// earlier push from where they are. The manifest goes last, so a push that
// fails or is cancelled leaves what ref meant before. Refusals have the kinds
// of package fault: Unauthenticated, Denied, TooLarge, Storage; Unavailable is
// a registry that does not answer.
func Push(ctx context.Context, img v1.Image, ref name.Reference, o PushOptions) error {
	login := keychain()
	if o.Username != "" || o.Password != "" {
		login = remote.WithAuth(&authn.Basic{Username: o.Username, Password: o.Password})
	}
	options := remoteOptions(ctx, login, o.Transport)
	memory := pushed{repo: ref.Context()}
	if o.CacheDir != "" {
		var err error
		if memory.cache, err = openCache(o.CacheDir); err != nil {
			return err
		}
		img = located{img, memory}
	}
	err := send(ctx, ref, o.Progress, func(progress ...remote.Option) error {
		return remote.Write(ref, img, append(options, progress...)...)
	})
	if err != nil || o.CacheDir == "" {
		return err
	}
	return memory.record(img)
}

// send has write send something to ref, and shows how far it is.
func send(ctx context.Context, ref name.Reference, p Progress, write func(...remote.Option) error) error {
	var options []remote.Option
	if p != nil {
		p.Step("push " + ref.String())
		updates := make(chan v1.Update)
		shown := make(chan struct{})
		go func() {
			defer close(shown)
			for u := range updates {
				if u.Error == nil {
					p.Update(u.Complete, u.Total)
				}
			}
		}()
		defer func() { <-shown }() // the writer closes updates before it returns
		options = append(options, remote.WithProgress(updates))
	}
	if err := write(options...); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("push %s: %w", ref, context.Cause(ctx))
		}
		return refusal(ref, err)
	}
	return nil
}

// pushed remembers in which repository of a registry a layer is.
type pushed struct {
	cache cache
	repo  name.Repository
}

func (p pushed) entry(layer v1.Hash) string { return hashOf(p.repo.RegistryStr(), layer.String()) }

// record notes that the repository has img's layers.
func (p pushed) record(img v1.Image) error {
	manifest, err := img.Manifest()
	if err != nil {
		return err
	}
	for _, layer := range manifest.Layers {
		name := p.cache.path("pushed", p.entry(layer.Digest))
		if err := os.WriteFile(name, []byte(p.repo.RepositoryStr()), 0o644); err != nil {
			return fmt.Errorf("remember where layers are: %w", err)
		}
	}
	return nil
}

// located is an image whose layers say where else in the registry they are.
type located struct {
	v1.Image
	pushed pushed
}

func (l located) Layers() ([]v1.Layer, error) {
	layers, err := l.Image.Layers()
	if err != nil {
		return nil, err
	}
	for i, layer := range layers {
		if layers[i], err = l.pushed.locate(layer); err != nil {
			return nil, err
		}
	}
	return layers, nil
}

// locate returns layer so that the registry is asked to take it from another
// repository, if one is known that has it. A registry that does not have it
// there any more gets its bytes.
func (p pushed) locate(layer v1.Layer) (v1.Layer, error) {
	if m, ok := layer.(*remote.MountableLayer); ok && m.Reference.Context().RegistryStr() == p.repo.RegistryStr() {
		return layer, nil // of a base image in the same registry
	}
	digest, err := layer.Digest()
	if err != nil {
		return nil, err
	}
	where, err := os.ReadFile(p.cache.path("pushed", p.entry(digest)))
	if err != nil || string(where) == p.repo.RepositoryStr() {
		return layer, nil
	}
	p.cache.use("pushed", p.entry(digest))
	from, err := name.NewRepository(p.repo.RegistryStr() + "/" + string(where))
	if err != nil {
		return layer, nil // a damaged note
	}
	return &remote.MountableLayer{Layer: layer, Reference: from.Digest(digest.String())}, nil
}

// refusal gives a registry's error its kind.
func refusal(ref name.Reference, err error) error {
	host := ref.Context().RegistryStr()
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		said := sentence(answer)
		switch answer.StatusCode {
		case http.StatusUnauthorized:
			return fault.Unauthenticated.Errorf("push %s: the registry at %s wants you to log in: %w", ref, host, said)
		case http.StatusForbidden:
			return fault.Denied.Errorf("push %s: the registry at %s refuses it: %w", ref, host, said)
		case http.StatusRequestEntityTooLarge:
			return fault.TooLarge.Errorf("push %s: %w", ref, said)
		case http.StatusInsufficientStorage:
			return fault.Storage.Errorf("push %s: %w", ref, said)
		}
		return fault.Unavailable.Errorf("push %s: the registry at %s answered %d: %w", ref, host, answer.StatusCode, said)
	}
	if _, ok := errors.AsType[*net.OpError](err); ok {
		return fault.Unavailable.Errorf("push %s: cannot reach the registry at %s: %w", ref, host, err)
	}
	return fmt.Errorf("push %s: %w", ref, err)
}

// sentence returns what the registry itself says, without the request's
// address and the codes, if it says anything.
func sentence(answer *transport.Error) error {
	var said []string
	for _, d := range answer.Errors {
		if d.Message != "" {
			said = append(said, d.Message)
		}
	}
	if len(said) == 0 {
		return errors.New(strings.ToLower(http.StatusText(answer.StatusCode)))
	}
	return errors.New(strings.Join(said, "; "))
}
