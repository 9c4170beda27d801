package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// fakeTool makes PATH hold a container tool that writes down how it is called
// and what is in the build context, and saves a prepared image.
func fakeTool(t *testing.T, tool string) (calls string) {
	t.Helper()
	dir := t.TempDir()
	img, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag("graphene-build/fn:latest")
	if err != nil {
		t.Fatal(err)
	}
	if err := tarball.WriteToFile(filepath.Join(dir, "prepared.tar"), tag, img); err != nil {
		t.Fatal(err)
	}
	script := `#!/bin/sh
here=` + dir + `
echo "$@" >> $here/calls
case "$1" in
build)
	for context; do :; done
	if [ -e "$context/fail" ]; then echo "step 3 failed" >&2; exit 1; fi
	(cd "$context" && /usr/bin/find . -type f | /usr/bin/sort) > $here/context ;;
save) /bin/cp $here/prepared.tar "$3" ;;
push) /bin/cp $here/prepared.tar "${3#docker-archive:}" ;;
esac
`
	if err := os.WriteFile(filepath.Join(dir, tool), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	return dir
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func dockerOptions(t *testing.T, files map[string]string) Options {
	return Options{Name: "fn", Kind: Dockerfile, Language: "node20", Dir: write(t, files), CacheDir: t.TempDir(), Output: t.Output()}
}

func TestDockerfileIsBuiltByWhateverIsInstalled(t *testing.T) {
	for _, tool := range containerTools {
		t.Run(tool, func(t *testing.T) {
			o := dockerOptions(t, map[string]string{"handler.js": "x", ".git/config": "x"})
			o.Runtime = fstest.MapFS{"Dockerfile": {}, "index.js": {}, "function/sample.js": {}}
			o.HandlerFolder = "function"
			o.BuildArgs = map[string]string{"B": "2", "A": "1"}
			o.Target = function.Target{OS: "linux", Arch: "amd64", Python: "cp311", Libc: "glibc"}
			dir := fakeTool(t, tool)
			img := mustBuild(t, o)
			if _, err := Inspect(img); err != nil {
				t.Error(err)
			}
			want := "./Dockerfile\n./function/handler.js\n./function/sample.js\n./index.js\n"
			if diff := cmp.Diff(want, read(t, dir, "context")); diff != "" {
				t.Errorf("build context (-want +got)\n%s", diff)
			}
			call, _, _ := strings.Cut(read(t, dir, "calls"), "\n")
			wantCall := "build --tag graphene-build/fn:latest --platform linux/amd64 --build-arg A=1 --build-arg B=2 " +
				"--label com.graphene.builder=docker --label com.graphene.lang=node20 --label com.graphene.target=linux/amd64 "
			if !strings.HasPrefix(call, wantCall) {
				t.Errorf("called with %q, want %q and the context", call, wantCall)
			}
		})
	}
}

func TestHandlerWithItsOwnDockerfileIsTheContext(t *testing.T) {
	o := dockerOptions(t, map[string]string{"Dockerfile": "FROM scratch", "main.c": "x"})
	o.NoCache = true
	dir := fakeTool(t, "docker")
	mustBuild(t, o)
	if got := read(t, dir, "context"); got != "./Dockerfile\n./main.c\n" {
		t.Errorf("build context %q", got)
	}
	if !strings.Contains(read(t, dir, "calls"), " --no-cache ") {
		t.Error("the tool may use its cache although nobody else may")
	}
}

func TestDockerfileProblemsAreSaid(t *testing.T) {
	t.Run("no tool", func(t *testing.T) {
		t.Setenv("PATH", t.TempDir())
		refused(t, dockerOptions(t, map[string]string{"Dockerfile": "x"}), fault.NotFound, "docker, podman, nerdctl, buildah")
	})
	t.Run("no Dockerfile", func(t *testing.T) {
		fakeTool(t, "docker")
		refused(t, dockerOptions(t, map[string]string{"main.c": "x"}), fault.Invalid, "there is no Dockerfile")
	})
	t.Run("a build that fails", func(t *testing.T) {
		fakeTool(t, "docker")
		refused(t, dockerOptions(t, map[string]string{"Dockerfile": "x", "fail": "x"}), fault.Invalid, "docker build: exit status 1", "step 3 failed")
	})
	t.Run("a handler folder outside", func(t *testing.T) {
		fakeTool(t, "docker")
		o := dockerOptions(t, map[string]string{"Dockerfile": "x"})
		o.Runtime, o.HandlerFolder = fstest.MapFS{"Dockerfile": {}}, "../x"
		refused(t, o, fault.Invalid, "leaves the build context")
	})
}
