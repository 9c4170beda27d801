package local

import (
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	landlock "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"github.com/graphene-faas/graphene/internal/proc"
)

// detectIsolation finds out what the kernel, and whoever configured it, allow.
// Capabilities, security modules and sysctls all have a say, so the only way
// to know is to try.
func detectIsolation(o Options) isolation {
	if len(o.Helper) == 0 {
		return isolation{}
	}
	i := isolation{helper: true}
	if version, err := landlock.LandlockGetABIVersion(); err == nil {
		i.landlock = version
	}
	root := os.Geteuid() == 0
	// Who is not root needs a user namespace to mount anything.
	fenced := isolation{mounts: true, userNamespace: !root}
	groups := findControlGroups("/proc/self", "graphene-"+o.fingerprint())
	probe := groups.probe()
	can, ok := tryHelper(o.Helper, fenced.attributes(false), probe)
	if !ok {
		if can, ok = tryHelper(o.Helper, nil, probe); !ok {
			o.Log.Warn("the helper that fences replicas in cannot be started", "helper", o.Helper[0])
		}
	}
	if err := probe.remove(); err != nil {
		o.Log.Warn("control group cannot be removed", "err", err)
	}
	if strings.Contains(can, canGroups) {
		i.groups = groups
	} else {
		groups.close()
	}
	i.ownUsers = root && strings.Contains(can, canUsers)
	i.mounts = strings.Contains(can, canMounts)
	i.userNamespace = i.mounts && fenced.userNamespace
	i.overlay = strings.Contains(can, canOverlay)
	return i
}

// attributes are what the helper's process needs to be born with; container
// says whether it becomes the process of one.
func (i isolation) attributes(container bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{}
	if i.mounts {
		attr.Cloneflags |= syscall.CLONE_NEWNS
	}
	if container {
		attr.Cloneflags |= syscall.CLONE_NEWPID | syscall.CLONE_NEWNET
	}
	if i.userNamespace {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		// Inside it this user is itself and not root, and keeps the right to
		// mount across exec only this way. The helper gives it up.
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN}
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// helperPatience is far more than the helper needs to find out what it can:
// a machine that is only busy must not fence functions in less.
const helperPatience = time.Minute

// tryHelper starts the helper to try what replicas would do, and returns what
// it says it can, and whether it ran at all.
func tryHelper(helper []string, attr *syscall.SysProcAttr, group *controlGroup) (can string, ok bool) {
	var said strings.Builder
	child, err := proc.Start(proc.Command{
		Args:   slices.Concat(helper, []string{probeArgument}, group.entrances()),
		Env:    []string{},
		Attr:   attr,
		Stderr: func(line []byte) { said.Write(line); said.WriteByte('\n') },
	})
	if err != nil {
		return "", false
	}
	hung := time.AfterFunc(helperPatience, func() { _ = child.Kill() })
	defer hung.Stop()
	err = child.Wait()
	return said.String(), err == nil
}
