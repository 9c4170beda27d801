package serve

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/pyenv"
)

// A pythonFinder looks for the interpreter that runs Python functions, once,
// when it is first needed: starting an interpreter takes longer than starting
// the platform.
type pythonFinder struct {
	look func(ctx context.Context) (pyenv.Interpreter, error)

	mu    sync.Mutex
	found pyenv.Interpreter
}

// choosePython returns a look that takes the python3 that PATH means, which is
// also what the command line builds for. Where functions do not reach what
// only this user may, it takes the first one that anybody does.
func choosePython(reachesClosed bool) func(ctx context.Context) (pyenv.Interpreter, error) {
	candidates := []string{"python3"}
	if !reachesClosed {
		candidates = append(candidates, "/usr/local/bin/python3", "/usr/bin/python3")
	}
	return func(ctx context.Context) (pyenv.Interpreter, error) {
		var problems []error
		for _, c := range candidates {
			p, err := pyenv.Find(ctx, c)
			if err == nil && !reachesClosed {
				err = reachable(p)
			}
			if err == nil {
				return p, nil
			}
			problems = append(problems, err)
		}
		return pyenv.Interpreter{}, errors.Join(problems...)
	}
}

// find returns the interpreter's path and what images for it are built for.
func (f *pythonFinder) find(ctx context.Context) (string, function.Target, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.found.Path == "" {
		p, err := f.look(ctx)
		if err != nil {
			return "", function.Target{}, err
		}
		f.found = p
	}
	return f.found.Path, f.found.Target, nil
}

// target returns what functions must be built for here; without an
// interpreter that is the machine alone, and Python functions are refused
// when they are deployed.
func (f *pythonFinder) target(ctx context.Context) (function.Target, error) {
	if _, t, err := f.find(ctx); err == nil {
		return t, nil
	}
	return host(), nil
}

// reachable reports why not every user can start p.
func reachable(p pyenv.Interpreter) error {
	for _, file := range []string{p.Path, p.Base} {
		file, err := exec.LookPath(file)
		if err != nil {
			return fault.NotFound.Errorf("find Python: %w", err)
		}
		if file, err = filepath.EvalSymlinks(file); err != nil {
			return fault.NotFound.Errorf("find Python: %w", err)
		}
		for path := file; ; path = filepath.Dir(path) {
			info, err := os.Stat(path)
			if err != nil {
				return fault.NotFound.Errorf("find Python: %w", err)
			}
			if info.Mode().Perm()&0o001 == 0 {
				return fault.Denied.Errorf("only its owner reaches %s, through %s, and functions run as other users", file, path)
			}
			if path == filepath.Dir(path) {
				break
			}
		}
	}
	return nil
}
