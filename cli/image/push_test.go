package image

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"

	"github.com/graphene-faas/graphene/internal/fault"
)

func TestImageNamesWithoutAHostMeanThePlatform(t *testing.T) {
	const gateway = "http://gateway.example.com:8080"
	for _, tt := range []struct{ image, gateway, want, scheme string }{
		{"echo", gateway, "gateway.example.com:8080/echo:latest", "http"},
		{"echo:1.2", gateway, "gateway.example.com:8080/echo:1.2", "http"},
		{"team/echo:1", gateway, "gateway.example.com:8080/team/echo:1", "http"},
		{"team/echo", "https://faas.example.com/prefix", "faas.example.com/team/echo:latest", "https"},
		{"echo", "http://gateway", "gateway/echo:latest", "http"},
		{"echo", "http://127.0.0.1:8080", "127.0.0.1:8080/echo:latest", "http"},
		{"echo", "http://[::1]:8080", "[::1]:8080/echo:latest", "http"},
		{"echo@sha256:" + strings.Repeat("a", 64), gateway, "gateway.example.com:8080/echo@sha256:" + strings.Repeat("a", 64), "http"},
		{"gateway.example.com:8080/echo", gateway, "gateway.example.com:8080/echo:latest", "http"},
		{"docker.io/team/echo", gateway, "index.docker.io/team/echo:latest", "https"},
		{"ghcr.io/team/echo:1", gateway, "ghcr.io/team/echo:1", "https"},
		{"localhost:5000/echo", gateway, "localhost:5000/echo:latest", "http"},
		{"localhost/echo", gateway, "localhost/echo:latest", "https"},
	} {
		ref, err := ResolveRef(tt.image, tt.gateway)
		if err != nil {
			t.Errorf("%s: %v", tt.image, err)
			continue
		}
		if ref.Name() != tt.want || ref.Context().Scheme() != tt.scheme {
			t.Errorf("%s on %s is %s by %s, want %s by %s", tt.image, tt.gateway, ref.Name(), ref.Context().Scheme(), tt.want, tt.scheme)
		}
	}
	for _, tt := range []struct{ image, gateway string }{
		{"", gateway}, {"Upper", gateway}, {"a b", gateway}, {"echo:bad tag", gateway}, {"echo@sha256:short", gateway}, {"../echo", gateway},
		{"echo", ""}, {"echo", "gateway:8080"}, {"echo", "http://%zz"},
	} {
		if ref, err := ResolveRef(tt.image, tt.gateway); !errors.Is(err, fault.Invalid) {
			t.Errorf("%q on %q is %v, error %v, want kind %q", tt.image, tt.gateway, ref, err, fault.Invalid)
		}
	}
}

func FuzzResolveRef(f *testing.F) {
	for _, seed := range []string{"echo", "a/b:c", "ghcr.io/x@sha256:0", "[::1]:1/x", "localhost/x", ":", "@", "//"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, image string) {
		ref, err := ResolveRef(image, "http://gateway.example.com:8080")
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("error %v has no kind", err)
			}
			return
		}
		if again, err := ResolveRef(ref.Name(), "http://gateway.example.com:8080"); err != nil || again.Name() != ref.Name() {
			t.Errorf("%q is %q, which is %v, error %v", image, ref.Name(), again, err)
		}
	})
}

// serveRegistry starts a registry and returns a reference into it.
func serveRegistry(t *testing.T, wrap func(http.Handler) http.Handler) name.Reference {
	t.Helper()
	h := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(wrap(h))
	t.Cleanup(server.Close)
	ref, err := ResolveRef("fn", server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func TestPushSendsCredentials(t *testing.T) {
	ref := serveRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if user, password, _ := r.BasicAuth(); user != "admin" || password != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="graphene"`)
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	if err := Push(t.Context(), img, ref, PushOptions{}); !errors.Is(err, fault.Unauthenticated) {
		t.Errorf("without credentials: error %v, want kind %q", err, fault.Unauthenticated)
	}
	if err := Push(t.Context(), img, ref, PushOptions{Username: "admin", Password: "secret"}); err != nil {
		t.Error(err)
	}
}

func TestRefusedPushesHaveKinds(t *testing.T) {
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		status int
		kind   fault.Kind
	}{
		{http.StatusForbidden, fault.Denied},
		{http.StatusRequestEntityTooLarge, fault.TooLarge},
		{http.StatusInsufficientStorage, fault.Storage},
		{http.StatusTeapot, fault.Unavailable},
	} {
		ref := serveRegistry(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					w.WriteHeader(tt.status)
					_, _ = io.WriteString(w, `{"errors":[{"code":"X","message":"the reason is this"}]}`)
					return
				}
				h.ServeHTTP(w, r)
			})
		})
		progress := new(countedSteps)
		err := Push(t.Context(), img, ref, PushOptions{Progress: progress})
		if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), "the reason is this") {
			t.Errorf("status %d: error %v, want kind %q", tt.status, err, tt.kind)
		}
		if progress.steps != 1 {
			t.Errorf("%d steps", progress.steps)
		}
	}
}

type countedSteps struct{ steps int }

func (p *countedSteps) Step(string)         { p.steps++ }
func (p *countedSteps) Update(int64, int64) {}

func TestAbsentRegistryIsUnavailable(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	ref, err := ResolveRef("fn", server.URL)
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := Push(t.Context(), img, ref, PushOptions{}); !errors.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v, want kind %q", err, fault.Unavailable)
	}
}

func TestPushEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ref := serveRegistry(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPatch {
				cancel()
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
				return
			}
			h.ServeHTTP(w, r)
		})
	})
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := Push(ctx, img, ref, PushOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}
