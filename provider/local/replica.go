package local

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/proc"
)

// whenWeDie is what the kernel sends to replicas when this process is no more:
// one that is frozen must go on to see the end of its lifeline.
const whenWeDie = syscall.SIGCONT

const (
	socketName    = "s"
	maxSocketPath = 104 // the shortest of the limits of the systems we run on

	// Beyond its own timeouts a replica gets this long to notice and say so.
	patience = 2 * time.Second

	// maxProcesses bounds the processes and threads of one function on this
	// machine, so that one that forks without end does not take it down.
	maxProcesses = 4096

	// secretsMount is where OpenFaaS's functions expect their secrets.
	secretsMount = "/var/openfaas/secrets"
)

// A replica is one process of a function, from before its start until all of
// it is gone.
type replica struct {
	f       *supervisor
	version version
	id      string
	socket  string
	bounded bool // the deployment says how many calls at once
	forks   bool // it may be a pool, which can do without its workers
	tail    tail // of what it printed

	stop  chan time.Duration // how long the process may take to end; holds one
	after chan struct{}      // closed when it should end soon, but not at once

	thawed chan struct{} // says that it is not kept any more; holds one

	made time.Time

	// Guarded by f.mu.
	slots     int              // calls at once, as far as is known; 0 is unlimited
	listening bool             // there is a process
	startup   function.Startup // until there was
	ready     bool
	readyAt   time.Time // when it was for the first time
	leaving   bool      // it gets no more requests
	load      int       // calls it was answering when plan was last asked
	tier      function.Tier
	keeping   *keeping      // not nil while the replica is out of service but not leaving
	waking    bool          // it was kept, and has not been ready since
	hot       chan struct{} // closed when it is not kept any more; nil if it never was
	keeps     int           // how often it has been kept

	mu      sync.Mutex // guards what follows
	child   *proc.Child
	line    *os.File // the writing end of its lifeline
	owner   int      // of its files
	group   *controlGroup
	killed  string // why the platform has killed it
	ooms    int    // processes that the kernel has killed for want of memory
	oomAt   time.Time
	started time.Time
	sampled sample
}

func newReplica(f *supervisor, v version) *replica {
	id := newReplicaID(f.ref)
	return &replica{
		f:       f,
		version: v,
		id:      id,
		made:    time.Now(),
		socket:  filepath.Join(f.rt.SocketDir, shortID(id), socketName),
		stop:    make(chan time.Duration, 1),
		after:   make(chan struct{}),
		thawed:  make(chan struct{}, 1),
	}
}

// newReplicaID returns a name that begins with the function's, so that people
// recognize it in logs, and ends like no other.
func newReplicaID(ref function.Ref) string {
	return ref.Name + "-" + strings.ToLower(rand.Text()[:8])
}

// shortID returns the part of an id that makes it unique.
func shortID(id string) string { return id[strings.LastIndexByte(id, '-')+1:] }

// drain takes the replica out of service; it finishes what it is doing. f.mu
// is held.
func (r *replica) drain() {
	if !r.leaving {
		r.leaving = true
		r.warm()
		close(r.after)
	}
}

// end ends the replica within grace. f.mu is held.
func (r *replica) end(grace time.Duration) {
	r.leaving = true
	r.warm()
	select {
	case r.stop <- grace:
	default: // it has been told
	}
}

// run is the life of the replica. It does not end with ctx, but when it is told
// to, or by itself.
func (r *replica) run(ctx context.Context) {
	reason := ""
	err := r.live(ctx)
	if err != nil {
		reason = err.Error()
	}
	killMarked(r.f.rt.marker(r.id))
	if err := r.controlGroup().remove(); err != nil {
		r.f.rt.Log.Warn("control group of a replica remains", "function", r.f.ref, "instance", r.id, "err", err)
	}
	for _, dir := range []string{r.dir(), filepath.Dir(r.socket)} {
		if err := os.RemoveAll(dir); err != nil {
			r.f.rt.Log.Warn("directory of a replica remains", "function", r.f.ref, "instance", r.id, "err", err)
		}
	}
	r.f.ended(r, reason)
	if !slices.Contains(r.f.digests(), r.version.Digest) {
		r.f.rt.sweepImages() // it may have been the last to use its own
	}
}

// live starts the process and returns when it has ended; the error says why,
// for the function's owner, unless it was asked to end.
func (r *replica) live(ctx context.Context) error {
	settings, err := r.start(ctx)
	if err != nil {
		return err
	}
	probing, stopProbing := context.WithCancel(ctx)
	var probe sync.WaitGroup
	probe.Go(func() { r.probe(probing) })
	defer probe.Wait()
	defer stopProbing()
	r.f.listens(r)

	load := time.NewTimer(settings.LoadTimeout.Std() + patience)
	defer load.Stop()
	for {
		select {
		case <-r.child.Done():
			return r.explain(r.child.Wait())
		case grace := <-r.stop:
			_ = r.child.Stop(grace) // however it ended, it was to end
			return nil
		case <-r.after:
			r.leave(settings.ExecTimeout.Std() + patience)
			return nil
		case <-load.C:
			if r.wasReady() {
				continue
			}
			r.kill(fmt.Sprintf("was not ready within %s", settings.LoadTimeout))
		}
	}
}

// leave ends the process once gateways have had the time to notice that they
// should send it nothing more.
func (r *replica) leave(grace time.Duration) {
	settle := time.NewTimer(r.f.rt.Settle)
	defer settle.Stop()
	select {
	case <-settle.C:
	case <-r.child.Done():
	case grace = <-r.stop:
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = r.child.Stop(grace)
	}()
	select {
	case <-stopped:
	case shorter := <-r.stop: // the platform ends and cannot wait
		_ = r.child.Stop(shorter)
		<-stopped
	}
}

func (r *replica) wasReady() bool {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	return !r.readyAt.IsZero()
}

// kill ends the process at once, for a reason that is not its own.
func (r *replica) kill(reason string) {
	r.mu.Lock()
	child := r.child
	if r.killed == "" {
		r.killed = reason
	}
	r.mu.Unlock()
	if child != nil {
		_ = child.Signal(syscall.SIGKILL) // an error means that it has ended already
	}
}

// explain says why the process has ended.
func (r *replica) explain(err error) error {
	r.mu.Lock()
	how := r.killed
	r.mu.Unlock()
	if how == "" && r.ranOut(time.Now()) {
		how = fmt.Sprintf("killed by the kernel: it needed more memory than it had, and its limit is %s", r.version.Spec.Limits.Memory)
	} else if how == "" {
		how = "exited with status 0"
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			how = exit.String()
			if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Exited() {
				how = fmt.Sprintf("exited with status %d", status.ExitStatus())
			}
		} else if err != nil {
			how = err.Error()
		}
	}
	if !r.wasReady() {
		how += " before it was ready"
	}
	if last := r.tail.String(); last != "" {
		how += ": " + last
	}
	return errors.New(how)
}

func (r *replica) dir() string { return filepath.Join(r.f.rt.join("run"), shortID(r.id)) }

// start makes the replica's directories and its process.
func (r *replica) start(ctx context.Context) (function.Settings, error) {
	rt := r.f.rt
	img, err := rt.images.open(r.version.Digest)
	if err != nil {
		return function.Settings{}, err
	}
	settings, err := r.version.settings(img)
	if err != nil {
		return settings, err
	}
	p, err := r.plan(ctx, img, settings)
	if err != nil {
		return settings, err
	}
	if err := r.furnish(p); err != nil {
		return settings, storage(fmt.Errorf("prepare replica: %w", err))
	}

	// The writing end is for commands to a pool, and ends when we do.
	lifeline, ours, err := os.Pipe()
	if err != nil {
		return settings, fmt.Errorf("start replica: %w", err)
	}
	defer lifeline.Close()
	group, err := r.confine(p)
	if err != nil {
		// Without the kernel, limits of memory are still watched over.
		rt.Log.Warn("the kernel does not limit a replica", "function", r.f.ref, "instance", r.id, "err", err)
	}
	command, err := rt.isolation.command(rt.Helper, p, group)
	if err != nil {
		return settings, errors.Join(err, ours.Close())
	}
	command.Files = []*os.File{lifeline}
	command.OnParentDeath = whenWeDie
	command.Stdout = r.printed
	command.Stderr = r.printed
	child, err := proc.Start(command)
	if err != nil {
		return settings, errors.Join(fmt.Errorf("start replica: %w", err), ours.Close())
	}
	r.mu.Lock()
	r.child, r.line, r.started = child, ours, time.Now()
	r.mu.Unlock()
	go func() { // ends with the process, which live waits for
		<-child.Done()
		ours.Close()
	}()
	return settings, nil
}

// confine makes the control group of the replica, if it needs one: moving a
// process into one takes milliseconds. It returns nil if it does not, or if
// there is an error.
func (r *replica) confine(p process) (*controlGroup, error) {
	groups := r.f.rt.isolation.groups
	l := limits{memory: memoryLimit(r.version), cpu: milliCPULimit(r.version)}
	if p.UID == 0 || p.Container != nil || l != (limits{}) { // a user of its own has this limit anyway
		l.processes = maxProcesses
	}
	if groups == nil || l == (limits{}) {
		return nil, nil
	}
	create := groups.make
	if c := p.Container; c != nil && !c.Joins {
		create = groups.ofContainer
	} else if c != nil && l.memory > 0 {
		l.memory += containerSpare
	}
	group, err := create(shortID(r.id), l)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.group = group
	r.mu.Unlock()
	return group, nil
}

// process returns the replica's process, or nil if there is none yet.
func (r *replica) process() *proc.Child {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.child
}

// gone reports whether the replica had a process that has ended.
func (r *replica) gone() bool {
	child := r.process()
	if child == nil {
		return false
	}
	select {
	case <-child.Done():
		return true
	default:
		return false
	}
}

// Commands to a pool, on its lifeline.
const (
	endWorkers   byte = 'r' // and keep the zygote
	startWorkers byte = 'w'
)

// headerResting is a header of a watchdog's answer to /_/ready: it has ended
// its workers because it was told to.
const headerResting = "X-Resting"

// tell sends a command to the replica. One that does not know it ignores it.
func (r *replica) tell(command byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.line.Write([]byte{command}) // fails when the replica has ended
}

func (r *replica) controlGroup() *controlGroup {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.group
}

// A process is what a replica's process consists of, once it is decided.
type process struct {
	Args []string // the program and its arguments
	Dir  string   // working directory
	Env  []string
	UID  int // user and group to run as; 0: ours
	// Owner of its directories and secrets, if that is somebody else.
	Owner     int
	Container *container // nil: it is not the process of one

	Run      string // the replica's directory, with the three below in it
	Home     string
	Temp     string
	Secrets  string
	Sockets  string   // directory of its socket
	Readable []string // what else it may read and execute
}

// plan decides what the process consists of.
func (r *replica) plan(ctx context.Context, img *image, settings function.Settings) (process, error) {
	rt, spec := r.f.rt, r.version.Spec
	run := r.dir()
	p := process{
		Args:     append([]string{}, img.config.Entrypoint...),
		Dir:      filepath.Join(img.root, "home", "app"),
		Run:      run,
		Home:     filepath.Join(run, "home"),
		Temp:     filepath.Join(run, "tmp"),
		Secrets:  filepath.Join(run, "secrets"),
		Sockets:  filepath.Dir(r.socket),
		Readable: []string{img.root},
	}
	p.Args = append(p.Args, img.config.Cmd...)
	if len(p.Args) == 0 {
		return p, fmt.Errorf("image %s has no entry point", spec.Image)
	}
	if rt.isolation.ownUsers {
		p.UID = r.f.uid
	}

	env := newEnvironment(img.config.Env)
	if env.get("PATH") == "" {
		env.set("PATH", "/usr/local/bin:/usr/bin:/bin")
	}
	for name, value := range spec.EnvVars {
		env.set(name, value)
	}
	if spec.EnvProcess != "" {
		env.set("fprocess", spec.EnvProcess)
	}
	if p.Args[0] == "fwatchdog" && !img.foreign {
		p.Args = append(append([]string{}, rt.Watchdog...), p.Args[1:]...)
		p.Readable = append(p.Readable, p.Args[0])
	}
	if img.target.Python != "" {
		r.forks = true
		python, err := rt.python(ctx)
		if err != nil {
			return p, err
		}
		env.useInterpreter(python.exe)
		p.Readable = append(p.Readable, prefixes(python.exe)...)
	}
	if !img.foreign { // a container has all ports for itself
		if err := env.assignPort(); err != nil {
			return p, err
		}
	}
	r.bounded = settings.MaxInflight > 0
	settings.Workers, r.slots = capacity(settings, r.version, img)
	if cpus := cpuLimit(r.version); cpus > 0 && env.get("GOMAXPROCS") == "" {
		env.set("GOMAXPROCS", fmt.Sprint(cpus))
	}
	for _, kv := range settings.Environ() {
		name, value, _ := strings.Cut(kv, "=")
		env.set(name, value)
	}
	// What ties the replica to the platform comes last: nobody overrides it.
	env.set("OPENFAAS_NAME", r.f.ref.Name)
	env.set("OPENFAAS_NAMESPACE", r.f.ref.Namespace)
	env.set(markerName, rt.mark(r.id))
	if img.foreign {
		env.set("SECRETS_DIR", secretsMount)
		return r.contain(p, img, env)
	}
	env.set("HOME", p.Home)
	env.set("TMPDIR", p.Temp)
	env.set("SECRETS_DIR", p.Secrets)
	p.Env = r.tied(env).list()
	return p, nil
}

// tied adds to env what ties a watchdog to the platform.
func (r *replica) tied(env environment) environment {
	env.set("listen", "unix:"+r.socket)
	env.set("listen_peer_uid", fmt.Sprint(os.Getuid()))
	env.set("lifeline_fd", "3")
	env.set(markerName, r.f.rt.mark(r.id))
	return env
}

// owner is the user that the directories of the process belong to; 0: ours.
func (p process) owner() int { return cmp.Or(p.Owner, p.UID) }

// furnish makes the replica's directories.
func (r *replica) furnish(p process) error {
	// Others may pass through to what is theirs, and nothing more.
	for _, dir := range []string{p.Run, p.Sockets} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	for _, dir := range []string{p.Home, p.Temp, p.Secrets, p.Sockets} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		if dir == p.Sockets && p.Container != nil {
			continue // the watchdog of a container is ours
		}
		if err := r.give(dir, p.owner()); err != nil {
			return err
		}
	}
	if p.Container != nil {
		if err := p.Container.furnish(); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.owner = p.owner()
	r.mu.Unlock()
	for _, name := range r.version.Spec.Secrets {
		value, err := r.f.rt.secrets.value(r.f.ref.Namespace, name)
		if err != nil {
			return err
		}
		if err := r.putSecret(p.Secrets, name, value, p.owner()); err != nil {
			return err
		}
	}
	return nil
}

func (r *replica) give(file string, uid int) error {
	if uid == 0 {
		return nil
	}
	return os.Chown(file, uid, uid)
}

// putSecret writes a secret's file as a whole, readable by the replica alone.
func (r *replica) putSecret(dir, name string, value []byte, uid int) error {
	// Made elsewhere, so that a function that lists its secrets sees no half ones.
	tmp := filepath.Join(r.dir(), ".secret-"+name)
	if err := os.WriteFile(tmp, value, 0o400); err != nil {
		return err
	}
	if err := r.give(tmp, uid); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, name))
}

// refreshSecret gives a running replica the new value of a secret.
func (r *replica) refreshSecret(name string, value []byte) {
	r.mu.Lock()
	uid := r.owner
	r.mu.Unlock()
	if err := r.putSecret(filepath.Join(r.dir(), "secrets"), name, value, uid); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.f.rt.Log.Warn("replica keeps the old value of a secret", "function", r.f.ref, "instance", r.id, "secret", name, "err", err)
	}
}

// printed takes one line of the replica's output.
func (r *replica) printed(line []byte) {
	r.tail.add(line)
	r.f.log.write(r.id, string(line))
}

// tail remembers the last lines that were printed, to explain a failure.
type tail struct {
	mu    sync.Mutex
	lines []string
}

const tailLines, tailWidth = 3, 300

func (t *tail) add(line []byte) {
	text := strings.ToValidUTF8(strings.TrimSpace(string(line[:min(len(line), tailWidth)])), "?")
	if text == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) == tailLines {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.lines = append(t.lines, text)
}

// String returns the lines, or, if the watchdog or the helper had the last
// word, that alone: they end by saying why.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.lines) > 0 {
		last := t.lines[len(t.lines)-1]
		for _, speaker := range []string{"watchdog: ", "graphene: "} {
			if reason, ok := strings.CutPrefix(last, speaker); ok {
				return reason
			}
		}
	}
	return strings.Join(t.lines, "\n")
}
