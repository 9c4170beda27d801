//go:build unix && !linux

package local

import "github.com/graphene-faas/graphene/internal/fault"

func processes() (map[int]processInfo, error) {
	return nil, fault.Unsupported.Errorf("processes are not measured on this system")
}

// killMarked does nothing: other processes' environments cannot be read here.
func killMarked(string) {}

func proportional(int) (int64, bool) { return 0, false }
