package serve

import (
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestRegistryConformsToTheDistributionSpecification runs the suite of the
// Open Container Initiative. The suite is a program of a module of its own, so
// that the product does not depend on it; without it and without a network to
// fetch it by, the test is skipped.
func TestRegistryConformsToTheDistributionSpecification(t *testing.T) {
	suite := filepath.Join(t.TempDir(), "suite")
	build := exec.CommandContext(t.Context(), "go", "-C", "../../test/conformance", "build", "-o", suite, "github.com/opencontainers/distribution-spec/conformance")
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: the conformance suite cannot be built here: %v\n%s", err, out)
	}
	server := httptest.NewServer(openRegistry(t, registryOptions{}))
	defer server.Close()

	cmd := exec.CommandContext(t.Context(), suite)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(),
		"OCI_REGISTRY="+strings.TrimPrefix(server.URL, "http://"),
		"OCI_TLS=disabled",
		"OCI_RESULTS_DIR="+t.ArtifactDir(),
		// Optional parts that the registry has.
		"OCI_API_BLOBS_UPLOAD_CANCEL=true",
		"OCI_API_BLOBS_DIGEST_HEADER=true",
		"OCI_API_MANIFESTS_DIGEST_HEADER=true",
		// What the library behind it does not do. Neither builders nor the
		// runtimes here use any of it.
		"OCI_API_REFERRER=false",
		"OCI_DATA_SUBJECT=false",
		"OCI_DATA_SUBJECT_MISSING=false",
		"OCI_DATA_SUBJECT_LIST=false",
		"OCI_DATA_SHA512=false",
		"OCI_DATA_NONDISTRIBUTABLE=false",
	)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, ": FAIL") || strings.Contains(line, ": Error") {
			t.Error(strings.TrimSpace(line))
		}
	}
	t.Errorf("the suite ended with %v; its report is kept with -artifacts", err)
}
