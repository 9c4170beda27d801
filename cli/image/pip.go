package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// dependencies are installed packages.
type dependencies struct {
	key   string
	dir   string
	layer *layerFile // nil if they are not shipped
}

// path returns the directory to import from, name what to call the packages in
// a cache's key. Both are empty for no packages.
func (d *dependencies) path() string {
	if d == nil {
		return ""
	}
	return d.dir
}

func (d *dependencies) name() string {
	if d == nil {
		return ""
	}
	return d.key
}

// shippedDeps installs what requirements.txt asks for, for the target. It
// returns nil if that is nothing.
func (p *pythonBuild) shippedDeps(ctx context.Context) (*dependencies, error) {
	return p.install(ctx, p.target, true, requirements)
}

// buildDeps returns the packages that build.py may import, which must run on
// this machine: the shipped ones if they do and are all it needs.
func (p *pythonBuild) buildDeps(ctx context.Context, shipped *dependencies) (*dependencies, error) {
	extra, err := p.asked(buildRequirements)
	if err != nil {
		return nil, err
	}
	if len(extra) == 0 && p.target == p.interpreter.Target {
		return shipped, nil
	}
	return p.install(ctx, p.interpreter.Target, false, requirements, buildRequirements)
}

// install runs pip for those of the files that ask for something, in one go so
// that versions agree, or finds what an earlier run installed. It makes a layer
// of packages that are shipped.
func (p *pythonBuild) install(ctx context.Context, target function.Target, shipped bool, files ...string) (*dependencies, error) {
	var asked []string
	key := []string{"pip", fmt.Sprint(shipped), target.String(), strings.Join(p.PipArgs, "\x00")}
	cached := !p.NoCache
	for _, name := range files {
		lines, err := p.asked(name)
		if err != nil {
			return nil, err
		}
		if len(lines) == 0 {
			continue
		}
		asked = append(asked, name)
		key = append(key, name)
		key = append(key, lines...)
		cached = cached && !slices.ContainsFunc(lines, changing)
	}
	if len(asked) == 0 {
		return nil, nil
	}
	version, err := p.pipVersion(ctx)
	if err != nil {
		return nil, err
	}
	d := &dependencies{key: hashOf(append(key, version)...)}
	entry := p.cache.path("deps", d.key)
	d.dir = filepath.Join(entry, "root")

	unlock, err := p.cache.lock(ctx, "deps", d.key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if cached && p.cache.use("deps", d.key) {
		d.layer = p.cache.loadLayer(filepath.Join(entry, "layer.json"))
		if d.layer != nil || !shipped {
			return d, nil
		}
	}
	p.Progress.Step("install packages of " + p.Name)
	tmp := filepath.Join(p.work, "deps-"+d.key)
	root := filepath.Join(tmp, "root")
	if err := p.pip(ctx, root, target, asked); err != nil {
		return nil, err
	}
	if shipped {
		if d.layer, err = p.depsLayer(ctx, root); err != nil {
			return nil, err
		}
		if err := saveLayer(filepath.Join(tmp, "layer.json"), d.layer); err != nil {
			return nil, err
		}
	}
	if err := p.cache.add(tmp, "deps", d.key, false); err != nil {
		return nil, fmt.Errorf("keep installed packages: %w", err)
	}
	return d, nil
}

// depsLayer archives installed packages, after removing what pip records about
// this machine.
func (p *pythonBuild) depsLayer(ctx context.Context, root string) (*layerFile, error) {
	if err := tidySite(root); err != nil {
		return nil, fmt.Errorf("tidy installed packages: %w", err)
	}
	if err := p.compilePython(ctx, root, "python"); err != nil {
		return nil, err
	}
	return p.cache.layer(ctx, tree{home + "/python", root})
}

// asked returns the lines of a requirements file in the handler directory that
// ask for something, and of the files it includes.
func (p *pythonBuild) asked(name string) ([]string, error) {
	if _, err := os.Stat(filepath.Join(p.handler, name)); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	lines, err := requirementLines(p.handler, name, 0)
	if err != nil {
		return nil, fault.Invalid.Errorf("read %s: %w", filepath.Join(p.Dir, name), err)
	}
	return lines, nil
}

// maxIncludes bounds how deep requirements files include each other: a file
// may include itself.
const maxIncludes = 10

func requirementLines(dir, name string, depth int) ([]string, error) {
	if depth > maxIncludes {
		return nil, fmt.Errorf("%s: files include each other too deeply", name)
	}
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, " #")
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		lines = append(lines, line)
		if included, ok := inclusion(line); ok {
			more, err := requirementLines(dir, filepath.Join(filepath.Dir(name), included), depth+1)
			if cause, ok := errors.AsType[*fs.PathError](err); ok {
				return nil, fmt.Errorf("%s: %w", included, cause.Err)
			}
			if err != nil {
				return nil, err
			}
			lines = append(lines, more...)
		}
	}
	return lines, nil
}

// inclusion returns the file that a line of a requirements file includes.
func inclusion(line string) (string, bool) {
	for _, option := range []string{"--requirement", "--constraint", "-r", "-c"} {
		rest, ok := strings.CutPrefix(line, option)
		if !ok || strings.HasPrefix(option, "--") && !strings.HasPrefix(rest, " ") && !strings.HasPrefix(rest, "=") {
			continue
		}
		file := strings.TrimLeft(rest, " =\t")
		return file, file != "" && !strings.Contains(file, "://")
	}
	return "", false
}

// changing reports whether what the requirement installs may change although
// the line stays the same: a directory, or a revision control system's head.
func changing(line string) bool {
	if _, ok := inclusion(line); ok {
		return false
	}
	return strings.HasPrefix(line, "-e") || strings.HasPrefix(line, "--editable") || strings.HasPrefix(line, ".") ||
		strings.HasPrefix(line, "/") || strings.Contains(line, "git+") || strings.Contains(line, "file:") || strings.Contains(line, "@ .")
}

// pipVersion asks for the version of pip. Starting pip itself would take five
// times as long as this does.
func (p *pythonBuild) pipVersion(ctx context.Context) (string, error) {
	cmd := command(ctx, p.interpreter.Path, "-c", "import importlib.metadata; print(importlib.metadata.version('pip'))")
	cmd.Dir = p.work
	cmd.Env = withoutPython(cmd.Environ())
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		return "", fault.NotFound.Errorf("%s has no pip, which installs the packages of %s: run \"%s -m ensurepip\", or install the package python3-pip", p.interpreter.Path, requirements, p.interpreter.Path)
	}
	return strings.TrimSpace(string(out)), nil
}

// pip installs what the files ask for into root, from the handler directory,
// to which paths in the files are relative.
func (p *pythonBuild) pip(ctx context.Context, root string, target function.Target, files []string) error {
	args := []string{
		"-m", "pip", "install", "--target", root,
		"--no-compile", "--no-input", "--disable-pip-version-check", "--no-warn-script-location", "--progress-bar=off",
	}
	if target != p.interpreter.Target {
		args = append(args, crossArgs(target)...)
	}
	args = append(args, p.PipArgs...)
	var shown []string
	for _, name := range files {
		args = append(args, "-r", name)
		shown = append(shown, filepath.Join(p.Dir, name))
	}
	cmd := command(ctx, p.interpreter.Path, args...)
	cmd.Dir = p.handler
	cmd.Env = append(withoutPython(cmd.Environ()), "PYTHONHASHSEED=0", "PIP_ROOT_USER_ACTION=ignore", "PIP_USER=0")
	if err := p.runTool(ctx, cmd); err != nil {
		return fault.Invalid.Errorf("install %s for %s: %w", strings.Join(shown, " and "), target, err)
	}
	return os.MkdirAll(root, 0o755) // pip makes nothing if all was excluded by markers
}

// crossArgs tell pip to choose wheels for another kind of machine. Packages
// without a wheel for it cannot be installed from here.
func crossArgs(t function.Target) []string {
	version := strings.TrimPrefix(t.Python, "cp") // 311, 313t
	digits := strings.TrimRight(version, "abcdefghijklmnopqrstuvwxyz")
	args := []string{"--only-binary=:all:", "--implementation=cp", "--abi=cp" + version, "--abi=abi3", "--abi=none"}
	if len(digits) > 1 {
		args = append(args, "--python-version="+digits[:1]+"."+digits[1:])
	}
	for _, platform := range platforms(t) {
		args = append(args, "--platform="+platform)
	}
	return args
}

// oldestWheels and newestWheels bound the versions of glibc whose wheels a
// target takes: every Linux distribution of today has the newer one.
const (
	oldestWheels = 5
	newestWheels = 28
)

// platforms returns the platform tags of wheels that the target takes, the
// best first.
func platforms(t function.Target) []string {
	machine, ok := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "arm": "armv7l"}[t.Arch]
	if !ok {
		machine = t.Arch
	}
	switch {
	case t.OS == "darwin" && t.Arch == "arm64":
		return []string{"macosx_12_0_arm64", "macosx_12_0_universal2"}
	case t.OS == "darwin":
		return []string{"macosx_12_0_" + machine, "macosx_12_0_universal2"}
	case t.Libc == "musl":
		return []string{"musllinux_1_2_" + machine, "musllinux_1_1_" + machine, "linux_" + machine}
	}
	var all []string
	for minor := newestWheels; minor >= oldestWheels; minor-- {
		all = append(all, fmt.Sprintf("manylinux_2_%d_%s", minor, machine))
	}
	return append(all, "manylinux2014_"+machine, "manylinux2010_"+machine, "manylinux1_"+machine, "linux_"+machine)
}

// tidySite removes from installed packages what depends on where they were
// installed, so that the same packages are the same bytes: command-line
// scripts, which begin with the interpreter's path, the origin of local
// packages, and what the packages' records say about both.
func tidySite(root string) error {
	scripts, err := filepath.Glob(filepath.Join(root, "bin", "*"))
	if err != nil {
		return err
	}
	for _, name := range scripts {
		if isScript(name) {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	_ = os.Remove(filepath.Join(root, "bin")) // succeeds only if nothing is left in it
	if err := removeFiles(root, "*.dist-info/direct_url.json"); err != nil {
		return err
	}
	records, err := filepath.Glob(filepath.Join(root, "*.dist-info", "RECORD"))
	if err != nil {
		return err
	}
	for _, name := range records {
		if err := tidyRecord(name); err != nil {
			return err
		}
	}
	return nil
}

// tidyRecord removes the lines of what tidySite removes.
func tidyRecord(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var kept strings.Builder
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "../../bin/") && !strings.Contains(line, ".dist-info/direct_url.json,") {
			kept.WriteString(line)
		}
	}
	return os.WriteFile(name, []byte(kept.String()), 0o644)
}

func isScript(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	var start [2]byte
	_, err = io.ReadFull(f, start[:])
	return err == nil && string(start[:]) == "#!"
}

// hashOf returns one name for all the parts.
func hashOf(parts ...string) string {
	sum := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(sum, "%d:%s,", len(part), part)
	}
	return hex.EncodeToString(sum.Sum(nil))[:40]
}
