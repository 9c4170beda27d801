package image

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/graphene-faas/graphene/internal/function"
)

// FuzzNamesOfImages finds names that stack files may have and that could not be
// pushed or pulled.
func FuzzNamesOfImages(f *testing.F) {
	for _, image := range []string{
		"a", "wine", "wine:latest", "me/wine:1.0", "registry.example.com/me/wine", "localhost:5000/wine:dev",
		"ghcr.io/me/wine@sha256:" + strings.Repeat("0", 64), "me/wine:1@sha256:" + strings.Repeat("f", 64), "[::1]:5000/wine",
	} {
		f.Add(image)
		if err := function.ValidImage(image); err != nil {
			f.Errorf("%q is refused: %v", image, err)
		}
	}
	for _, image := range []string{
		"", "Wine", "me/wine:", "me//wine", "/wine", "wine/", "wi ne", "wine:la test", "wine@sha256:1", "wine@", "https://example.com/wine",
		"host.example:port/wine", ":5000/wine", "wine:" + strings.Repeat("x", 129), strings.Repeat("x", 256),
	} {
		f.Add(image)
		if err := function.ValidImage(image); err == nil {
			f.Errorf("%q is let through", image)
		}
	}
	f.Fuzz(func(t *testing.T, image string) {
		if function.ValidImage(image) != nil {
			return
		}
		if _, err := name.ParseReference(image); err != nil {
			t.Errorf("%q is let through: %v", image, err)
		}
	})
}
