package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	graphene "github.com/graphene-faas/graphene"
	"github.com/graphene-faas/graphene/templates"
)

// TestEveryTemplateBuilds makes an image of each template's sample function,
// with the sources that the command line carries.
func TestEveryTemplateBuilds(t *testing.T) {
	for _, tmpl := range templates.List() {
		t.Run(tmpl.Name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "sample")
			if err := templates.Scaffold(tmpl, "sample", dir); err != nil {
				t.Fatal(err)
			}
			img := mustBuild(t, Options{
				Name: "sample", Kind: Kind(tmpl.Kind), Language: tmpl.Name, Dir: dir,
				Runtime: tmpl.Runtime, Sources: graphene.Sources(), Env: tmpl.Config.Env,
				// Samples that have requirements name packages of this index, or none.
				CacheDir: t.TempDir(), Output: t.Output(),
			})
			layers := contents(t, img)
			if tmpl.Kind != templates.Go {
				return
			}
			// The binary is there, runs, and is the watchdog: it refuses what it cannot use.
			handler := filepath.Join(t.TempDir(), "handler")
			if err := os.WriteFile(handler, []byte(layers[0]["home/app/handler"]), 0o755); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), handler)
			cmd.Env = []string{"port=no-number"}
			out, err := cmd.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "port") {
				t.Errorf("with a bad port it ended with %v and said %q", err, out)
			}
		})
	}
}
