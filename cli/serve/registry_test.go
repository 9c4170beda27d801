package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"

	"github.com/graphene-faas/graphene/cli/image"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/testkit"
)

// openRegistry opens a registry that collects whatever has no tag.
func openRegistry(t *testing.T, o registryOptions) *registry {
	t.Helper()
	if o.dir == "" {
		o.dir = t.TempDir()
	}
	if o.log == nil {
		o.log = testkit.Log(t)
	}
	if o.minFree == 0 {
		o.minFree = 1
	}
	if o.grace == 0 {
		o.grace = -1
	}
	r, err := newRegistry(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A session speaks HTTP to a registry on a real socket.
type session struct {
	*testing.T
	server *httptest.Server
}

func openSession(t *testing.T, r *registry) session {
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	return session{t, server}
}

type answer struct {
	*http.Response
	body []byte
}

// send makes a request; path may be the Location of an earlier answer.
func (s session) send(method, path string, body io.Reader, headers ...string) answer {
	s.Helper()
	if !strings.HasPrefix(path, "http") {
		path = s.server.URL + path
	}
	req, err := http.NewRequestWithContext(s.Context(), method, path, body)
	if err != nil {
		s.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := s.server.Client().Do(req)
	if err != nil {
		s.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		s.Fatal(err)
	}
	return answer{res, text}
}

// want checks the status of an answer, and the code of the error in it.
func (s session) want(a answer, status int, code string) {
	s.Helper()
	if a.StatusCode != status {
		s.Fatalf("%s %s: status %d, want %d: %s", a.Request.Method, a.Request.URL, a.StatusCode, status, a.body)
	}
	if code == "" {
		return
	}
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if err := json.Unmarshal(a.body, &body); err != nil || len(body.Errors) != 1 {
		s.Fatalf("%s %s: body %q is not one OCI error", a.Request.Method, a.Request.URL, a.body)
	}
	if got := body.Errors[0]; got.Code != code || got.Message == "" {
		s.Errorf("%s %s: error %+v, want code %s", a.Request.Method, a.Request.URL, got, code)
	}
}

func (s session) startUpload(repository string) string {
	s.Helper()
	a := s.send(http.MethodPost, "/v2/"+repository+"/blobs/uploads/", nil)
	s.want(a, http.StatusAccepted, "")
	return a.Header.Get("Location")
}

// withDigest adds the digest by which an upload is finished.
func withDigest(location, digest string) string {
	sep := "?"
	if strings.Contains(location, "?") {
		sep = "&"
	}
	return location + sep + "digest=" + digest
}

// upload stores a blob in one request, and returns its digest.
func (s session) upload(repository, text string) string {
	s.Helper()
	d := digest.FromString(text).String()
	a := s.send(http.MethodPut, withDigest(s.startUpload(repository), d), strings.NewReader(text))
	s.want(a, http.StatusCreated, "")
	return d
}

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	configType   = "application/vnd.oci.image.config.v1+json"
	layerType    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// manifest writes the manifest of an image with the one layer.
func manifest(config, layer string, layerSize int) string {
	return fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":2},"layers":[{"mediaType":%q,"digest":%q,"size":%d}]}`,
		manifestType, configType, config, layerType, layer, layerSize)
}

// pushImage stores an image whose only layer is text, and returns the
// digests of its manifest and layer.
func (s session) pushImage(repository, tag, text string) (manifestDigest, layer string) {
	s.Helper()
	config := s.upload(repository, "{}")
	layer = s.upload(repository, text)
	m := manifest(config, layer, len(text))
	manifestDigest = digest.FromString(m).String()
	s.want(s.send(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, strings.NewReader(m), "Content-Type", manifestType), http.StatusCreated, "")
	return manifestDigest, layer
}

func randomImage(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(10_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestImagesComeBackAsTheyWerePushed(t *testing.T) {
	r := openRegistry(t, registryOptions{})
	server := httptest.NewServer(r)
	defer server.Close()
	img := randomImage(t)
	ref, err := image.ResolveRef("team/fn:v1", server.URL)
	if err != nil {
		t.Fatal(err)
	}
	progress := new(lastProgress)
	if err := image.Push(t.Context(), img, ref, image.PushOptions{Progress: progress}); err != nil {
		t.Fatal(err)
	}
	if progress.total == 0 || progress.done != progress.total {
		t.Errorf("progress ended at %d of %d", progress.done, progress.total)
	}
	want, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"team/fn:v1", "team/fn@" + want.String()} {
		got, err := r.Pull(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if d, _ := got.Digest(); d != want {
			t.Errorf("%s has digest %v, want %v", ref, d, want)
		}
		if err := validate.Image(got); err != nil {
			t.Errorf("%s is not whole: %v", ref, err)
		}
	}
	over, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(over); err != nil {
		t.Errorf("over the network the image is not whole: %v", err)
	}
}

type lastProgress struct{ done, total int64 }

func (p *lastProgress) Step(string)              {}
func (p *lastProgress) Update(done, total int64) { p.done, p.total = done, total }

func TestPushSendsOnlyWhatIsMissing(t *testing.T) {
	r := openRegistry(t, registryOptions{})
	var patched atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPatch {
			patched.Add(1)
		}
		r.ServeHTTP(w, req)
	}))
	defer server.Close()
	push := func(img v1.Image, tag string) int64 {
		patched.Store(0)
		ref, err := image.ResolveRef("fn:"+tag, server.URL)
		if err != nil {
			t.Fatal(err)
		}
		if err := image.Push(t.Context(), img, ref, image.PushOptions{}); err != nil {
			t.Fatal(err)
		}
		return patched.Load()
	}
	img := randomImage(t)
	if n := push(img, "1"); n != 4 {
		t.Errorf("the first push sent %d blobs, want 3 layers and the configuration", n)
	}
	if n := push(img, "2"); n != 0 {
		t.Errorf("another tag sent %d blobs, want none", n)
	}
	layer, err := random.Layer(1000, "application/vnd.oci.image.layer.v1.tar+gzip")
	if err != nil {
		t.Fatal(err)
	}
	more, err := mutate.AppendLayers(img, layer)
	if err != nil {
		t.Fatal(err)
	}
	if n := push(more, "3"); n != 2 {
		t.Errorf("one more layer sent %d blobs, want the layer and the configuration", n)
	}
}

func TestBlobsAreServedWholeAndInParts(t *testing.T) {
	s := openSession(t, openRegistry(t, registryOptions{}))
	d := s.upload("fn", "0123456789")
	path := "/v2/fn/blobs/" + d

	head := s.send(http.MethodHead, path, nil)
	s.want(head, http.StatusOK, "")
	if head.ContentLength != 10 || head.Header.Get("Docker-Content-Digest") != d {
		t.Errorf("HEAD says length %d and digest %s", head.ContentLength, head.Header.Get("Docker-Content-Digest"))
	}
	if got := s.send(http.MethodGet, path, nil); string(got.body) != "0123456789" {
		t.Errorf("GET returned %q", got.body)
	}
	part := s.send(http.MethodGet, path, nil, "Range", "bytes=3-5")
	s.want(part, http.StatusPartialContent, "")
	if string(part.body) != "345" {
		t.Errorf("bytes 3-5 are %q", part.body)
	}
	s.want(s.send(http.MethodGet, path, nil, "Range", "bytes=20-30"), http.StatusRequestedRangeNotSatisfiable, "")
}

func TestBlobsAreUploadedInChunks(t *testing.T) {
	s := openSession(t, openRegistry(t, registryOptions{}))
	location := s.startUpload("fn")
	for i, chunk := range []string{"hello ", "wor", "ld"} {
		start := []int{0, 6, 9}[i]
		a := s.send(http.MethodPatch, location, strings.NewReader(chunk), "Content-Type", "application/octet-stream",
			"Content-Range", fmt.Sprintf("%d-%d", start, start+len(chunk)-1))
		s.want(a, http.StatusAccepted, "")
		if want := fmt.Sprintf("0-%d", start+len(chunk)-1); a.Header.Get("Range") != want {
			t.Errorf("range %q, want %q", a.Header.Get("Range"), want)
		}
		location = a.Header.Get("Location")
	}
	// A chunk that does not begin where the last one ended is refused, and does no harm.
	s.want(s.send(http.MethodPatch, location, strings.NewReader("late"), "Content-Range", "20-23"), http.StatusRequestedRangeNotSatisfiable, "RANGE_INVALID")
	status := s.send(http.MethodGet, location, nil)
	s.want(status, http.StatusNoContent, "")
	if got := status.Header.Get("Range"); got != "0-10" {
		t.Errorf("the upload's range is %q, want 0-10", got)
	}
	d := digest.FromString("hello world").String()
	s.want(s.send(http.MethodPut, withDigest(location, d), nil), http.StatusCreated, "")
	if got := s.send(http.MethodGet, "/v2/fn/blobs/"+d, nil); string(got.body) != "hello world" {
		t.Errorf("the blob is %q", got.body)
	}
}

func TestUploadsCanBeCancelled(t *testing.T) {
	s := openSession(t, openRegistry(t, registryOptions{}))
	location := s.startUpload("fn")
	s.want(s.send(http.MethodDelete, location, nil), http.StatusNoContent, "")
	s.want(s.send(http.MethodPatch, location, strings.NewReader("x")), http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
}

func TestBlobsAreMountedFromOtherRepositories(t *testing.T) {
	s := openSession(t, openRegistry(t, registryOptions{}))
	d := s.upload("one", "shared")
	s.want(s.send(http.MethodHead, "/v2/two/blobs/"+d, nil), http.StatusNotFound, "")
	s.want(s.send(http.MethodPost, "/v2/two/blobs/uploads/?mount="+d+"&from=one", nil), http.StatusCreated, "")
	s.want(s.send(http.MethodHead, "/v2/two/blobs/"+d, nil), http.StatusOK, "")
	// What cannot be mounted must be uploaded.
	unknown := digest.FromString("unknown").String()
	s.want(s.send(http.MethodPost, "/v2/two/blobs/uploads/?mount="+unknown+"&from=one", nil), http.StatusAccepted, "")
}

func TestWrongDigestIsRefusedAndStoresNothing(t *testing.T) {
	s := openSession(t, openRegistry(t, registryOptions{}))
	other := digest.FromString("other").String()
	s.want(s.send(http.MethodPut, withDigest(s.startUpload("fn"), other), strings.NewReader("text")), http.StatusBadRequest, "DIGEST_INVALID")
	s.want(s.send(http.MethodHead, "/v2/fn/blobs/"+other, nil), http.StatusNotFound, "")
	s.want(s.send(http.MethodPut, withDigest(s.startUpload("fn"), "sha256:short"), strings.NewReader("text")), http.StatusBadRequest, "DIGEST_INVALID")

	m := manifest(s.upload("fn", "{}"), s.upload("fn", "layer"), 5)
	s.want(s.send(http.MethodPut, "/v2/fn/manifests/"+other, strings.NewReader(m), "Content-Type", manifestType), http.StatusBadRequest, "DIGEST_INVALID")
}

func TestManifestsHaveTagsAndDigests(t *testing.T) {
	s := openSession(t, openRegistry(t, registryOptions{}))
	first, _ := s.pushImage("team/fn", "v1", "one")
	second, _ := s.pushImage("team/fn", "v2", "two")
	s.pushImage("other", "latest", "one")

	byTag := s.send(http.MethodGet, "/v2/team/fn/manifests/v1", nil, "Accept", manifestType)
	s.want(byTag, http.StatusOK, "")
	if byTag.Header.Get("Docker-Content-Digest") != first || byTag.Header.Get("Content-Type") != manifestType {
		t.Errorf("headers %v", byTag.Header)
	}
	byDigest := s.send(http.MethodGet, "/v2/team/fn/manifests/"+first, nil, "Accept", manifestType)
	if !bytes.Equal(byDigest.body, byTag.body) || digest.FromBytes(byTag.body).String() != first {
		t.Error("tag and digest lead to different manifests")
	}
	s.want(s.send(http.MethodHead, "/v2/team/fn/manifests/"+second, nil, "Accept", manifestType), http.StatusOK, "")

	for path, want := range map[string]string{
		"/v2/team/fn/tags/list":     `{"name":"team/fn","tags":["v1","v2"]}`,
		"/v2/team/fn/tags/list?n=1": `{"name":"team/fn","tags":["v1"]}`,
		"/v2/_catalog":              `{"repositories":["other","team/fn"]}`,
		"/v2/":                      `{}`,
	} {
		a := s.send(http.MethodGet, path, nil)
		s.want(a, http.StatusOK, "")
		if got := strings.TrimSpace(string(a.body)); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}

	s.want(s.send(http.MethodDelete, "/v2/team/fn/manifests/v1", nil), http.StatusAccepted, "")
	s.want(s.send(http.MethodGet, "/v2/team/fn/manifests/v1", nil), http.StatusNotFound, "MANIFEST_UNKNOWN")
	s.want(s.send(http.MethodDelete, "/v2/team/fn/manifests/"+second, nil), http.StatusAccepted, "")
	s.want(s.send(http.MethodGet, "/v2/team/fn/manifests/v2", nil), http.StatusNotFound, "MANIFEST_UNKNOWN")
}

func TestIndexOfImagesIsStored(t *testing.T) {
	r := openRegistry(t, registryOptions{})
	server := httptest.NewServer(r)
	defer server.Close()
	index := v1.ImageIndex(empty.Index)
	for range 2 {
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: randomImage(t)})
	}
	ref, err := image.ResolveRef("many", server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	if _, err := r.collectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := remote.Index(ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(got); err != nil {
		t.Errorf("after a collection the index is not whole: %v", err)
	}
}

func TestWhatIsNotThereIsSaidAsTheSpecificationWants(t *testing.T) {
	s := openSession(t, openRegistry(t, registryOptions{}))
	config, layer := s.upload("fn", "{}"), s.upload("fn", "layer")
	missing := digest.FromString("missing").String()
	for _, tt := range []struct {
		name, method, path, body string
		status                   int
		code                     string
	}{
		{"manifest of an unknown repository", "GET", "/v2/none/manifests/latest", "", 404, "MANIFEST_UNKNOWN"},
		{"unknown tag", "GET", "/v2/fn/manifests/none", "", 404, "MANIFEST_UNKNOWN"},
		{"unknown digest", "GET", "/v2/fn/manifests/" + missing, "", 404, "MANIFEST_UNKNOWN"},
		{"unknown blob", "GET", "/v2/fn/blobs/" + missing, "", 404, "BLOB_UNKNOWN"},
		{"tags of an unknown repository", "GET", "/v2/none/tags/list", "", 404, "NAME_UNKNOWN"},
		{"delete an unknown manifest", "DELETE", "/v2/fn/manifests/" + missing, "", 404, "MANIFEST_UNKNOWN"},
		{"delete an unknown blob", "DELETE", "/v2/fn/blobs/" + missing, "", 404, "BLOB_UNKNOWN"},
		{"an upload nobody started", "PATCH", "/v2/fn/blobs/uploads/6c6f0d1c-3bf6-4f3f-8f0e-1d1e2b6f5a55", "x", 404, "BLOB_UPLOAD_INVALID"},
		{"manifest without its layer", "PUT", "/v2/fn/manifests/x", manifest(config, missing, 1), 400, "MANIFEST_BLOB_UNKNOWN"},
		{"manifest that is no JSON", "PUT", "/v2/fn/manifests/x", "{", 400, "MANIFEST_INVALID"},
		{"bad name of a repository", "GET", "/v2/UPPER/manifests/x", "", 404, ""},
		{"repository above the root", "PUT", "/v2/..%2f..%2fx/manifests/x", manifest(config, layer, 5), 404, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := session{t, s.server}
			s.want(s.send(tt.method, tt.path, strings.NewReader(tt.body), "Content-Type", manifestType), tt.status, tt.code)
		})
	}
}

func TestEverythingSurvivesARestart(t *testing.T) {
	dir := t.TempDir()
	s := openSession(t, openRegistry(t, registryOptions{dir: dir}))
	_, layer := s.pushImage("fn", "v1", "layer")
	half := s.startUpload("fn")
	s.want(s.send(http.MethodPatch, half, strings.NewReader("half")), http.StatusAccepted, "")

	r := openRegistry(t, registryOptions{dir: dir})
	r.opened = time.Now().Add(time.Minute) // the upload's file was written in this very second
	again := openSession(t, r)
	again.want(again.send(http.MethodGet, "/v2/fn/manifests/v1", nil, "Accept", manifestType), http.StatusOK, "")
	again.want(again.send(http.MethodGet, "/v2/fn/blobs/"+layer, nil), http.StatusOK, "")
	if _, err := r.collectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := uploads(t, dir); len(left) > 0 {
		t.Errorf("uploads of the earlier process are left: %v", left)
	}
	again.want(again.send(http.MethodGet, "/v2/fn/blobs/"+layer, nil), http.StatusOK, "")
}

func uploads(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, repositoriesPath, "*", "_uploads", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func blobFiles(t *testing.T, dir string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "data" {
			n++
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestGarbageCollectionKeepsWhatTagsLeadTo(t *testing.T) {
	r := openRegistry(t, registryOptions{})
	s := openSession(t, r)
	old, oldLayer := s.pushImage("fn", "latest", "old layer")
	current, currentLayer := s.pushImage("fn", "latest", "current layer")
	gone, goneLayer := s.pushImage("team/gone", "v1", "gone layer")
	_, otherLayer := s.pushImage("team/other", "v1", "other layer")
	s.want(s.send(http.MethodDelete, "/v2/team/gone/manifests/v1", nil), http.StatusAccepted, "")
	loose := s.upload("fn", "a layer without an image")
	resting := s.startUpload("fn")

	freed, err := r.collectGarbage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if freed == 0 {
		t.Error("no bytes were freed")
	}
	for _, tt := range []struct {
		path   string
		status int
	}{
		{"/v2/fn/manifests/latest", 200},
		{"/v2/fn/manifests/" + current, 200},
		{"/v2/fn/manifests/" + old, 404},
		{"/v2/fn/blobs/" + currentLayer, 200},
		{"/v2/fn/blobs/" + oldLayer, 404},
		{"/v2/fn/blobs/" + loose, 404},
		{"/v2/team/gone/manifests/" + gone, 404},
		{"/v2/team/gone/blobs/" + goneLayer, 404},
		{"/v2/team/other/blobs/" + otherLayer, 200},
	} {
		if a := s.send(http.MethodGet, tt.path, nil, "Accept", manifestType); a.StatusCode != tt.status {
			t.Errorf("%s: status %d, want %d", tt.path, a.StatusCode, tt.status)
		}
	}
	if got := strings.TrimSpace(string(s.send(http.MethodGet, "/v2/_catalog", nil).body)); got != `{"repositories":["fn","team/other"]}` {
		t.Errorf("repositories are %s", got)
	}
	// Two images of a manifest and a layer each, which share a configuration.
	if n := blobFiles(t, filepath.Join(r.dir, "docker/registry/v2/blobs")); n != 5 {
		t.Errorf("%d blobs are left, want 5", n)
	}
	s.want(s.send(http.MethodPatch, resting, strings.NewReader("x")), http.StatusAccepted, "")

	again, err := r.collectGarbage(t.Context())
	if err != nil || again != 0 {
		t.Errorf("a second collection freed %d, error %v", again, err)
	}
}

func TestGarbageCollectionSparesPushesInProgress(t *testing.T) {
	r := openRegistry(t, registryOptions{grace: time.Hour})
	s := openSession(t, r)
	config, fresh := s.upload("fn", "{}"), s.upload("fn", "fresh layer")
	collect := func() {
		t.Helper()
		if _, err := r.collectGarbage(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	collect()
	s.want(s.send(http.MethodPut, "/v2/fn/manifests/v1", strings.NewReader(manifest(config, fresh, 11)), "Content-Type", manifestType), http.StatusCreated, "")

	// An old layer that a new push was told is there.
	s.want(s.send(http.MethodDelete, "/v2/fn/manifests/v1", nil), http.StatusAccepted, "")
	s.want(s.send(http.MethodHead, "/v2/fn/blobs/"+fresh, nil), http.StatusOK, "")
	s.want(s.send(http.MethodHead, "/v2/fn/blobs/"+config, nil), http.StatusOK, "")
	collect()
	s.want(s.send(http.MethodPut, "/v2/fn/manifests/v2", strings.NewReader(manifest(config, fresh, 11)), "Content-Type", manifestType), http.StatusCreated, "")

	// Once its only tag is gone, nothing holds the image.
	s.want(s.send(http.MethodDelete, "/v2/fn/manifests/v2", nil), http.StatusAccepted, "")
	collect()
	s.want(s.send(http.MethodHead, "/v2/fn/blobs/"+fresh, nil), http.StatusNotFound, "")
}

func TestGarbageCollectionRunsBesidePushes(t *testing.T) {
	r := openRegistry(t, registryOptions{grace: time.Hour})
	server := httptest.NewServer(r)
	defer server.Close()
	ctx, stop := context.WithCancel(t.Context())
	collected := make(chan error, 1)
	go func() {
		for ctx.Err() == nil {
			if _, err := r.collectGarbage(t.Context()); err != nil {
				collected <- err
				return
			}
		}
		collected <- nil
	}()
	for i := range 10 {
		ref, err := image.ResolveRef(fmt.Sprintf("fn%d", i%3), server.URL)
		if err != nil {
			t.Fatal(err)
		}
		if err := image.Push(t.Context(), randomImage(t), ref, image.PushOptions{}); err != nil {
			t.Errorf("push %d: %v", i, err)
		}
	}
	stop()
	if err := <-collected; err != nil {
		t.Errorf("collect: %v", err)
	}
	for i := range 3 {
		img, err := r.Pull(t.Context(), fmt.Sprintf("fn%d", i))
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(img); err != nil {
			t.Errorf("fn%d is not whole: %v", i, err)
		}
	}
}

func TestGarbageCollectionOutlivesDamage(t *testing.T) {
	r := openRegistry(t, registryOptions{})
	s := openSession(t, r)
	broken, _ := s.pushImage("fn", "broken", "one")
	_, layer := s.pushImage("fn", "whole", "two")
	hex := strings.TrimPrefix(broken, "sha256:")
	if err := os.RemoveAll(r.disk("/docker/registry/v2/blobs/sha256/" + hex[:2] + "/" + hex)); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(r.disk(repositoryPath("fn", "_manifests/tags/empty")), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := r.collectGarbage(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.want(s.send(http.MethodGet, "/v2/fn/manifests/whole", nil, "Accept", manifestType), http.StatusOK, "")
	s.want(s.send(http.MethodGet, "/v2/fn/blobs/"+layer, nil), http.StatusOK, "")
}

func TestAnEmptyRegistryHasNoGarbage(t *testing.T) {
	r := openRegistry(t, registryOptions{})
	if freed, err := r.collectGarbage(t.Context()); err != nil || freed != 0 {
		t.Errorf("freed %d, error %v", freed, err)
	}
}

func TestUploadsAreBounded(t *testing.T) {
	r := openRegistry(t, registryOptions{maxBlob: 100})
	s := openSession(t, r)
	big := strings.Repeat("x", 101)

	s.want(s.send(http.MethodPut, withDigest(s.startUpload("fn"), digest.FromString(big).String()), strings.NewReader(big)), http.StatusRequestEntityTooLarge, "SIZE_INVALID")
	s.want(s.send(http.MethodPatch, s.startUpload("fn"), io.MultiReader(strings.NewReader(big))), http.StatusRequestEntityTooLarge, "SIZE_INVALID")

	location := s.startUpload("fn")
	a := s.send(http.MethodPatch, location, strings.NewReader(big[:60]))
	s.want(a, http.StatusAccepted, "")
	s.want(s.send(http.MethodPatch, a.Header.Get("Location"), strings.NewReader(big[:60])), http.StatusRequestEntityTooLarge, "SIZE_INVALID")

	s.upload("fn", big[:100])
	huge := strings.Repeat(" ", maxManifest+1)
	s.want(s.send(http.MethodPut, "/v2/fn/manifests/x", strings.NewReader(huge), "Content-Type", manifestType), http.StatusRequestEntityTooLarge, "SIZE_INVALID")
}

func TestAFullDiskIsSaid(t *testing.T) {
	dir := t.TempDir()
	s := openSession(t, openRegistry(t, registryOptions{dir: dir}))
	_, layer := s.pushImage("fn", "v1", "layer")
	half := s.startUpload("fn")

	full := openRegistry(t, registryOptions{dir: dir, minFree: 1 << 60})
	f := openSession(t, full)
	f.want(f.send(http.MethodPost, "/v2/fn/blobs/uploads/", nil), http.StatusInsufficientStorage, "INSUFFICIENT_STORAGE")
	f.want(f.send(http.MethodPut, "/v2/fn/manifests/v2", strings.NewReader("{}")), http.StatusInsufficientStorage, "INSUFFICIENT_STORAGE")
	f.want(f.send(http.MethodPatch, strings.TrimPrefix(half, s.server.URL), strings.NewReader("x")), http.StatusInsufficientStorage, "INSUFFICIENT_STORAGE")
	// What is there can be had, and removed.
	f.want(f.send(http.MethodGet, "/v2/fn/blobs/"+layer, nil), http.StatusOK, "")
	f.want(f.send(http.MethodDelete, "/v2/fn/manifests/v1", nil), http.StatusAccepted, "")

	ref, err := image.ResolveRef("fn", f.server.URL)
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Push(t.Context(), randomImage(t), ref, image.PushOptions{}); !errors.Is(err, fault.Storage) || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("push: error %v, want kind %q", err, fault.Storage)
	}
}

func TestPullSaysWhatIsNotThere(t *testing.T) {
	r := openRegistry(t, registryOptions{})
	if _, err := r.Pull(t.Context(), "fn:v1"); err == nil {
		t.Error("an image that nobody pushed was pulled")
	}
	if _, err := r.Pull(t.Context(), "Not A Name"); !errors.Is(err, fault.Invalid) {
		t.Errorf("error %v, want kind %q", err, fault.Invalid)
	}
}

func TestPullReachesOtherRegistries(t *testing.T) {
	elsewhere := httptest.NewServer(openRegistry(t, registryOptions{}))
	defer elsewhere.Close()
	ref, err := name.ParseReference(strings.TrimPrefix(elsewhere.URL, "http://") + "/fn:v1")
	if err != nil {
		t.Fatal(err)
	}
	img := randomImage(t)
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	got, err := openRegistry(t, registryOptions{}).Pull(t.Context(), ref.String())
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(got); err != nil {
		t.Error(err)
	}
}

func TestTheLibrarysLogGoesToOurs(t *testing.T) {
	var log bytes.Buffer
	r := openRegistry(t, registryOptions{log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	s := openSession(t, r)
	s.send(http.MethodGet, "/v2/fn/manifests/none", nil)
	if !strings.Contains(log.String(), "response completed with error") || strings.Contains(log.String(), "level=ERROR") {
		t.Errorf("the log is %q", log.String())
	}
}

func TestPathsOfRequestsAreRead(t *testing.T) {
	for path, want := range map[string]target{
		"/v2/":                         {},
		"/v2/_catalog":                 {},
		"/v2/a/b/manifests/v1":         {manifestTarget, "a/b", "v1"},
		"/v2/a/blobs/sha256:00":        {blobTarget, "a", "sha256:00"},
		"/v2/a/blobs/uploads/":         {uploadTarget, "a", ""},
		"/v2/a/blobs/uploads/id":       {uploadTarget, "a", "id"},
		"/v2/a/blobs/uploads":          {blobTarget, "a", "uploads"},
		"/v2/uploads/manifests/latest": {manifestTarget, "uploads", "latest"},
		"/v2/a/uploads/b":              {},
		"/v2":                          {},
		"":                             {},
	} {
		if diff := cmp.Diff(want, parseTarget(path), cmp.AllowUnexported(target{})); diff != "" {
			t.Errorf("%s (-want +got)\n%s", path, diff)
		}
	}
}

func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{"/v2/a/manifests/b", "/v2//blobs/uploads/", "/v2/manifests/", "/////", "/v2/blobs/uploads/x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		got := parseTarget(path)
		if got.kind == otherTarget && got != (target{}) {
			t.Errorf("%+v", got)
		}
		if !strings.Contains(path, got.repository) || !strings.HasSuffix(path, got.reference) {
			t.Errorf("%+v is not in the path", got)
		}
	})
}

func BenchmarkOpenRegistry(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if _, err := newRegistry(b.Context(), registryOptions{dir: dir, log: slog.New(slog.DiscardHandler)}); err != nil {
			b.Fatal(err)
		}
	}
}
