//go:build unix && !linux

package local

import "github.com/graphene-faas/graphene/internal/fault"

const canFreeze = false

type frost struct{}

func freeze(int) (*frost, error) {
	return nil, fault.Unsupported.Errorf("processes are not frozen on this system")
}

func (*frost) thaw() {}

func isStopped(int) bool { return false }
