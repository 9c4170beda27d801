package local

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// clusterImage has a base that could not be unpacked here, and says how much of
// it that is.
func clusterImage(t *testing.T, layers, variables string) v1.Image {
	t.Helper()
	img := empty.Image
	for _, content := range [][]byte{
		archive(t, entry{name: "dev/null", kind: tar.TypeChar}, entry{name: "lib", kind: tar.TypeSymlink, link: "/usr/lib"}),
		archive(t, entry{name: "home/app/handler", content: "program", mode: 0o755}),
	} {
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
		if err != nil {
			t.Fatal(err)
		}
		if img, err = mutate.AppendLayers(img, layer); err != nil {
			t.Fatal(err)
		}
	}
	img, err := mutate.Config(img, v1.Config{
		Env: []string{"PATH=/opt/python/bin", "HOME=/tmp", "mode=pool"},
		Labels: map[string]string{
			function.ImageBuilder: "layers", function.ImageTarget: "linux/amd64",
			function.ImageBaseLayers: layers, function.ImageBaseEnv: variables,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

type puller struct{ img v1.Image }

func (p puller) Pull(context.Context, string) (v1.Image, error) { return p.img, nil }

func acquire(t *testing.T, img v1.Image) (*image, error) {
	t.Helper()
	s := newImages(t.TempDir(), 1<<20, nil, slog.New(slog.DiscardHandler))
	unpacked, release, err := s.acquire(t.Context(), puller{img}, "fn")
	if err == nil {
		release()
	}
	return unpacked, err
}

func TestAnImageForAClusterIsUnpackedWithoutItsBase(t *testing.T) {
	img, err := acquire(t, clusterImage(t, "1", "2"))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(img.root, "home/app/handler")); err != nil || string(text) != "program" {
		t.Errorf("the function's own layer is not there: %q, %v", text, err)
	}
	if entries, err := os.ReadDir(img.root); err != nil || len(entries) != 1 {
		t.Errorf("there is more than the function: %v, %v", entries, err)
	}
	if diff := cmp.Diff([]string{"mode=pool"}, img.config.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

func TestABaseThatCannotBeIsRefused(t *testing.T) {
	for _, counts := range [][2]string{{"3", "2"}, {"1", "4"}, {"-1", "2"}, {"1", "many"}} {
		if _, err := acquire(t, clusterImage(t, counts[0], counts[1])); !errors.Is(err, fault.Invalid) {
			t.Errorf("with %v layers and variables: error %v, want kind %q", counts, err, fault.Invalid)
		}
	}
}

// remotePuller pulls from registries as the platform does.
type remotePuller struct{}

func (remotePuller) Pull(ctx context.Context, ref string) (v1.Image, error) {
	parsed, err := name.ParseReference(ref)
	if err != nil {
		return nil, err
	}
	return remote.Image(parsed, remote.WithContext(ctx), remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithRetryPredicate(func(error) bool { return false }))
}

func TestARegistryInTroubleIsNamed(t *testing.T) {
	var status int
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
	defer server.Close()
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, test := range []struct {
		url    string
		status int
		want   fault.Kind
	}{
		{gone.URL, 0, fault.Unavailable},
		{server.URL, http.StatusServiceUnavailable, fault.Unavailable},
		{server.URL, http.StatusTooManyRequests, fault.Unavailable},
		{server.URL, http.StatusNotFound, fault.Invalid},
	} {
		status = test.status
		registry := strings.TrimPrefix(test.url, "http://")
		s := newImages(t.TempDir(), 1<<20, nil, slog.New(slog.DiscardHandler))
		_, _, err := s.acquire(t.Context(), remotePuller{}, registry+"/me/wine:1")
		if fault.KindOf(err) != test.want || !strings.Contains(err.Error(), registry) {
			t.Errorf("a registry that answers %d: %v", test.status, err)
		}
	}
}
