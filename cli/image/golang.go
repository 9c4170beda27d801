package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/mod/modfile"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

const (
	// handlerModule is how main.go imports the handler, and the name of a
	// handler's module that has no go.mod.
	handlerModule = "handler/function"
	// platformModule holds the watchdog that a function links.
	platformModule = "github.com/graphene-faas/graphene"
	// goVersion is the language of modules written here.
	goVersion = "1.26"
)

// buildGo builds a Go handler: a module is put together around it, so that the
// handler's own stays as it is, and compiled to one static binary.
//
//	work/go.mod, main.go   the program, from the template
//	work/function/         a copy of the handler's module
//	work/graphene/         the platform's packages, from Options.Sources
//
// One that brings what it needs is laid out by [build.layOutVendored].
func (b *build) buildGo(ctx context.Context) (v1.Image, error) {
	b.Progress.Step("compile " + b.Name)
	target := function.Target{OS: b.Target.OS, Arch: b.Target.Arch}
	if target.OS == "" {
		target = function.Target{OS: runtime.GOOS, Arch: runtime.GOARCH}
	}
	on, err := b.goBase(ctx, target)
	if err != nil {
		return nil, err
	}
	module := filepath.Join(b.work, "module")
	program, err := b.layOutModule(module)
	if err != nil {
		return nil, err
	}
	out := filepath.Join(b.work, "out")
	if err := b.compile(ctx, program, filepath.Join(out, "handler"), target); err != nil {
		return nil, err
	}

	b.Progress.Step("assemble " + b.Name)
	assets := filepath.Join(b.work, "assets")
	found, err := copyAssets(assets, filepath.Join(module, "function"))
	if err != nil {
		return nil, err
	}
	trees := []tree{{home, out}}
	if found {
		trees = append(trees, tree{home, assets})
	}
	layers, err := b.layersOf(ctx, trees)
	if err != nil {
		return nil, err
	}
	return b.assemble(on, layers, target, []string{"./handler"}, map[string]string{})
}

// goBase returns what a Go function is put on; nil is nothing. It needs no
// watchdog of its own, but certificate authorities and /tmp.
func (b *build) goBase(ctx context.Context, target function.Target) (*base, error) {
	if b.WatchdogImage == "" {
		return nil, nil
	}
	dog, err := b.base(ctx, b.WatchdogImage, target)
	if err != nil {
		return nil, err
	}
	return dog.withoutProgram()
}

// layersOf makes one layer of each tree.
func (b *build) layersOf(ctx context.Context, trees []tree) ([]v1.Layer, error) {
	var layers []v1.Layer
	for _, t := range trees {
		file, err := b.cache.layer(ctx, t)
		if err != nil {
			return nil, err
		}
		layer, err := asLayer(file)
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	return layers, nil
}

func (b *build) layOutModule(module string) (*program, error) {
	handler := filepath.Join(module, "function")
	if err := b.copyHandler(handler); err != nil {
		return nil, err
	}
	if b.Runtime == nil || b.Sources == nil {
		return nil, fault.Invalid.Errorf("the template has no main program for Go")
	}
	if err := b.checkGoHandler(handler); err != nil {
		return nil, err
	}
	if isVendored(handler) {
		return b.layOutVendored(handler)
	}
	if err := newModule(handler, handlerModule); err != nil {
		return nil, err
	}
	if err := copyFS(module, b.Runtime, ""); err != nil {
		return nil, fmt.Errorf("write the main program: %w", err)
	}
	platform := filepath.Join(module, "graphene")
	if err := copyFS(platform, b.Sources, ""); err != nil {
		return nil, fmt.Errorf("write the watchdog: %w", err)
	}
	if err := newModule(platform, platformModule); err != nil {
		return nil, err
	}
	if err := b.writeMainModule(module, handler); err != nil {
		return nil, err
	}
	return &program{dir: module, pkg: ".", mod: "mod", name: func(output string) string {
		return handlerPath.ReplaceAllStringFunc(output, func(m string) string {
			prefix := strings.TrimSuffix(strings.TrimSuffix(m, "function/"), "./")
			return prefix + filepath.Clean(b.Dir) + string(filepath.Separator)
		})
	}}, nil
}

// newModule writes a go.mod into dir unless it has one.
func newModule(dir, module string) error {
	name := filepath.Join(dir, "go.mod")
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	return os.WriteFile(name, []byte("module "+module+"\n\ngo "+goVersion+"\n"), 0o644)
}

func (b *build) checkGoHandler(handler string) error {
	files, err := filepath.Glob(filepath.Join(handler, "*.go"))
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	if len(files) == 0 {
		return fault.Invalid.Errorf("%s has no Go files; a Go handler is func Handle(w http.ResponseWriter, r *http.Request) in package function", b.Dir)
	}
	return nil
}

// writeMainModule writes the go.mod of the program. Go reads the directives
// replace and exclude, and checksums, only from the main module, so the
// handler's are repeated there.
func (b *build) writeMainModule(module, handler string) error {
	name := filepath.Join(handler, "go.mod")
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	theirs, err := modfile.Parse(filepath.Join(b.Dir, "go.mod"), text, nil)
	if err != nil {
		return fault.Invalid.Errorf("%w", err)
	}
	if theirs.Module == nil {
		return fault.Invalid.Errorf("%s has no module directive", filepath.Join(b.Dir, "go.mod"))
	}
	path := theirs.Module.Mod.Path

	ours := new(modfile.File)
	err = errors.Join(
		ours.AddModuleStmt("handler"),
		ours.AddGoStmt(goVersion),
		ours.AddRequire(path, "v0.0.0"),
		ours.AddReplace(path, "", "./function", ""),
		ours.AddRequire(platformModule, "v0.0.0"),
		ours.AddReplace(platformModule, "", "./graphene", ""),
	)
	for i, r := range theirs.Replace {
		if r.Old.Path == platformModule {
			continue
		}
		to := r.New.Path
		if modfile.IsDirectoryPath(to) {
			// The path of the link, unlike that of the directory, is the same
			// on every machine; it is recorded in the binary.
			to = fmt.Sprintf("./replaced%d", i)
			err = errors.Join(err, linkTo(filepath.Join(module, to), b.Dir, r.New.Path))
		}
		err = errors.Join(err, ours.AddReplace(r.Old.Path, r.Old.Version, to, r.New.Version))
	}
	for _, x := range theirs.Exclude {
		err = errors.Join(err, ours.AddExclude(x.Mod.Path, x.Mod.Version))
	}
	if err != nil {
		return fmt.Errorf("write go.mod: %w", err)
	}
	ours.SortBlocks()
	text, err = ours.Format()
	if err != nil {
		return fmt.Errorf("write go.mod: %w", err)
	}
	if err := os.WriteFile(filepath.Join(module, "go.mod"), text, 0o644); err != nil {
		return err
	}
	if err := copyFile(filepath.Join(module, "go.sum"), filepath.Join(handler, "go.sum")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return renameImport(module, path)
}

// linkTo makes a link to target, a path relative to dir unless absolute.
func linkTo(link, dir, target string) error {
	if !filepath.IsAbs(target) {
		target = filepath.Join(dir, target)
	}
	target, err := filepath.Abs(target)
	if err != nil {
		return err
	}
	return os.Symlink(target, link)
}

// renameImport makes the program import a handler whose module has a name of
// its own.
func renameImport(module, path string) error {
	if path == handlerModule {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(module, "*.go"))
	if err != nil {
		return err
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		text = bytes.ReplaceAll(text, []byte(strconv.Quote(handlerModule)), []byte(strconv.Quote(path)))
		if err := os.WriteFile(name, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// compile builds the program. Flags and environment make the binary depend on
// nothing but its sources, the target and the version of Go.
func (b *build) compile(ctx context.Context, p *program, out string, target function.Target) error {
	cmd := command(ctx, "go", "build", "-mod="+p.mod, "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", out, p.pkg)
	cmd.Dir = p.dir
	cmd.Env = append(cmd.Environ(), "GOOS="+target.OS, "GOARCH="+target.Arch, "CGO_ENABLED=0", "GO111MODULE=on", "GOWORK=off")
	output, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fault.NotFound.Errorf("there is no Go compiler in PATH: install Go %s or later from https://go.dev/dl", goVersion)
	}
	if err == nil {
		_, _ = b.Output.Write(output) // such as "go: downloading …"
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fault.Invalid.Errorf("%s", compilerText(string(output), b.Dir, p.name))
}

var (
	handlerPath = regexp.MustCompile(`(?m)(^|[\s(])(?:\./)?function/`)
	// otherPackage is how the compiler sees a handler that is in a package of
	// another name.
	otherPackage = regexp.MustCompile(`"handler/function" imported as \w+ and not used|import "handler/function" is a program`)
	noise        = regexp.MustCompile(`(?m)^(# .*|go: downloading .*|go: finding .*)\n`)
)

// compilerText turns the go command's words into the author's terms: files by
// their names, and nothing about the program around the handler.
func compilerText(output, dir string, name func(string) string) string {
	text := strings.TrimSpace(name(noise.ReplaceAllString(output, "")))
	if strings.Contains(text, "function.Handle") || otherPackage.MatchString(text) {
		return fmt.Sprintf("%s must define func Handle(w http.ResponseWriter, r *http.Request) in package function\n%s", dir, text)
	}
	return text
}

// copyAssets copies what a handler may open while it runs to dst: whatever is
// neither source nor its module's bookkeeping. It reports whether there is
// anything.
func copyAssets(dst, handler string) (bool, error) {
	found := false
	err := filepath.WalkDir(handler, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(handler, p)
		if err != nil {
			return err
		}
		switch name := d.Name(); {
		case d.IsDir() && (rel == "vendor" || name == "testdata"):
			return filepath.SkipDir
		case d.IsDir(), strings.HasSuffix(name, ".go"), rel == "go.mod", rel == "go.sum", rel == "README.md":
			return nil
		case rel == "handler":
			return fault.Invalid.Errorf("the file %s has the name of the program made from the handler; rename it", rel)
		case !d.Type().IsRegular():
			return nil
		}
		found = true
		return copyFile(filepath.Join(dst, rel), p)
	})
	return found, err
}
