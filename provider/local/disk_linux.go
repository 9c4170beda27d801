package local

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// syncTree makes everything in the file system that holds dir survive a loss
// of power. One call for many files costs far less than one call for each.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}
