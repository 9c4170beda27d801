//go:build unix && !linux

package local

import "github.com/graphene-faas/graphene/internal/fault"

func freeMemory() (free, total int64, err error) {
	return 0, 0, fault.Unsupported.Errorf("memory is not measured on this system")
}

func memoryPressure() float64 { return 0 }
