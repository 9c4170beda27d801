//go:build !linux

package watchdog

import (
	"context"
	"errors"
)

// Orphans become children of the system's first process.
func adoptOrphans() error { return errors.ErrUnsupported }

func buryOrphans(context.Context) {}
