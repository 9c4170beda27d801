package local

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// Images that the layers builder did not make expect a root file system of
// their own. A replica of one is a container: the watchdog, in a network and a
// process namespace of its own, has an OCI runtime run the image in it, and
// proxies to the port that functions listen on. When the watchdog ends,
// however it ends, the kernel ends everything in its process namespace.

const (
	containerPort = "8080" // where OpenFaaS's functions listen
	// containerSpare is what the watchdog and the OCI runtime beside a
	// container may use, in bytes; its limit of memory is for the container.
	containerSpare = 64 << 20

	containerNote = "its image was not made by graphene's builder, so it runs in a container of its own, which has no network but the calls it gets"
)

// container is what is particular about the process of a container.
type container struct {
	Lower  string // the image's file system
	Bundle string // the directory that the OCI runtime is given
	Config []byte // its config.json
	// Joins: everything in it becomes a member of the replica's control group
	// with its watchdog, for its OCI runtime makes no groups.
	Joins bool
}

// foreign reports whether an image was made by something else than the layers
// builder.
func foreign(c v1.Config) bool { return c.Labels[function.ImageBuilder] != "layers" }

// ociRuntime returns the path of the OCI runtime for foreign images, or why
// there can be none, with the remedy.
func (i isolation) ociRuntime() (string, error) {
	const remedy = `build it with "graphene build", or deploy it to a cluster`
	switch {
	case runtime.GOOS != "linux":
		return "", fault.Invalid.Errorf("this platform runs others only on Linux: %s", remedy)
	case !i.ownUsers || !i.mounts:
		return "", fault.Invalid.Errorf("this platform runs others only as root, in containers: start it as root, or %s", remedy)
	}
	for _, name := range []string{"runc", "crun"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fault.Invalid.Errorf("there is no OCI runtime for others in PATH: install runc or crun, or %s", remedy)
}

// runsForeign reports, as fault.Invalid with a remedy, why an image that the
// layers builder did not make cannot run here.
func (i isolation) runsForeign(ref string, c *v1.ConfigFile) error {
	if _, err := i.ociRuntime(); err != nil {
		return fault.Invalid.Errorf("image %s was not made by graphene's layers builder, and %w", ref, err)
	}
	if here := (function.Target{OS: runtime.GOOS, Arch: runtime.GOARCH}); c.OS != here.OS || c.Architecture != here.Arch {
		return fault.Invalid.Errorf("image %s is built for %s/%s, but this platform runs %s", ref, c.OS, c.Architecture, here)
	}
	return nil
}

// furnish makes the bundle.
func (c *container) furnish() error {
	for _, dir := range []string{c.Bundle, c.rootfs(), c.upper(), c.work()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	hosts := []byte("127.0.0.1 localhost function\n::1 localhost function\n")
	if err := os.WriteFile(filepath.Join(c.Bundle, "hosts"), hosts, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.Bundle, "config.json"), c.Config, 0o600)
}

func (c *container) rootfs() string { return filepath.Join(c.Bundle, "rootfs") }
func (c *container) upper() string  { return filepath.Join(c.Bundle, "scratch", "upper") }
func (c *container) work() string   { return filepath.Join(c.Bundle, "scratch", "work") }

// contain makes p, which is complete but for this, the process of a container.
func (r *replica) contain(p process, img *image, env environment) (process, error) {
	rt := r.f.rt
	oci, err := rt.isolation.ociRuntime()
	if err != nil {
		return p, err
	}
	if strings.ContainsAny(oci, " \t") {
		return p, fmt.Errorf("the OCI runtime's path %q has spaces", oci)
	}
	user, err := userOf(img.root, img.config.User)
	if err != nil {
		return p, err
	}
	if user.UID == 0 {
		user = identity{r.f.uid, r.f.uid} // functions never run as root
		env.set("HOME", "/tmp")
	}
	env.set("port", cmp.Or(env.get("port"), containerPort))
	env.set("PORT", cmp.Or(env.get("PORT"), env.get("port")))
	c := container{Lower: img.root, Bundle: filepath.Join(p.Run, "bundle"), Joins: filepath.Base(oci) == "crun"}
	spec := ociSpec{
		Args:     p.Args,
		Dir:      cmp.Or(img.config.WorkingDir, "/"),
		Env:      env.list(),
		User:     user,
		ReadOnly: r.version.Spec.ReadOnlyRootFilesystem,
		Secrets:  p.Secrets,
		Hosts:    filepath.Join(c.Bundle, "hosts"),
	}
	if !c.Joins {
		spec.Group = rt.isolation.groups.ociPath(rt.fingerprint(), shortID(r.id))
		spec.Limits = limits{memoryLimit(r.version), milliCPULimit(r.version), maxProcesses}
	}
	if c.Config, err = json.Marshal(spec.config()); err != nil {
		return p, fmt.Errorf("describe container: %w", err)
	}
	// It starts in the bundle. The control group that runc makes remains until
	// we have looked at how the container ended; crun's would not.
	run := []string{oci, "--root", "state", "run"}
	if c.Joins {
		run = []string{oci, "--cgroup-manager=disabled", "--root", "state", "run"}
	} else if rt.isolation.groups != nil {
		run = append(run, "--keep")
	}
	run = append(run, shortID(r.id))
	outer := environment{
		"PATH":         "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"mode":         "http",
		"fprocess":     strings.Join(run, " "),
		"upstream_url": "http://127.0.0.1:" + env.get("port"),
		"prefix_logs":  "false",
		"exec_timeout": env.get("exec_timeout"),
		"max_inflight": env.get("max_inflight"),
	}
	if strings.HasSuffix(p.Args[0], "watchdog") { // OpenFaaS's, which listens before its function does
		outer.set("ready_path", "/_/health")
	}
	p.Owner = user.UID
	p.Container = &c
	p.Args = append([]string{}, rt.Watchdog...)
	p.Dir = c.Bundle
	p.UID = 0
	p.Env = r.tied(outer).list()
	return p, nil
}

// ociPath is where the OCI runtime puts a container's control group: where
// ours are.
func (g *controlGroups) ociPath(fingerprint, name string) string {
	path := filepath.Join("graphene-"+fingerprint, name)
	if g == nil {
		return path
	}
	if _, ok := g.dialect.(unified); !ok {
		return path // relative to the group of the OCI runtime, in every hierarchy
	}
	for _, parent := range g.parents { // they are all the same
		path = filepath.Join(strings.TrimPrefix(parent, "/sys/fs/cgroup"), name)
	}
	return path
}

// An identity is whom a process runs as.
type identity struct {
	UID int `json:"uid"`
	GID int `json:"gid"`
}

// userOf reads the user of an image, "USER[:GROUP]" by name or number, with
// the files of the image below root. Nobody named is root.
func userOf(root, user string) (identity, error) {
	name, group, hasGroup := strings.Cut(user, ":")
	if name == "" {
		return identity{}, nil
	}
	files, err := os.OpenRoot(root)
	if err != nil {
		return identity{}, err
	}
	defer files.Close()
	var id identity
	entry := lookUp(files, "etc/passwd", name)
	if id.UID, err = strconv.Atoi(name); err != nil {
		if len(entry) < 4 {
			return identity{}, fmt.Errorf("the image's user is %q, who is not in its /etc/passwd", name)
		}
		if id.UID, err = strconv.Atoi(entry[2]); err != nil {
			return identity{}, fmt.Errorf("the image's /etc/passwd gives %q the id %q", name, entry[2])
		}
	}
	if !hasGroup {
		if len(entry) >= 4 {
			id.GID, _ = strconv.Atoi(entry[3]) // what is no number is root's, as when nothing is said
		}
		return id, nil
	}
	if id.GID, err = strconv.Atoi(group); err != nil {
		entry := lookUp(files, "etc/group", group)
		if len(entry) < 3 {
			return identity{}, fmt.Errorf("the image's group is %q, which is not in its /etc/group", group)
		}
		if id.GID, err = strconv.Atoi(entry[2]); err != nil {
			return identity{}, fmt.Errorf("the image's /etc/group gives %q the id %q", group, entry[2])
		}
	}
	return id, nil
}

// lookUp returns the fields of the line of file, as /etc/passwd has them, whose
// first or third field is name.
func lookUp(root *os.Root, file, name string) []string {
	text, err := root.ReadFile(file)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) >= 3 && (fields[0] == name || fields[2] == name) {
			return fields
		}
	}
	return nil
}

// ociSpec is what an OCI runtime is told of a container.
type ociSpec struct {
	Args     []string
	Dir      string
	Env      []string
	User     identity
	ReadOnly bool
	Secrets  string // directory to show at secretsMount
	Hosts    string // file to show at /etc/hosts
	Group    string // control group; empty: the one it is started in
	Limits   limits // of Group
}

// config is config.json, as the runtime specification defines it.
func (s ociSpec) config() any {
	type object = map[string]any
	mount := func(kind, source, destination string, options ...string) object {
		return object{"type": kind, "source": source, "destination": destination, "options": options}
	}
	mounts := []object{
		mount("proc", "proc", "/proc", "nosuid", "noexec", "nodev", "hidepid=2"),
		mount("tmpfs", "tmpfs", "/dev", "nosuid", "strictatime", "mode=755", "size=65536k"),
		mount("devpts", "devpts", "/dev/pts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
		mount("tmpfs", "shm", "/dev/shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
		mount("mqueue", "mqueue", "/dev/mqueue", "nosuid", "noexec", "nodev"),
		mount("sysfs", "sysfs", "/sys", "nosuid", "noexec", "nodev", "ro"),
		mount("bind", s.Hosts, "/etc/hosts", "bind", "ro"),
		mount("bind", s.Secrets, secretsMount, "bind", "ro", "nosuid", "nodev"),
	}
	if s.ReadOnly { // then nothing else can be written to
		mounts = append(mounts, mount("tmpfs", "tmpfs", "/tmp", "nosuid", "nodev", "mode=1777"))
	}
	resources := object{}
	if s.Limits.processes > 0 {
		resources["pids"] = object{"limit": s.Limits.processes}
	}
	if s.Limits.memory > 0 {
		resources["memory"] = object{"limit": s.Limits.memory, "swap": s.Limits.memory}
	}
	if s.Limits.cpu > 0 {
		resources["cpu"] = object{"quota": cpuQuota(s.Limits.cpu), "period": cpuPeriod}
	}
	linux := object{
		// The network namespace is the one of the watchdog. So is that of
		// processes, which the container does not see: the first process of a
		// namespace gets no signal that it does not handle, and few programs
		// handle the one that tells them to end.
		"namespaces": []object{{"type": "ipc"}, {"type": "uts"}, {"type": "mount"}},
		"maskedPaths": []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
			"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
		"readonlyPaths": []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
	}
	if s.Group != "" {
		linux["cgroupsPath"], linux["resources"] = s.Group, resources
	}
	return object{
		"ociVersion": "1.0.2",
		"process": object{
			"user":            object{"uid": s.User.UID, "gid": s.User.GID, "umask": 0o022},
			"args":            s.Args,
			"env":             s.Env,
			"cwd":             s.Dir,
			"capabilities":    object{},
			"noNewPrivileges": true,
		}, // limits of resources are inherited
		"root":     object{"path": "rootfs", "readonly": s.ReadOnly},
		"hostname": "function",
		"mounts":   mounts,
		"linux":    linux,
	}
}
