// Package pyenv finds out what a Python interpreter really is.
//
// The name "python3" may be a version manager's shim, which costs tens of
// milliseconds at every start and may mean another interpreter tomorrow.
// [Find] asks the interpreter once for its own path and for the [function.Target]
// whose packages it can import, so that images are built for it and replicas
// are started by it.
package pyenv

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

//go:embed probe.py
var probe string

// An Interpreter is one installed Python.
type Interpreter struct {
	// Path is the interpreter itself, absolute, without any shim before it.
	// That of a virtual environment stays in it: packages installed there can
	// be imported.
	Path string
	// Base is the interpreter a virtual environment was made from, or Path.
	Base string
	// Version is the whole version, such as "3.11.7".
	Version string
	// Target is what images for this interpreter must be built for.
	Target function.Target
}

// Find runs the interpreter called name, a path or a command in PATH, and
// returns what it says about itself. It takes as long as the interpreter takes
// to start. The error is fault.NotFound if there is no such program, and
// fault.Unsupported if it is not a CPython of version 3.9 or later.
func Find(ctx context.Context, name string) (Interpreter, error) {
	// Of the environment, only PYTHONPATH and its kin could change the answer;
	// -I ignores them, and keeps modules of the working directory out.
	cmd := exec.CommandContext(ctx, name, "-I", "-c", probe)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return Interpreter{}, fault.NotFound.Errorf("find Python: there is no %q in PATH; install Python 3.9 or later, or name the interpreter to use", name)
	}
	if err != nil {
		if ctx.Err() != nil {
			return Interpreter{}, fmt.Errorf("ask %s for its version: %w", name, context.Cause(ctx))
		}
		return Interpreter{}, fault.NotFound.Errorf("ask %s for its version: %w%s", name, err, lastLine(stderr.Bytes()))
	}
	return parse(name, out)
}

// parse reads what probe.py prints.
func parse(name string, out []byte) (Interpreter, error) {
	var p struct {
		Path, Base, Version, Implementation, Tag, OS, Machine, Libc string
		Old                                                         bool
	}
	if err := json.Unmarshal(out, &p); err != nil {
		return Interpreter{}, fault.Unsupported.Errorf("%s is not a Python interpreter: it answered %.80q", name, out)
	}
	if p.Implementation != "cpython" || p.Old {
		return Interpreter{}, fault.Unsupported.Errorf("%s is %s %s; functions need CPython 3.9 or later", name, p.Implementation, p.Version)
	}
	return Interpreter{
		Path:    p.Path,
		Base:    p.Base,
		Version: p.Version,
		Target:  function.Target{OS: p.OS, Arch: goArch(p.Machine), Python: p.Tag, Libc: p.Libc},
	}, nil
}

// goArch turns an architecture as Python names it into Go's name.
func goArch(machine string) string {
	switch m := strings.ToLower(machine); m {
	case "x86_64", "amd64":
		return "amd64"
	case "aarch64", "arm64":
		return "arm64"
	case "i386", "i686":
		return "386"
	case "armv6l", "armv7l":
		return "arm"
	case "":
		return runtime.GOARCH
	default:
		return m
	}
}

func lastLine(text []byte) string {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return ""
	}
	return ": " + string(text[bytes.LastIndexByte(text, '\n')+1:])
}
