package image

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/graphene-faas/graphene/internal/fault"
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

// PushOptions say how to push. The zero value pushes with the credentials of
// the container tools' own logins.
type PushOptions struct {
	// Username and Password are for basic authentication. If both are empty,
	// what "docker login" and its like have stored for the registry is used.
	Username, Password string
	// Transport carries the requests; nil means the network.
	Transport http.RoundTripper
	// Progress is told how many bytes are sent; nil is silent.
	Progress Progress
}

// Push sends to ref what the registry does not have of img: it asks for each
// layer first. The manifest goes last, so a push that fails or is cancelled
// leaves what ref meant before. Refusals have the kinds of package fault:
// Unauthenticated, Denied, TooLarge, Storage; Unavailable is a registry that
// does not answer.
func Push(ctx context.Context, img v1.Image, ref name.Reference, o PushOptions) error {
	options := []remote.Option{remote.WithContext(ctx)}
	if o.Username != "" || o.Password != "" {
		options = append(options, remote.WithAuth(&authn.Basic{Username: o.Username, Password: o.Password}))
	} else {
		options = append(options, remote.WithAuthFromKeychain(authn.DefaultKeychain))
	}
	if o.Transport != nil {
		options = append(options, remote.WithTransport(o.Transport))
	}
	if o.Progress != nil {
		o.Progress.Step("push " + ref.String())
		updates := make(chan v1.Update)
		shown := make(chan struct{})
		go func() {
			defer close(shown)
			for u := range updates {
				if u.Error == nil {
					o.Progress.Update(u.Complete, u.Total)
				}
			}
		}()
		defer func() { <-shown }() // remote.Write closes updates before it returns
		options = append(options, remote.WithProgress(updates))
	}
	if err := remote.Write(ref, img, options...); err != nil {
		if ctx.Err() != nil {
			return fmt.Errorf("push %s: %w", ref, context.Cause(ctx))
		}
		return refusal(ref, err)
	}
	return nil
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
		return answer
	}
	return errors.New(strings.Join(said, "; "))
}
