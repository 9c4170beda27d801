package image

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/pyenv"
)

// pytool is the program that reads handlers for this package, since only
// Python can say what is valid Python.
//
//go:embed pytool.py
var pytool string

// Files of a handler directory with a meaning to the builder.
const (
	requirements      = "requirements.txt"       // packages of the running function
	buildRequirements = "build-requirements.txt" // further packages of build.py
	buildScript       = "build.py"               // run once, at build
)

// defaultFProcess starts the runtime inside a Python image.
const defaultFProcess = "python3 -m graphene_function"

// buildPython makes the layers of a Python handler, the one that changes least
// first: dependencies, the platform's runtime, the handler. Nothing of the
// handler is run but its build.py.
func (b *build) buildPython(ctx context.Context) (v1.Image, error) {
	p, err := b.newPythonBuild(ctx)
	if err != nil {
		return nil, err
	}
	return p.run(ctx)
}

func (b *build) newPythonBuild(ctx context.Context) (*pythonBuild, error) {
	python := b.Python
	if python == "" {
		python = "python3"
	}
	interpreter, err := pyenv.Find(ctx, python)
	if err != nil {
		return nil, err
	}
	target := b.Target
	if target == (function.Target{}) {
		target = interpreter.Target
	}
	if target.Python == "" {
		return nil, fault.Invalid.Errorf("target %s names no version of Python; this machine's is %s", target, interpreter.Target)
	}
	return &pythonBuild{build: b, interpreter: interpreter, target: target, handler: filepath.Join(b.work, "function")}, nil
}

type pythonBuild struct {
	*build
	interpreter pyenv.Interpreter
	target      function.Target
	handler     string // the copy that becomes a layer
}

// built copies the handler, checks it, installs its packages and runs its
// build.py.
func (p *pythonBuild) built(ctx context.Context) (*dependencies, error) {
	p.Progress.Step("check " + p.Name)
	if err := p.copyHandler(p.handler); err != nil {
		return nil, err
	}
	if err := removeFiles(p.handler, "test_*.py", testRequirements); err != nil { // a changed test changes no image
		return nil, err
	}
	if err := p.check(ctx); err != nil {
		return nil, err
	}
	deps, err := p.shippedDeps(ctx)
	if err != nil {
		return nil, err
	}
	return deps, p.runBuildScript(ctx, deps)
}

func (p *pythonBuild) run(ctx context.Context) (v1.Image, error) {
	on, err := p.pythonBase(ctx) // before anything that takes long
	if err != nil {
		return nil, err
	}
	deps, err := p.built(ctx)
	if err != nil {
		return nil, err
	}
	p.Progress.Step("assemble " + p.Name)
	site := filepath.Join(p.work, "site")
	if p.Runtime == nil {
		return nil, fault.Invalid.Errorf("the template has no runtime for Python")
	}
	if err := copyFS(site, p.Runtime, "__pycache__"); err != nil {
		return nil, fmt.Errorf("write the runtime: %w", err)
	}
	if err := removeFiles(p.handler, buildScript, buildRequirements); err != nil {
		return nil, err
	}
	if err := errors.Join(p.compilePython(ctx, site, "python"), p.compilePython(ctx, p.handler, "function")); err != nil {
		return nil, err
	}
	layers, err := p.layersOf(ctx, []tree{{home + "/python", site}, {home + "/function", p.handler}})
	if err != nil {
		return nil, err
	}
	if deps != nil {
		first, err := asLayer(deps.layer)
		if err != nil {
			return nil, err
		}
		layers = append([]v1.Layer{first}, layers...)
	}
	return p.assemble(on, layers, p.target, []string{"fwatchdog"}, map[string]string{
		"PYTHONPATH": "python",
		"fprocess":   defaultFProcess,
		"mode":       "pool",
	})
}

// check finds what can be found wrong in the handler without running it.
func (p *pythonBuild) check(ctx context.Context) error {
	wanted := []string{"handle"}
	if p.Env["handler_style"] == "model" {
		wanted = append(wanted, "load")
	}
	out, err := p.tool(ctx, append([]string{"check", p.handler}, wanted...)...)
	if err != nil {
		return fmt.Errorf("check the handler: %w", err)
	}
	var problems []struct {
		File         string
		Line, Column int
		Message      string
	}
	if err := json.Unmarshal(out, &problems); err != nil {
		return fmt.Errorf("check the handler: %w", err)
	}
	var text []string
	for _, q := range problems {
		at := filepath.Join(p.Dir, q.File)
		if q.Line > 0 {
			at = fmt.Sprintf("%s:%d:%d", at, q.Line, q.Column)
		}
		text = append(text, at+": "+q.Message)
	}
	if len(text) > 0 {
		return fault.Invalid.Errorf("%s", strings.Join(text, "\n"))
	}
	return nil
}

// compilePython adds byte code to dir, if this machine's is the target's. Its
// only use is a faster start.
func (p *pythonBuild) compilePython(ctx context.Context, dir, prefix string) error {
	if p.target.Python != p.interpreter.Target.Python {
		return nil
	}
	if _, err := p.tool(ctx, "compile", dir, prefix); err != nil {
		return fmt.Errorf("compile Python files: %w", err)
	}
	return nil
}

// tool runs pytool.py.
func (p *pythonBuild) tool(ctx context.Context, args ...string) ([]byte, error) {
	cmd := command(ctx, p.interpreter.Path, append([]string{"-S", "-s", "-c", pytool}, args...)...)
	// -c makes the working directory the first place for imports, and the
	// handler's own modules must not stand in for the standard library's.
	empty := filepath.Join(p.work, "empty")
	if err := os.MkdirAll(empty, 0o755); err != nil {
		return nil, err
	}
	cmd.Dir = empty
	cmd.Env = append(withoutPython(cmd.Environ()), "PYTHONHASHSEED=0")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// withoutPython removes the variables that change what an interpreter does, so
// that a build depends on its options only.
func withoutPython(environ []string) []string {
	var clean []string
	for _, v := range environ {
		if !strings.HasPrefix(v, "PYTHON") {
			clean = append(clean, v)
		}
	}
	return clean
}

// runBuildScript lets build.py, if there is one, add to the handler's copy,
// such as a model it trains. What it makes is cached by everything it can
// depend on.
func (p *pythonBuild) runBuildScript(ctx context.Context, deps *dependencies) error {
	if _, err := os.Stat(filepath.Join(p.handler, buildScript)); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	deps, err := p.buildDeps(ctx, deps)
	if err != nil {
		return err
	}
	content, err := hashTree(p.handler)
	if err != nil {
		return err
	}
	key := hashOf("build.py", content, deps.name(), p.interpreter.Version, p.target.String())
	unlock, err := p.cache.lock(ctx, "built", key)
	if err != nil {
		return err
	}
	defer unlock()
	if p.NoCache || !p.cache.use("built", key) {
		p.Progress.Step("run " + buildScript + " of " + p.Name)
		if err := p.execBuildScript(ctx, deps); err != nil {
			return err
		}
		if err := p.cache.add(p.handler, "built", key, false); err != nil {
			return fmt.Errorf("keep the output of %s: %w", buildScript, err)
		}
	}
	p.handler = filepath.Join(p.work, "built")
	return os.CopyFS(p.handler, os.DirFS(p.cache.path("built", key)))
}

func (p *pythonBuild) execBuildScript(ctx context.Context, deps *dependencies) error {
	cmd := command(ctx, p.interpreter.Path, buildScript)
	cmd.Dir = p.handler
	cmd.Env = append(withoutPython(cmd.Environ()),
		"PYTHONPATH="+deps.path(),
		"PYTHONHASHSEED=0",
		"PYTHONDONTWRITEBYTECODE=1",
		"PYTHONUNBUFFERED=1",
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch.Unix()),
	)
	if err := p.runTool(ctx, cmd); err != nil {
		return fault.Invalid.Errorf("%s: %w", filepath.Join(p.Dir, buildScript), err)
	}
	return nil
}

// removeFiles removes the files in dir that match one of the patterns.
func removeFiles(dir string, patterns ...string) error {
	for _, pattern := range patterns {
		names, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}
