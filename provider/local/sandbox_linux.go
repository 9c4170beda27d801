package local

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

const (
	// probeArgument asks the helper to try what the machine allows; files
	// to enter control groups by may follow.
	probeArgument = "probe"
	// What it can find.
	canMounts, canOverlay, canUsers, canGroups = "mounts", "overlay", "users", "groups"
)

// ReplicaMain is the helper behind [Options].Helper: it fences its own process
// in and becomes the replica's. The last of args says how, as the runtime
// wrote it; environ is the replica's. It returns only if that fails, with the
// exit status. It must be the first thing a program does, for it changes the
// whole process.
func ReplicaMain(args, environ []string, stderr io.Writer) int {
	runtime.LockOSThread() // some attributes belong to the thread that calls exec
	if len(args) > 0 && args[0] == probeArgument {
		probe(args[1:], stderr)
		return 0
	}
	err := becomeReplica(args, environ)
	fmt.Fprintf(stderr, "graphene: start replica: %v\n", err)
	return 126 // what shells return for a command that cannot be executed
}

func becomeReplica(args, environ []string) error {
	if len(args) != 1 {
		return fmt.Errorf("want one argument, got %d", len(args))
	}
	var c confinement
	if err := json.Unmarshal([]byte(args[0]), &c); err != nil {
		return fmt.Errorf("read what to start: %w", err)
	}
	program, err := c.program(environ)
	if err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		run  func() error
	}{
		{"enter control groups", c.enter}, // while it may, and finds them
		{"limit resources", c.limit},
		{"prepare container", c.contain},
		{"mount", c.mount},
		{"restrict file access", c.restrict},
		{"change user", c.changeUser},
		{"give up privileges", c.giveUpPrivileges},
		{"follow the platform", followParent},
		{"enter directory", func() error { return os.Chdir(c.Dir) }},
	} {
		if err := step.run(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return fmt.Errorf("execute %s: %w", program, syscall.Exec(program, c.Args, environ))
}

// program returns the path to execute.
func (c confinement) program(environ []string) (string, error) {
	name := c.Args[0]
	if strings.Contains(name, "/") {
		return name, nil
	}
	path := newEnvironment(environ).get("PATH")
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%w: %q in %s", exec.ErrNotFound, name, path)
}

const maxOpenFiles = 65536

func (c confinement) enter() error {
	for _, file := range c.Groups {
		if err := writeControl(filepath.Dir(file), filepath.Base(file), "0"); err != nil {
			return err
		}
	}
	return nil
}

func (c confinement) limit() error {
	if c.Container == nil {
		syscall.Umask(0o077)
	} else {
		syscall.Umask(0o022) // directories that the OCI runtime makes are for the function
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	files.Max = min(files.Max, maxOpenFiles)
	files.Cur = files.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		return err
	}
	if c.UID == 0 {
		return nil // the limit would count what else this user runs
	}
	return unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: maxProcesses, Max: maxProcesses})
}

func (c confinement) changeUser() error {
	if c.UID == 0 {
		return nil
	}
	if err := syscall.Setgroups(nil); err != nil {
		return err
	}
	if err := syscall.Setresgid(c.UID, c.UID, c.UID); err != nil {
		return err
	}
	return syscall.Setresuid(c.UID, c.UID, c.UID)
}

// giveUpPrivileges makes this thread, which will call exec, one that has no
// capabilities after that and cannot get any. The watchdog of a container
// keeps them for the OCI runtime.
func (c confinement) giveUpPrivileges() error {
	if c.Container != nil {
		return nil
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// followParent asks the kernel again to tell this process when the platform
// ends: a change of user makes it forget.
func followParent() error {
	return unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(whenWeDie), 0, 0, 0)
}

// restrict lets the process read and execute the system and what is its own,
// write to what is its own, and reach no other file. Nor can it signal
// processes outside, on kernels that know how to forbid that.
func (c confinement) restrict() error {
	if c.Landlock == 0 || c.Container != nil { // the OCI runtime restricts its container
		return nil
	}
	read := []string{"/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/proc", "/sys", "/dev/fd",
		"/run/systemd/resolve", "/run/resolvconf", "/nix/store", "/gnu/store"}
	write := []string{c.Home, c.Temp, c.Sockets}
	if c.Mounts {
		write = append(write, "/tmp", "/dev/shm")
	}
	var rules []landlock.Rule
	for _, path := range append(read, c.Readable...) {
		rules = append(rules, readable(path))
	}
	rules = append(rules,
		landlock.RODirs(c.Secrets),
		landlock.RWFiles("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty").IgnoreIfMissing(),
	)
	writable := landlock.RWDirs(write...)
	if c.Landlock >= 2 { // before that, asking for it would mean no restriction at all
		writable = writable.WithRefer()
	}
	rules = append(rules, writable)
	if err := landlock.V11.BestEffort().RestrictPaths(rules...); err != nil {
		return err
	}
	return landlock.V11.BestEffort().RestrictScoped()
}

func readable(path string) landlock.Rule {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		return landlock.ROFiles(path)
	}
	return landlock.RODirs(path).IgnoreIfMissing()
}

// mount makes the process's view of the file system, in the mount namespace
// that it was born in: /tmp and /dev/shm are its own, its secrets are where
// OpenFaaS has them, and what it needs can be reached though it lies below a
// directory that its user may not enter.
func (c confinement) mount() error {
	if !c.Mounts || c.Container != nil {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	readable := append([]string{c.Secrets}, c.Readable...)
	needed, err := hold(append(readable, c.Home, c.Temp, c.Sockets))
	if err != nil {
		return err
	}
	defer needed.release()

	overlaid := c.showSecrets(needed)
	covers := []cover{{path: "/tmp", source: needed.path(c.Temp)}, {path: "/dev/shm"}}
	if c.UID != 0 {
		covers = append(covers, closedTo(c.UID, needed)...)
	}
	hidden, err := putOn(covers)
	if err != nil {
		return err
	}
	if overlaid {
		hidden = append(hidden, "/var")
	}
	if err := needed.showBelow(hidden); err != nil {
		return err
	}
	// What lies below /tmp could be written to with /tmp, as far as Landlock
	// is concerned. An old kernel, which cannot do this, leaves it to modes.
	for _, path := range readable {
		if slices.ContainsFunc(hidden, func(dir string) bool { return below(path, dir) }) {
			_ = unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		}
	}
	return nil
}

// contain makes the namespaces that this process was born in fit for the OCI
// runtime of a container: with the container's root file system, which is a
// layer to write to on top of the image, with a /proc that shows the processes
// there are, and with a loopback interface.
func (c confinement) contain() error {
	if c.Container == nil {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if c.Container.Joins {
		// Such an OCI runtime makes no groups, but refuses machines that have
		// both versions of them. On others there is nothing to unmount.
		_ = unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH)
	}
	if err := c.Container.mountRoot(); err != nil {
		return fmt.Errorf("mount root file system: %w", err)
	}
	if err := loopback(); err != nil {
		return fmt.Errorf("start loopback interface: %w", err)
	}
	return nil
}

func (c *container) mountRoot() error {
	if strings.ContainsAny(c.Lower+c.Bundle, ":,\\") {
		return fmt.Errorf("the kernel would misread %s", c.Lower)
	}
	mount := func() error {
		return unix.Mount("overlay", c.rootfs(), "overlay", unix.MS_NODEV,
			fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", c.Lower, c.upper(), c.work()))
	}
	err := mount()
	if err == nil {
		return nil
	}
	// Not every file system can be the upper layer; memory can.
	if unix.Mount("tmpfs", filepath.Dir(c.upper()), "tmpfs", unix.MS_NODEV, "mode=755") != nil {
		return err
	}
	for _, dir := range []string{c.upper(), c.work()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	return mount()
}

func loopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, request)
}

// showSecrets makes the secrets appear at secretsMount and reports whether it
// had to cover /var for that. Where it cannot, $SECRETS_DIR is still there.
func (c confinement) showSecrets(needed held) (overlaid bool) {
	if _, err := os.Stat(secretsMount); errors.Is(err, fs.ErrNotExist) {
		// A directory that the machine does not have is laid over /var, which
		// changes nothing outside this namespace. Other file systems mounted
		// below /var would be gone, so none of them may be needed.
		if !c.Overlay || !needed.oneFileSystem("/var") || overlay(filepath.Join(c.Run, "var"), "/var", secretsMount) != nil {
			return false
		}
		overlaid = true
	}
	// Without this mount the directory is empty, or the machine's.
	_ = unix.Mount(needed.path(c.Secrets), secretsMount, "", unix.MS_BIND, "")
	return overlaid
}

// oneFileSystem reports whether the held files below dir are in dir's own file
// system.
func (h held) oneFileSystem(dir string) bool {
	var info unix.Stat_t
	if unix.Stat(dir, &info) != nil {
		return false
	}
	device := info.Dev
	for path, fd := range h {
		if below(path, dir) && (unix.Fstat(fd, &info) != nil || info.Dev != device) {
			return false
		}
	}
	return true
}

// overlay makes target look as if it had the directory mountpoint, by means of
// a scratch directory, which is made if it is missing.
func overlay(scratch, target, mountpoint string) error {
	inner, err := filepath.Rel(target, mountpoint)
	if err != nil {
		return err
	}
	if strings.ContainsAny(scratch, ":,\\") {
		return fmt.Errorf("the kernel would misread %s", scratch)
	}
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	// In memory, because a layer must not lie within another one, and scratch
	// may lie within target.
	if err := unix.Mount("tmpfs", scratch, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=1m"); err != nil {
		return err
	}
	if err := makePassable(filepath.Join(scratch, inner)); err != nil {
		return err
	}
	return unix.Mount("overlay", target, "overlay", unix.MS_NOSUID|unix.MS_NODEV, "lowerdir="+scratch+":"+target)
}

// held are files that stay reachable by descriptor when their paths are not.
type held map[string]int

func hold(paths []string) (held, error) {
	h := held{}
	for _, path := range paths {
		if _, known := h[path]; known {
			continue
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			h.release()
			return nil, fmt.Errorf("open %s: %w", path, err)
		}
		h[path] = fd
	}
	return h, nil
}

// path returns a path at which the held file is found whatever is mounted over
// its own.
func (h held) path(path string) string { return fmt.Sprintf("/proc/self/fd/%d", h[path]) }

func (h held) release() {
	for _, fd := range h {
		unix.Close(fd)
	}
}

// showBelow makes the held files that lie below hidden directories visible at
// their paths again.
func (h held) showBelow(hidden []string) error {
	paths := slices.SortedFunc(maps.Keys(h), func(a, b string) int { return cmp.Compare(len(a), len(b)) })
	var shown []string
	for _, path := range paths {
		if !slices.ContainsFunc(hidden, func(dir string) bool { return below(path, dir) }) ||
			slices.ContainsFunc(shown, func(dir string) bool { return below(path, dir) }) {
			continue
		}
		if err := h.show(path); err != nil {
			return fmt.Errorf("show %s: %w", path, err)
		}
		shown = append(shown, path)
	}
	return nil
}

func (h held) show(path string) error {
	var info unix.Stat_t
	if err := unix.Fstat(h[path], &info); err != nil {
		return err
	}
	if info.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := makePassable(path); err != nil {
			return err
		}
	} else {
		if err := makePassable(filepath.Dir(path)); err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return err
		}
		f.Close() // nothing was written
	}
	return unix.Mount(h.path(path), path, "", unix.MS_BIND|unix.MS_REC, "")
}

// makePassable makes dir and what is missing above it, so that any user can
// pass through.
func makePassable(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := makePassable(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // whatever the mask of this process
}

// below reports whether path is dir or lies in it.
func below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

// A cover is a mount that hides a directory: with another one, or, if source
// is empty, with an empty one in memory.
type cover struct{ path, source string }

// closedTo returns covers for the outermost directories that uid may not pass
// through on the way to held files.
func closedTo(uid int, h held) []cover {
	var covers []cover
	for path := range h {
		dir := "/"
		for name := range strings.SplitSeq(strings.Trim(filepath.Dir(path), "/"), "/") {
			dir = filepath.Join(dir, name)
			var info unix.Stat_t
			if unix.Stat(dir, &info) != nil {
				break
			}
			if info.Mode&0o001 == 0 && info.Uid != uint32(uid) {
				covers = append(covers, cover{path: dir})
				break
			}
		}
	}
	return covers
}

// putOn mounts covers, outermost first, and returns the directories they
// hide. One that lies in another is covered by that.
func putOn(covers []cover) (hidden []string, err error) {
	slices.SortStableFunc(covers, func(a, b cover) int { return cmp.Compare(len(a.path), len(b.path)) })
	for _, c := range covers {
		if slices.ContainsFunc(hidden, func(dir string) bool { return below(c.path, dir) }) {
			continue
		}
		if _, err := os.Stat(c.path); err != nil {
			continue // nothing to hide
		}
		if c.source != "" {
			err = unix.Mount(c.source, c.path, "", unix.MS_BIND, "")
		} else {
			mode := "mode=755"
			if c.path == "/dev/shm" {
				mode = "mode=1777"
			}
			err = unix.Mount("tmpfs", c.path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, mode)
		}
		if err != nil {
			return nil, fmt.Errorf("cover %s: %w", c.path, err)
		}
		hidden = append(hidden, c.path)
	}
	return hidden, nil
}

// probe tries what a replica's helper does, as far as that can fail for want of
// permission, and says what worked. Without a mount namespace of its own it
// mounts nothing.
func probe(groups []string, out io.Writer) {
	if c := (confinement{Groups: groups}); len(groups) > 0 && c.enter() == nil {
		fmt.Fprintln(out, canGroups)
	}
	ours, err := os.Readlink("/proc/self/ns/mnt")
	parents, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", os.Getppid()))
	if err == nil && err2 == nil && ours != parents && probeMounts() == nil {
		fmt.Fprintln(out, canMounts)
		if overlay("/tmp/scratch", "/var", secretsMount) == nil {
			fmt.Fprintln(out, canOverlay)
		}
	}
	user := confinement{process: process{UID: firstUID}}
	if user.changeUser() == nil {
		fmt.Fprintln(out, canUsers)
	}
}

func probeMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("tmpfs", "/tmp", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755")
}
