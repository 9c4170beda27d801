package image

import (
	"encoding/json"
	"errors"
	"io"
	"log"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

var amd64 = function.Target{OS: "linux", Arch: "amd64"}

func mustBuildProgram(t *testing.T, o ProgramOptions) *Program {
	t.Helper()
	p, err := BuildProgram(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(p.Index); err != nil {
		t.Fatalf("the image is not valid: %v", err)
	}
	return p
}

func TestAProgramsImageHoldsTheProgramAndWhatItNeedsOfASystem(t *testing.T) {
	p := mustBuildProgram(t, dog(t))
	if len(p.Variants) != 2 {
		t.Fatalf("%d variants, want 2", len(p.Variants))
	}
	for _, v := range p.Variants {
		files := contents(t, v.Image)
		want := [][]string{
			{"etc/", "etc/group", "etc/nsswitch.conf", "etc/passwd", "etc/ssl/", "etc/ssl/certs/", "etc/ssl/certs/ca-certificates.crt", "tmp/"},
			{"usr/", "usr/bin/", "usr/bin/fwatchdog"},
		}
		if diff := cmp.Diff(want, [][]string{slices.Sorted(maps.Keys(files[0])), slices.Sorted(maps.Keys(files[1]))}); diff != "" {
			t.Errorf("%s: files (-want +got):\n%s", v.Target, diff)
		}
		config, err := v.Image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c := config.Config
		if c.User != "65532" || !slices.Equal(c.Entrypoint, []string{"/usr/bin/fwatchdog"}) || config.Architecture != v.Target.Arch {
			t.Errorf("%s: user %q, entrypoint %v, for %s", v.Target, c.User, c.Entrypoint, config.Architecture)
		}
		if !strings.Contains(files[0]["etc/passwd"], "nonroot:x:65532:65532:") {
			t.Errorf("its user has no name in %q", files[0]["etc/passwd"])
		}
		if c.Labels["org.opencontainers.image.version"] != "v1.2.3" || c.Labels["org.opencontainers.image.revision"] != "abc" {
			t.Errorf("labels %v", c.Labels)
		}
		if v.Size == 0 || v.Size > 2_000_000 {
			t.Errorf("%s: %d bytes", v.Target, v.Size)
		}
	}
}

func TestTheSameSourcesMakeTheSameImageFromAnyDirectory(t *testing.T) {
	first, second := dog(t, amd64), dog(t, amd64)
	if first.Dir == second.Dir || first.CacheDir == second.CacheDir {
		t.Fatal("the directories are the same")
	}
	a, err := mustBuildProgram(t, first).Index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOFLAGS", "-race") // what a developer's environment says
	t.Setenv("GOAMD64", "v3")
	b, err := mustBuildProgram(t, second).Index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if a != b {
		t.Errorf("digests %s and %s", a, b)
	}
	second.Version = "v2"
	if c, err := mustBuildProgram(t, second).Index.Digest(); err != nil || c == a {
		t.Errorf("another version has the same digest, error %v", err)
	}
}

func TestWhatIsNoProgramIsRefused(t *testing.T) {
	o := dog(t, amd64)
	if err := os.WriteFile(filepath.Join(o.Dir, "lib.go"), []byte("package lib\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o.Package = "."
	if _, err := BuildProgram(t.Context(), o); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "is not a main package") {
		t.Errorf("error %v", err)
	}
	o.Package = "./nothing"
	if _, err := BuildProgram(t.Context(), o); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "./nothing") {
		t.Errorf("error %v", err)
	}
	o = dog(t, amd64)
	o.Authorities = "/nothing/there"
	if _, err := BuildProgram(t.Context(), o); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "certificate authorities") {
		t.Errorf("error %v", err)
	}
}

// TestABillOfMaterialsIsSPDX checks what the specification of SPDX 2.3 asks of
// a document, as far as ours could break it.
func TestABillOfMaterialsIsSPDX(t *testing.T) {
	o := dog(t, amd64)
	o.Package, o.Dir = "./gateway/cmd/queue-worker", "../.."
	o.Name = "queue-worker"
	var doc spdxDocument
	bill := mustBuildProgram(t, o).Variants[0].SBOM
	if err := json.Unmarshal(bill, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Version != "SPDX-2.3" || doc.DataLicense != "CC0-1.0" || doc.ID != "SPDXRef-DOCUMENT" || !strings.HasPrefix(doc.Namespace, "https://") || doc.Creation.Created == "" {
		t.Errorf("head %+v", doc)
	}
	ids := map[string]bool{doc.ID: true}
	licenses := map[string]string{}
	for _, p := range doc.Packages {
		if ids[p.ID] || !regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`).MatchString(p.ID) {
			t.Errorf("%q is no identifier, or not the only one", p.ID)
		}
		ids[p.ID] = true
		licenses[p.Name] = p.LicenseDeclared
		if p.Name == "" || p.Download == "" || p.LicenseConcluded == "" || p.LicenseDeclared == "" || p.Copyright == "" {
			t.Errorf("a package lacks what it must have: %+v", p)
		}
		for _, r := range p.Refs {
			if r.Category != "PACKAGE-MANAGER" || r.Type != "purl" || !strings.HasPrefix(r.Locator, "pkg:golang/") {
				t.Errorf("reference %+v", r)
			}
		}
	}
	for _, r := range doc.Relationships {
		if !ids[r.From] || !ids[r.To] {
			t.Errorf("relationship %+v leads nowhere", r)
		}
	}
	for module, want := range map[string]string{
		"queue-worker": "Apache-2.0", "std": "BSD-3-Clause",
		"github.com/nats-io/nats.go": "Apache-2.0", "golang.org/x/sys": "BSD-3-Clause", "github.com/caarlos0/env/v11": "MIT",
	} {
		if licenses[module] != want {
			t.Errorf("the licence of %s is %q, want %q", module, licenses[module], want)
		}
	}
	if licenses["github.com/nats-io/nats-server/v2"] != "" {
		t.Error("the bill has a module that is not linked")
	}
}

func TestAProgramIsCopiedFromALayoutToARegistryAndBackWithItsBill(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	p := mustBuildProgram(t, dog(t))
	digest, err := p.Index.Digest()
	if err != nil {
		t.Fatal(err)
	}

	dir := filepath.Join(t.TempDir(), "images", "watchdog")
	for range 2 { // the second replaces the first
		if err := p.Copy(t.Context(), "oci:"+dir, CopyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if index, err := layout.ImageIndexFromPath(dir); err != nil {
		t.Error(err)
	} else if err := validate.Index(index, validate.Fast); err != nil {
		t.Errorf("the layout is not valid: %v", err)
	}

	if err := Copy(t.Context(), "oci:"+dir, host+"/graphene/watchdog", CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	ref, err := name.ParseReference(host + "/graphene/watchdog:v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Head(ref)
	if err != nil || desc.Digest != digest {
		t.Fatalf("the registry has %v, error %v, want %s", desc, err, digest)
	}
	for _, v := range p.Variants {
		variant, err := v.Image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Referrers(ref.Context().Digest(variant.String()))
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := index.IndexManifest()
		if err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].ArtifactType != mediaSPDX {
			t.Fatalf("referrers of %s: %+v, %v", v.Target, manifest, err)
		}
	}

	// One platform of it, under another name, and from there into a directory.
	one := CopyOptions{Targets: []function.Target{amd64}}
	if err := Copy(t.Context(), ref.Name(), host+"/mirror/dog:small", one); err != nil {
		t.Fatal(err)
	}
	back := filepath.Join(t.TempDir(), "back")
	if err := Copy(t.Context(), host+"/mirror/dog:small", "oci:"+back, CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	objects, err := readLayout(back, nil)
	if err != nil || len(objects) != 1 || objects[0].tag != "small" {
		t.Fatalf("%+v, %v", objects, err)
	}
	if manifest, err := objects[0].index.IndexManifest(); err != nil || len(manifest.Manifests) != 1 || manifest.Manifests[0].Platform.Architecture != "amd64" {
		t.Errorf("%+v, %v", manifest, err)
	}
}

func TestCopyRefusesWhatItCannotDo(t *testing.T) {
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	p := mustBuildProgram(t, dog(t, amd64))
	there := host + "/dog:1"
	if err := p.Copy(t.Context(), there, CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	occupied := t.TempDir()
	if err := os.WriteFile(filepath.Join(occupied, "thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		from, to string
		targets  []function.Target
		kind     fault.Kind
	}{
		{there, "oci:", nil, fault.Invalid},
		{there, "Not A Name", nil, fault.Invalid},
		{host + "/cat:1", there, nil, fault.NotFound},
		{"oci:" + occupied, there, nil, fault.NotFound},
		{there, "oci:" + occupied, nil, fault.Exists},
		{there, host + "/dog:2", []function.Target{{OS: "plan9", Arch: "mips"}}, fault.NotFound},
	} {
		err := Copy(t.Context(), tt.from, tt.to, CopyOptions{Targets: tt.targets})
		if !errors.Is(err, tt.kind) {
			t.Errorf("from %s to %s: error %v, want kind %q", tt.from, tt.to, err, tt.kind)
		}
	}
	if _, err := os.Stat(filepath.Join(occupied, "thesis.txt")); err != nil {
		t.Error("a directory that is no layout was replaced")
	}
}
