package graphene_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	graphene "github.com/graphene-faas/graphene"
)

func TestAGoFunctionBuildsFromTheCarriedSourcesAlone(t *testing.T) {
	dir := t.TempDir()
	carried := filepath.Join(dir, "graphene")
	if err := os.CopyFS(carried, graphene.Sources()); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("graphene/go.mod", graphene.Module())
	write("go.mod", "module handler\n\ngo 1.26.0\n\nrequire github.com/graphene-faas/graphene v0.0.0\n\nreplace github.com/graphene-faas/graphene => ./graphene\n")
	write("main.go", `package main

import (
	"io"
	"net/http"
	"os"

	"github.com/graphene-faas/graphene/watchdog"
)

func main() {
	os.Exit(watchdog.Main(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })))
}
`)
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", "handler", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
}

func TestSourcesHoldNoTests(t *testing.T) {
	err := fs.WalkDir(graphene.Sources(), ".", func(path string, _ fs.DirEntry, err error) error {
		if strings.HasSuffix(path, "_test.go") {
			t.Errorf("%s is carried", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
