//go:build unix && !linux

package local

import (
	"fmt"
	"io"
	"syscall"
)

// detectIsolation returns none: this system has nothing like it that a process
// can put on itself.
func detectIsolation(Options) isolation { return isolation{} }

func (isolation) attributes(bool) *syscall.SysProcAttr { return nil }

// ReplicaMain is the helper of systems that have one. This one has not.
func ReplicaMain(_, _ []string, stderr io.Writer) int {
	fmt.Fprintln(stderr, "graphene: start replica: replicas need no helper on this system")
	return 1
}
