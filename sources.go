// Package graphene carries the sources of this module that a Go function is
// built with, so that building one downloads nothing of Graphene itself.
//
// [Sources] holds the packages watchdog and internal/proc at their own paths.
// Together with a go.mod of the text that [Module] returns, they are a module
// that a function's go.mod can replace github.com/graphene-faas/graphene with.
// Neither package imports anything but the standard library and the other.
package graphene

import (
	"embed"
	"io/fs"
	"slices"
	"strings"
)

//go:embed go.mod
var modFile string

//go:embed watchdog/*.go internal/proc/*.go
var files embed.FS

// Sources returns the source files, without tests.
func Sources() fs.FS { return untested{files} }

// Module returns the go.mod that belongs to [Sources]: this module's name and
// Go version, and no requirements.
func Module() string {
	var kept []string
	for line := range strings.Lines(modFile) {
		if strings.HasPrefix(line, "module ") || strings.HasPrefix(line, "go ") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// untested hides test files, which go:embed has no pattern to leave out.
type untested struct{ embed.FS }

func isTest(name string) bool { return strings.HasSuffix(name, "_test.go") }

func (u untested) Open(name string) (fs.File, error) {
	if isTest(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return u.FS.Open(name)
}

func (u untested) ReadFile(name string) ([]byte, error) {
	if isTest(name) {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return u.FS.ReadFile(name)
}

func (u untested) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := u.FS.ReadDir(name)
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return isTest(e.Name()) }), err
}
