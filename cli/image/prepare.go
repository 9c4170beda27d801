package image

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/graphene-faas/graphene/internal/fault"
)

// testRequirements are further packages of a Python handler's tests. They are
// no part of its image.
const testRequirements = "test-requirements.txt"

// A Workplace is a copy of a handler in which its code can be run as it would
// be in its image. It is gone when the function that was given it returns.
type Workplace struct {
	// Dir is the copy. Beside it are links to what is beside the original, so
	// that tests find ../data.
	Dir string
	// Original is what output should say instead of Dir: Options.Dir.
	Original string
	// Python is the interpreter; PythonPath has the packages that the handler
	// requires and graphene_function. Both are empty for Go.
	Python     string
	PythonPath string
}

// Prepare does what [Build] does before it makes layers, on this machine and
// for it, and calls use with the result: packages are installed and build.py
// is run, or what earlier builds made is used. Handlers of the kind Dockerfile
// are fault.Unsupported. Other errors are those of Build, and of use.
func Prepare(ctx context.Context, o Options, use func(context.Context, Workplace) error) error {
	if o.Progress == nil {
		o.Progress = silent{}
	}
	if o.Output == nil {
		o.Output = new(bytes.Buffer)
	}
	b, err := newBuild(o)
	if err != nil {
		return err
	}
	defer b.close()
	w := Workplace{Dir: filepath.Join(b.work, "workplace", filepath.Base(o.Dir)), Original: o.Dir}
	if err := b.linkSiblings(filepath.Dir(w.Dir)); err != nil {
		return fmt.Errorf("prepare %s: %w", o.Name, err)
	}
	switch o.Kind {
	case Go:
		err = b.prepareGo(w)
	case Python:
		err = b.preparePython(ctx, &w)
	default:
		err = fault.Unsupported.Errorf("only handlers in Go and Python can be tested without their image")
	}
	if err != nil {
		return fmt.Errorf("prepare %s: %w", o.Name, err)
	}
	return use(ctx, w)
}

// linkSiblings makes dir, with links to what is beside the handler.
func (b *build) linkSiblings(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	handler, err := filepath.Abs(b.Dir)
	if err != nil {
		return err
	}
	parent := filepath.Dir(handler)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return fault.Invalid.Errorf("there is no handler directory %s", b.Dir)
	}
	for _, e := range entries {
		if e.Name() == filepath.Base(handler) {
			continue
		}
		if err := os.Symlink(filepath.Join(parent, e.Name()), filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (b *build) prepareGo(w Workplace) error {
	if err := b.copyHandler(w.Dir); err != nil {
		return err
	}
	return b.checkGoHandler(w.Dir)
}

func (b *build) preparePython(ctx context.Context, w *Workplace) error {
	p, err := b.newPythonBuild(ctx)
	if err != nil {
		return err
	}
	if p.target != p.interpreter.Target {
		return fault.Invalid.Errorf("target %s is not this machine's, %s", p.target, p.interpreter.Target)
	}
	if err := p.copyHandler(w.Dir); err != nil {
		return err
	}
	deps, err := p.built(ctx)
	if err != nil {
		return err
	}
	// What build.py has made, without what the builder takes away for it.
	if err := copyTree(w.Dir, p.handler, nil); err != nil {
		return err
	}
	p.handler = w.Dir // where requirements files are read
	tools, err := p.asked(testRequirements)
	if err != nil {
		return err
	}
	if len(tools) > 0 {
		if deps, err = p.install(ctx, p.target, false, requirements, testRequirements); err != nil {
			return err
		}
	}
	site := filepath.Join(p.work, "site")
	if p.Runtime == nil {
		return fault.Invalid.Errorf("the template has no runtime for Python")
	}
	if err := copyFS(site, p.Runtime, "__pycache__"); err != nil {
		return fmt.Errorf("write the runtime: %w", err)
	}
	w.Python, w.PythonPath = p.interpreter.Path, site
	if dir := deps.path(); dir != "" {
		w.PythonPath += string(filepath.ListSeparator) + dir
	}
	return nil
}
