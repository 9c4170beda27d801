package image

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/mod/modfile"

	"github.com/graphene-faas/graphene/internal/fault"
)

// vendoredProgram is the directory of the program in a module with a vendor
// directory.
const vendoredProgram = "graphene-program"

// A program is where and how to compile what was made of a Go handler.
type program struct {
	dir  string                     // to work in
	pkg  string                     // to compile
	mod  string                     // what the flag -mod is
	name func(output string) string // calls the author's files by their names
}

func isVendored(handler string) bool {
	_, err := os.Stat(filepath.Join(handler, "vendor", "modules.txt"))
	return err == nil
}

// layOutVendored makes a program of a handler that brings the packages it needs
// in a vendor directory. Go takes such a directory only from the main module
// and holds it to that module's go.mod, so the handler's module is the main
// one here, the program is a package of it, and the platform's packages are
// vendored beside the others. The network is not asked for anything.
func (b *build) layOutVendored(handler string) (*program, error) {
	name := filepath.Join(handler, "go.mod")
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fault.Invalid.Errorf("%s has a vendor directory, but no go.mod", b.Dir)
	}
	module, err := modfile.Parse(filepath.Join(b.Dir, "go.mod"), text, nil)
	if err != nil {
		return nil, fault.Invalid.Errorf("%w", err)
	}
	if module.Module == nil {
		return nil, fault.Invalid.Errorf("%s has no module directive", filepath.Join(b.Dir, "go.mod"))
	}
	requires := func(r *modfile.Require) bool { return r.Mod.Path == platformModule }
	if slices.ContainsFunc(module.Require, requires) {
		return nil, fault.Invalid.Errorf("%s requires %s, which the platform adds itself: remove it, or the vendor directory", filepath.Join(b.Dir, "go.mod"), platformModule)
	}
	if err := module.AddRequire(platformModule, "v0.0.0"); err != nil {
		return nil, err
	}
	if text, err = module.Format(); err != nil {
		return nil, err
	}
	if err := os.WriteFile(name, text, 0o644); err != nil {
		return nil, err
	}

	vendor := filepath.Join(handler, "vendor")
	if err := copyFS(filepath.Join(vendor, filepath.FromSlash(platformModule)), b.Sources, ""); err != nil {
		return nil, fmt.Errorf("write the watchdog: %w", err)
	}
	packages, err := packagesOf(b.Sources)
	if err != nil {
		return nil, err
	}
	list := filepath.Join(vendor, "modules.txt")
	text, err = os.ReadFile(list)
	if err != nil {
		return nil, err
	}
	text = fmt.Appendf(text, "# %s v0.0.0\n## explicit; go %s\n", platformModule, goVersion)
	for _, p := range packages {
		text = append(text, path.Join(platformModule, p)+"\n"...)
	}
	if err := os.WriteFile(list, text, 0o644); err != nil {
		return nil, err
	}

	if err := copyFS(filepath.Join(handler, vendoredProgram), b.Runtime, ""); err != nil {
		return nil, fmt.Errorf("write the main program: %w", err)
	}
	if err := renameImport(filepath.Join(handler, vendoredProgram), module.Module.Mod.Path); err != nil {
		return nil, err
	}
	return &program{dir: handler, pkg: "./" + vendoredProgram, mod: "vendor", name: func(output string) string {
		output = sourceName.ReplaceAllStringFunc(output, func(m string) string { return filepath.Join(b.Dir, m) })
		return strings.ReplaceAll(output, handler, filepath.Clean(b.Dir))
	}}, nil
}

// sourceName is the name of a file as the compiler begins a line with it.
var sourceName = regexp.MustCompile(`(?m)^(\./)?[\w./@+-]+\.go\b`)

// packagesOf returns the directories of sources with Go files, sorted.
func packagesOf(sources fs.FS) (packages []string, err error) {
	err = fs.WalkDir(sources, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && strings.HasSuffix(p, ".go") {
			packages = append(packages, path.Dir(p))
		}
		return err
	})
	slices.Sort(packages)
	return slices.Compact(packages), err
}
