package serve

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/graphene-faas/graphene/cli/image"
	"github.com/graphene-faas/graphene/internal/fault"
)

// smallDisk mounts a file system of 1 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("SKIPPED: no small disk can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestADiskThatFillsUpDuringAnUploadHarmsNothing(t *testing.T) {
	dir := smallDisk(t)
	r := openRegistry(t, registryOptions{dir: dir, minFree: 64 << 10})
	s := openSession(t, r)
	img := randomImage(t)
	ref, err := image.ResolveRef("fn:v1", s.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Push(t.Context(), img, ref, image.PushOptions{}); err != nil {
		t.Fatal(err)
	}

	// The length is not known beforehand, so only writing shows that there is no room.
	endless := strings.Repeat("x", 4<<20)
	a := s.send(http.MethodPatch, s.startUpload("fn"), io.MultiReader(strings.NewReader(endless)))
	s.want(a, http.StatusInsufficientStorage, "INSUFFICIENT_STORAGE")
	if err := image.Push(t.Context(), randomImage(t), ref, image.PushOptions{}); !errors.Is(err, fault.Storage) {
		t.Errorf("push to a full disk: error %v, want kind %q", err, fault.Storage)
	}
	got, err := r.Pull(t.Context(), "fn:v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Errorf("the image that was there is not whole any more: %v", err)
	}

	// Opened again, the registry finds the half upload abandoned.
	again := openRegistry(t, registryOptions{dir: dir, minFree: 64 << 10})
	again.opened = r.opened.AddDate(0, 0, 1)
	if _, err := again.collectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	s = openSession(t, again)
	if d := s.upload("fn", "there is room"); d != digest.FromString("there is room").String() {
		t.Errorf("digest %s", d)
	}
}
