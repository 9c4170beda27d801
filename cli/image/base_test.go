package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/pyenv"
)

// A hub is a registry that remembers what it was asked for, and in which
// repository each blob is, as real ones do.
type hub struct {
	host  string
	inner http.Handler

	mu       sync.Mutex // guards what follows
	down     bool
	requests []string        // METHOD PATH?QUERY
	has      map[string]bool // REPOSITORY@DIGEST
}

func newHub(t *testing.T) *hub {
	t.Helper()
	h := &hub{inner: registry.New(registry.Logger(log.New(io.Discard, "", 0))), has: map[string]bool{}}
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	h.host = strings.TrimPrefix(server.URL, "http://")
	return h
}

var blobPath = regexp.MustCompile(`^/v2/(.+)/blobs/(sha256:|uploads/)(.*)$`)

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, r.Method+" "+r.URL.RequestURI())
	if h.down {
		panic(http.ErrAbortHandler)
	}
	query := r.URL.Query()
	if m := blobPath.FindStringSubmatch(r.URL.Path); m != nil {
		mount := query.Get("mount")
		switch repo := m[1]; {
		case r.Method == "HEAD" && !h.has[repo+"@"+m[2]+m[3]]:
			w.WriteHeader(http.StatusNotFound)
			return
		case mount != "" && h.has[query.Get("from")+"@"+mount]:
			h.has[repo+"@"+mount] = true
			w.WriteHeader(http.StatusCreated)
			return
		case r.Method == "PUT":
			h.has[repo+"@"+query.Get("digest")] = true
		}
		r.URL.RawQuery = url.Values{"digest": query["digest"]}.Encode()
	}
	h.inner.ServeHTTP(w, r)
}

// asked returns the requests that match since the last call, and forgets all.
func (h *hub) asked(pattern string) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var found []string
	for _, r := range h.requests {
		if regexp.MustCompile(pattern).MatchString(r) {
			found = append(found, r)
		}
	}
	h.requests = nil
	return found
}

func (h *hub) setDown(down bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = down
}

// pushBase pushes a small root file system that says it has this Python, for
// two platforms.
func (h *hub) pushBase(t *testing.T, repo, version string) string {
	t.Helper()
	var index v1.ImageIndex = empty.Index
	for _, arch := range []string{"amd64", "arm64"} {
		img := empty.Image
		for _, file := range []string{"etc/debian_version", "usr/local/bin/python3-" + arch} {
			var buf bytes.Buffer
			w := tar.NewWriter(&buf)
			if err := w.WriteHeader(&tar.Header{Name: file, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(file))}); err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(w, file); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
			if err != nil {
				t.Fatal(err)
			}
			if img, err = mutate.AppendLayers(img, layer); err != nil {
				t.Fatal(err)
			}
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		config.OS, config.Architecture = "linux", arch
		config.Config = v1.Config{
			Cmd: []string{"python3"}, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "PYTHON_VERSION=" + version},
			ExposedPorts: map[string]struct{}{"1/tcp": {}}, Labels: map[string]string{"maker": "somebody"},
		}
		if img, err = mutate.ConfigFile(img, config); err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	ref := h.ref(t, repo)
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	return ref.Name()
}

func (h *hub) ref(t *testing.T, repo string) name.Reference {
	t.Helper()
	ref, err := name.ParseReference(h.host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// dog is a program that stands in for the watchdog.
func dog(t *testing.T, targets ...function.Target) ProgramOptions {
	t.Helper()
	if len(targets) == 0 {
		targets = []function.Target{{OS: "linux", Arch: "amd64"}, {OS: "linux", Arch: "arm64"}}
	}
	authorities := filepath.Join(t.TempDir(), "authorities.pem")
	if err := os.WriteFile(authorities, []byte("certificates\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return ProgramOptions{
		Name: "watchdog", Package: "./cmd/fwatchdog", Dir: write(t, map[string]string{
			"go.mod":                "module example.com/dog\n\ngo 1.26\n",
			"LICENSE":               "Permission is hereby granted, free of charge, to any person\nTHE SOFTWARE IS PROVIDED \"AS IS\"",
			"cmd/fwatchdog/main.go": "package main\n\nimport \"fmt\"\n\nvar version, commit string\n\nfunc main() { fmt.Println(version, commit) }\n",
		}),
		Targets: targets, Version: "v1.2.3", Commit: "abc", Source: "https://example.com/dog",
		Authorities: authorities, CacheDir: t.TempDir(), Output: t.Output(),
	}
}

func (h *hub) pushDog(t *testing.T) string {
	t.Helper()
	p, err := BuildProgram(t.Context(), dog(t))
	if err != nil {
		t.Fatal(err)
	}
	place := h.host + "/graphene/watchdog:v1.2.3"
	if err := p.Copy(t.Context(), place, CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	return place
}

// clusterOptions are of a Python function for a cluster whose images are in h.
func clusterOptions(t *testing.T, h *hub) Options {
	t.Helper()
	o := pythonOptions(t, map[string]string{"handler.py": "def handle(event, context):\n    return 'x'\n"})
	python, err := pyenv.Find(t.Context(), "python3")
	if err != nil {
		t.Skip(err)
	}
	o.Target = function.Target{OS: "linux", Arch: "amd64", Python: python.Target.Python, Libc: "glibc"}
	o.PythonImage = h.pushBase(t, "library/python:3", python.Version)
	o.WatchdogImage = h.pushDog(t)
	return o
}

func TestAPythonFunctionForAClusterIsPutOnItsBaseWithAWatchdog(t *testing.T) {
	h := newHub(t)
	img := mustBuild(t, clusterOptions(t, h))
	var got [][]string
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		got = append(got, layerNames(t, l))
	}
	want := [][]string{
		{"etc/debian_version"},
		{"usr/local/bin/python3-amd64"},
		{"usr/", "usr/bin/", "usr/bin/fwatchdog"},
	}
	if diff := cmp.Diff(want, got[:3]); diff != "" {
		t.Errorf("base (-want +got):\n%s", diff)
	}
	if len(got) != 5 || !slices.Contains(got[4], "home/app/function/handler.py") {
		t.Errorf("layers %v, want the runtime and the handler on top", got[3:])
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	wantEnv := []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/tmp", "PYTHONPATH=python", "fprocess=python3 -m graphene_function", "mode=pool"}
	gotEnv := slices.DeleteFunc(slices.Clone(config.Config.Env), func(kv string) bool { return strings.HasPrefix(kv, "PYTHON_VERSION=") })
	if diff := cmp.Diff(wantEnv, gotEnv); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	c := config.Config
	if c.Cmd != nil || c.ExposedPorts != nil || c.Labels["maker"] != "" {
		t.Errorf("the base's own settings came along: %+v", c)
	}
	if c.User != "12000" || c.WorkingDir != "/home/app" || !slices.Equal(c.Entrypoint, []string{"fwatchdog"}) {
		t.Errorf("user %q, working directory %q, entrypoint %v", c.User, c.WorkingDir, c.Entrypoint)
	}
	if c.Labels[function.ImageBaseLayers] != "3" || c.Labels[function.ImageBaseEnv] != "4" || c.Labels[function.ImageBuilder] != "layers" {
		t.Errorf("labels %v", c.Labels)
	}
}

// layerNames returns the names of the files in a layer.
func layerNames(t *testing.T, l v1.Layer) []string {
	t.Helper()
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var all []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h.Name)
	}
}

func TestAGoFunctionForAClusterIsPutOnWhatIsBelowTheWatchdog(t *testing.T) {
	h := newHub(t)
	o := goOptions(t, map[string]string{"handler.go": goHandler})
	o.Target = function.Target{OS: "linux", Arch: "amd64"}
	o.WatchdogImage = h.pushDog(t)
	img := mustBuild(t, o)
	all, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 2 {
		t.Fatalf("%d layers, want the base and the handler", len(all))
	}
	if base := layerNames(t, all[0]); !slices.Contains(base, "etc/ssl/certs/ca-certificates.crt") || !slices.Contains(base, "tmp/") {
		t.Errorf("base %v", base)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if config.Config.Labels[labelProgram] != "" {
		t.Error("the function says that it is a program's image")
	}
}

func TestTheLayersOfABaseAreNotSentToTheRegistryThatHasThem(t *testing.T) {
	h := newHub(t)
	o := clusterOptions(t, h)
	img := mustBuild(t, o)
	h.asked("")
	push := PushOptions{CacheDir: o.CacheDir}
	if err := Push(t.Context(), img, h.ref(t, "team/fn"), push); err != nil {
		t.Fatal(err)
	}
	requests := h.asked("")
	count := func(pattern string) (n int) {
		for _, r := range requests {
			if regexp.MustCompile(pattern).MatchString(r) {
				n++
			}
		}
		return n
	}
	if n := count(`from=library.*mount=`); n != 2 {
		t.Errorf("%d layers are mounted from the base, want 2:\n%s", n, strings.Join(requests, "\n"))
	}
	if n := count(`from=graphene.*mount=`); n != 1 {
		t.Errorf("%d layers are mounted from the watchdog, want 1", n)
	}
	// A configuration and two layers are new.
	if n := count(`^PATCH`); n != 3 {
		t.Errorf("%d blobs are sent, want 3:\n%s", n, strings.Join(requests, "\n"))
	}
	if n := count(`^GET .*/blobs/`); n != 0 {
		t.Errorf("%d layers of the base are fetched, want none", n)
	}
}

func TestTheLayersOfABaseElsewhereAreSentOnce(t *testing.T) {
	far, near := newHub(t), newHub(t)
	o := clusterOptions(t, far)
	img := mustBuild(t, o)
	push := PushOptions{CacheDir: o.CacheDir}
	for _, repo := range []string{"team/one", "team/two"} {
		near.asked("")
		if err := Push(t.Context(), img, near.ref(t, repo), push); err != nil {
			t.Fatal(err)
		}
		sent := near.asked(`^PATCH`)
		want := 6 // three of the base, two of the function, the configuration
		if repo == "team/two" {
			want = 1 // the configuration; everything else is taken from team/one
		}
		if len(sent) != want {
			t.Errorf("%s: %d blobs are sent, want %d: %v", repo, len(sent), want, sent)
		}
	}
	if fetched := far.asked(`^GET .*/blobs/`); len(fetched) != 5 { // two configurations
		t.Errorf("blobs of the base are fetched %d times: %v", len(fetched), fetched)
	}
	pulled, err := remote.Image(near.ref(t, "team/two"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(pulled); err != nil {
		t.Errorf("what was pushed is not whole: %v", err)
	}
}

func TestABaseIsReadFromTheCacheWhileItsRegistryIsAway(t *testing.T) {
	h := newHub(t)
	o := clusterOptions(t, h)
	first := mustBuild(t, o)
	h.asked("")
	again := mustBuild(t, o)
	if requests := h.asked(`^GET .*(manifests|blobs)`); len(requests) > 0 {
		t.Errorf("read again: %v", requests)
	}
	h.setDown(true)
	var said bytes.Buffer
	o.Output = &said
	away := mustBuildAway(t, o)
	if digest(t, first) != digest(t, again) || digest(t, first) != digest(t, away) {
		t.Error("the same function on the same base has other digests")
	}
	if !strings.Contains(said.String(), "what was there last is used") {
		t.Errorf("output %q does not say that the base may be old", said.String())
	}
	o.CacheDir = t.TempDir()
	refused(t, o, fault.Unavailable, "base image "+o.PythonImage, "cannot reach the registry")
}

// mustBuildAway builds without looking into layers, whose registry is away.
func mustBuildAway(t *testing.T, o Options) v1.Image {
	t.Helper()
	img, err := Build(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestABaseThatDoesNotFitIsRefused(t *testing.T) {
	h := newHub(t)
	o := clusterOptions(t, h)

	other := o
	other.PythonImage = h.pushBase(t, "library/python:old", "3.8.1")
	refused(t, other, fault.Invalid, "has Python cp38", "build_target must agree")

	other = o
	other.Target.Arch = "s390x"
	refused(t, other, fault.Invalid, "there is none for linux/s390x, only for linux/amd64, linux/arm64")

	other = o
	other.PythonImage = h.host + "/library/nothing:1"
	refused(t, other, fault.NotFound, "library/nothing:1", "does not have it")

	other = o
	other.WatchdogImage = o.PythonImage
	refused(t, other, fault.Invalid, "is not an image of the watchdog")

	other = o
	other.PythonImage = "Not An Image"
	refused(t, other, fault.Invalid, `base image "Not An Image"`)
}

func TestABaseIsReadWithTheLoginOfAHelper(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the helper is a shell script")
	}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != "somebody" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`, http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	open := newHub(t)
	o := clusterOptions(t, open)

	o.PythonImage = host + "/python:3"
	config := t.TempDir()
	t.Setenv("DOCKER_CONFIG", config)
	refused(t, o, fault.Unauthenticated, "base image "+o.PythonImage, "log in")

	bin := t.TempDir()
	helper := "#!/bin/sh\nread server\necho '{\"ServerURL\":\"'$server'\",\"Username\":\"somebody\",\"Secret\":\"secret\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(helper), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	text, err := json.Marshal(map[string]any{"credHelpers": map[string]string{host: "test"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(config, "config.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Copy(t.Context(), open.host+"/library/python:3", o.PythonImage, CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	img := mustBuild(t, o)
	ref, err := name.ParseReference(host + "/fn")
	if err != nil {
		t.Fatal(err)
	}
	if err := Push(t.Context(), img, ref, PushOptions{CacheDir: o.CacheDir}); err != nil {
		t.Error(err)
	}
}

func TestADamagedBlobOfABaseIsNoticed(t *testing.T) {
	h := newHub(t)
	o := clusterOptions(t, h)
	mustBuild(t, o)
	blobs, err := filepath.Glob(filepath.Join(o.CacheDir, "bases", "sha256-*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	for _, name := range blobs {
		if err := os.WriteFile(name, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Build(t.Context(), o); err != nil {
		t.Errorf("damaged manifests are not read anew: %v", err)
	}
}
