package local

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/proc"
)

// isolation is what this machine lets us put between replicas and everything
// else. It is found out once, by trying.
type isolation struct {
	helper   bool // replicas start through the helper
	ownUsers bool // every function has a user of its own
	// Replicas get a mount namespace: /tmp and /dev/shm of their own.
	mounts bool
	// The namespace comes with a user namespace, which needs no privileges.
	userNamespace bool
	// Secrets can be shown at /var/openfaas/secrets though the machine has no
	// such directory.
	overlay  bool
	landlock int // version; 0: the kernel has none
	// The kernel limits what replicas use. Nil: it does not let us.
	groups *controlGroups
}

// Probe says in one line how far replicas that start through helper, as in
// [Options], would be fenced in on this machine. It leaves nothing changed.
func Probe(helper []string) string {
	i := detectIsolation(Options{Helper: helper, Log: slog.New(slog.DiscardHandler)})
	i.groups.close()
	return i.String()
}

// String says in one line what is in effect and what is open.
func (i isolation) String() string {
	if !i.helper {
		return "none: replicas run as this user and may do what it may"
	}
	var in, open []string
	say := func(is bool, yes, no string) {
		if is {
			in = append(in, yes)
		} else if no != "" {
			open = append(open, no)
		}
	}
	say(i.ownUsers, "a user of its own for each function", "functions share this user, and can connect to each other's sockets")
	say(i.landlock > 0, fmt.Sprintf("Landlock %d", i.landlock), "the kernel has no Landlock, so functions read what their user may read")
	say(i.mounts, "private /tmp and /dev/shm", "functions write to $TMPDIR and not to /tmp")
	say(i.overlay, "/var/openfaas/secrets", "secrets are in $SECRETS_DIR and not in /var/openfaas/secrets")
	say(true, "no new privileges", "")
	if oci, err := i.ociRuntime(); err == nil {
		in = append(in, "containers by "+filepath.Base(oci)+" for images of other builders")
	}
	if i.groups != nil {
		in = append(in, "control groups ("+i.groups.String()+")")
	} else {
		open = append(open, "no control group is writable, so limits of memory are checked twice a second, and limits of CPU are only a hint to the function")
	}
	text := strings.Join(in, ", ")
	if len(open) > 0 {
		text += "; open: " + strings.Join(open, ", ")
	}
	return text
}

// reachesClosed reports whether directories that only this process's user may
// enter are no obstacle: functions run as that user, or are shown what they
// need below them.
func (i isolation) reachesClosed() bool { return !i.ownUsers || i.mounts }

// check reports, as fault.Invalid, why functions could not reach what they
// need. Where they have users of their own and no view of the file system of
// their own, others must be able to pass through to it.
func (i isolation) check(paths ...string) error {
	if i.reachesClosed() {
		return nil
	}
	for _, path := range paths {
		for dir := path; ; dir = filepath.Dir(dir) {
			info, err := os.Stat(dir)
			if err != nil {
				return fmt.Errorf("look whether functions reach %s: %w", path, err)
			}
			if info.Mode()&0o001 == 0 {
				return fault.Invalid.Errorf("functions run as users of their own and cannot reach %s, because only its owner may pass through %s: choose another place, or allow it with \"chmod o+x\"", path, dir)
			}
			if dir == filepath.Dir(dir) {
				break
			}
		}
	}
	return nil
}

// command returns how to start p, through helper if there is one.
func (i isolation) command(helper []string, p process, group *controlGroup) (proc.Command, error) {
	if !i.helper {
		return proc.Command{Args: p.Args, Dir: p.Dir, Env: p.Env}, nil
	}
	entrances := group.entrances()
	if p.Container != nil && !p.Container.Joins {
		entrances = nil // the OCI runtime enters, with the container
	}
	text, err := json.Marshal(confinement{process: p, Groups: entrances, Mounts: i.mounts, Overlay: i.overlay, Landlock: i.landlock})
	if err != nil {
		return proc.Command{}, fmt.Errorf("describe replica to its helper: %w", err)
	}
	return proc.Command{
		Args: append(append([]string{}, helper...), string(text)),
		Dir:  "/",
		Env:  p.Env,
		Attr: i.attributes(p.Container != nil),
	}, nil
}

// A confinement is what the helper is told.
type confinement struct {
	process
	Groups   []string // files to write to, to become a member of control groups
	Mounts   bool
	Overlay  bool
	Landlock int
}
