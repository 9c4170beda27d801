// Package atomicfile puts files where they belong as a whole or not at all,
// also when the machine stops in between: a reader, and whoever starts after a
// loss of power, finds what was there before or what was written, never a part
// of it. It is for small files that matter, such as keys, logins and what is
// deployed.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// Write replaces the file at path, or makes it, in a directory that exists. Its
// mode is perm whatever the umask says and the old file had, from the first
// byte on. A symbolic link stays, and the file that it leads to is replaced,
// because some people keep such files among others and link to them; a link
// to nothing is replaced itself.
//
// After an error the old file is as it was and nothing else is left behind,
// unless it was the last step that failed: then the new file is in place, and
// only a loss of power might bring the old one back.
func Write(path string, data []byte, perm fs.FileMode) error {
	switch real, err := filepath.EvalSymlinks(path); {
	case err == nil:
		path = real
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	tmp, err := temporary(filepath.Dir(path), data, perm)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return SyncDir(filepath.Dir(path))
}

// Create is like [Write] where there is no file yet. Where there is one, or a
// link, it is left alone and the error is [fs.ErrExist]: of several who create the same
// file exactly one succeeds.
func Create(path string, data []byte, perm fs.FileMode) error {
	tmp, err := temporary(filepath.Dir(path), data, perm)
	if err != nil {
		return err
	}
	// Unlike a rename, a link never replaces what another process wrote.
	if err := errors.Join(os.Link(tmp, path), os.Remove(tmp)); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// temporary writes a file with a name of its own in dir, down to the disk, and
// returns its path. After an error there is none.
func temporary(dir string, data []byte, perm fs.FileMode) (path string, err error) {
	tmp, err := os.CreateTemp(dir, ".tmp-*") // made with mode 0600
	if err != nil {
		return "", err
	}
	_, err = tmp.Write(data)
	if err = errors.Join(err, tmp.Chmod(perm), tmp.Sync(), tmp.Close()); err != nil {
		return "", errors.Join(err, os.Remove(tmp.Name()))
	}
	return tmp.Name(), nil
}

// SyncDir makes the names in a directory survive a loss of power: those that
// were made, renamed and removed. File systems that have no such thing, as
// some on a network, are trusted to keep names by themselves.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, d.Close())
}
