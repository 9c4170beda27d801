package serve

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gofrs/flock"

	"github.com/graphene-faas/graphene/internal/atomicfile"
	"github.com/graphene-faas/graphene/internal/fault"
)

// layoutVersion is what this program writes to the file VERSION. A directory
// with a higher one was written by a newer program and is refused.
const layoutVersion = 1

// A dataDir is the directory that holds everything a platform must not
// forget, locked for this process:
//
//	VERSION    the version of this layout
//	lock       held while a platform runs; names its process
//	auth/      user and password of the administrator
//	queue/     asynchronous calls and their results, as NATS stores them
//	registry/  images, as the OCI registry stores them
//	runtime/   functions, secrets, logs and unpacked images
type dataDir struct {
	path string
	lock *flock.Flock
}

// openDataDir makes path if it is missing, locks it, and checks its version.
// Errors say what to do: fault.Exists when another process holds it,
// fault.Invalid when it is not, or not any more, a directory for this program.
func openDataDir(path string) (*dataDir, error) {
	path, err := filepath.Abs(path) // replicas have working directories of their own
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if err := os.MkdirAll(path, 0o711); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	d := &dataDir{path: path, lock: flock.New(filepath.Join(path, "lock"))}
	if err := d.mustBeOurs(); err != nil {
		return nil, err // before anything is left in it
	}
	locked, err := d.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock data directory %s: %w", path, err)
	}
	if !locked {
		return nil, fault.Exists.Errorf("data directory %s is in use by another platform%s: stop it, or choose another directory with --data-dir", path, d.holder())
	}
	if err := d.settle(); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// settle checks the version and leaves this process's number in the lock.
func (d *dataDir) settle() error {
	file := filepath.Join(d.path, "VERSION")
	text, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := atomicfile.Write(file, fmt.Appendf(nil, "%d\n", layoutVersion), 0o644); err != nil {
			return fmt.Errorf("data directory: %w", err)
		}
	case err != nil:
		return fmt.Errorf("data directory: %w", err)
	default:
		version, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || version < 1 {
			return fault.Invalid.Errorf("%s says %q, want a number: the data directory is damaged, restore it from a backup or choose another with --data-dir", file, text)
		}
		if version > layoutVersion {
			return fault.Invalid.Errorf("data directory %s has layout %d and this program knows up to %d: use the newer program that wrote it", d.path, version, layoutVersion)
		}
	}
	return os.WriteFile(d.join("lock"), fmt.Appendf(nil, "%d\n", os.Getpid()), 0o600)
}

// mustBeOurs refuses a directory that has no version and holds somebody
// else's files.
func (d *dataDir) mustBeOurs() error {
	if _, err := os.Lstat(d.join("VERSION")); err == nil {
		return nil
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	for _, e := range entries {
		if name := e.Name(); name != "lock" && !strings.HasPrefix(name, ".tmp-") {
			return fault.Invalid.Errorf("%s holds %q and no VERSION, so it is not a data directory of this program: choose an empty one with --data-dir", d.path, name)
		}
	}
	return nil
}

func (d *dataDir) holder() string {
	pid, err := os.ReadFile(d.join("lock"))
	if err != nil || len(strings.TrimSpace(string(pid))) == 0 {
		return ""
	}
	return " (process " + strings.TrimSpace(string(pid)) + ")"
}

func (d *dataDir) join(name string) string { return filepath.Join(d.path, name) }

// Close gives the directory back.
func (d *dataDir) Close() error { return d.lock.Close() }
