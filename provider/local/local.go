// Package local runs functions as child processes of this one: the runtime of
// the embedded size.
//
// A deploy pulls the function's image, unpacks it once, and starts replicas:
// processes that answer on Unix sockets, each supervised by a goroutine that
// waits for it. What should run is written to disk before a deploy is
// answered, so a platform that was killed comes back with its functions. A new
// version replaces the old one only when one of its replicas has become ready.
//
// Replicas are fenced in as far as the machine allows; [Runtime.Isolation]
// says how far that is. Images that graphene did not build run in containers of
// an installed OCI runtime, if the machine allows that too. Replicas end when this process does, whichever way that
// happens: each holds the reading end of a pipe whose writing end is ours.
//
// Start with [New], keep [Runtime.Run] running, and hand the Runtime to
// package provider, whose interfaces it satisfies. What is below [Options].Dir:
//
//	functions/NS/NAME/function.json  what is deployed, and its revision
//	secrets/NS/NAME                  one file per secret
//	namespaces.json                  namespaces besides the default one
//	images/DIGEST/                   unpacked images: rootfs/ and config.json
//	logs/NS/NAME/NUMBER.log          what functions printed, oldest first
//	run/REPLICA/                     home, temporary files and secrets of one replica, or its container
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A Puller finds images.
type Puller interface {
	// Pull returns the image that a deployment names. Layers may be fetched
	// when they are read.
	Pull(ctx context.Context, image string) (v1.Image, error)
}

// Options configure a Runtime. Dir, Images and Watchdog are required.
type Options struct {
	// Dir holds everything that survives a restart, absolute. No other Runtime
	// may use it at the same time; the caller sees to that.
	Dir string
	// SocketDir holds the sockets of replicas, absolute, and is emptied at
	// start. It must be short: a socket's path has at most 104 characters.
	SocketDir string
	Images    Puller
	// Watchdog is the command that stands in for "fwatchdog" in images.
	Watchdog []string
	// Helper is the command that calls [ReplicaMain] with its further
	// arguments. Without one, replicas start directly and are not fenced in.
	Helper []string
	// Python finds the interpreter for Python functions. It is asked when the
	// first one is deployed. Nil: there is none.
	Python func(ctx context.Context) (exe string, target function.Target, err error)

	// Traffic is asked before a replica is frozen. Nil: none is.
	Traffic Traffic
	// Keep is for functions that do not say it themselves.
	Keep Keep
	// MaxMemory is what all replicas may use together, in bytes; 0 is what the
	// machine has.
	MaxMemory int64
	// FreeMemory returns how much memory is free, and of how much, in bytes. Nil
	// asks the machine.
	FreeMemory func() (free, total int64, err error)

	StopGrace    time.Duration // what replicas get to finish in when Run ends; 0 is 10 seconds
	Settle       time.Duration // between leaving the endpoints and being told to stop; 0 is 100 ms
	HangTimeout  time.Duration // for which a replica may leave every probe unanswered; 0 is 30 seconds
	MaxImageSize int64         // bytes an image may have unpacked; 0 is 10 GiB
	Log          *slog.Logger
}

// A Runtime runs functions. It implements the interfaces Runtime, Secrets, Logs
// and Namespaces of package provider.
type Runtime struct {
	Options
	store      *store
	images     *images
	logs       *logBooks
	secrets    *secrets
	namespaces *namespaces
	isolation  isolation
	python     func(ctx context.Context) (interpreter, error)

	ledger  *ledger
	deploys keyedLocks    // held while a function is deployed or removed
	began   chan struct{} // closed when Run has

	mu        sync.Mutex
	functions map[function.Ref]*supervisor
	unlisted  map[*supervisor]struct{} // being made, or removed and not ended yet
	watchers  map[*watcher]struct{}
	running   context.Context // of Run; nil when it is not running
	group     *sync.WaitGroup // of Run; what it waits for
}

// interpreter is the Python that runs functions.
type interpreter struct {
	exe    string
	target function.Target
}

// New reads what was deployed below o.Dir and makes what is missing there. It
// starts nothing.
func New(o Options) (*Runtime, error) {
	if o.StopGrace == 0 {
		o.StopGrace = 10 * time.Second
	}
	if o.Settle == 0 {
		o.Settle = 100 * time.Millisecond
	}
	if o.HangTimeout == 0 {
		o.HangTimeout = 30 * time.Second
	}
	if o.MaxImageSize == 0 {
		o.MaxImageSize = 10 << 30
	}
	if o.FreeMemory == nil {
		o.FreeMemory = freeMemory
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	for _, dir := range []string{o.Dir, o.SocketDir} {
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("local runtime: directory %q is not absolute", dir)
		}
	}
	if longest := filepath.Join(o.SocketDir, newReplicaID(function.Ref{}), socketName); len(longest) > maxSocketPath {
		return nil, fault.Invalid.Errorf("sockets in %s would have paths of %d characters, at most %d are possible: choose a shorter directory", o.SocketDir, len(longest), maxSocketPath)
	}
	// Others may pass through, so that replicas reach what is theirs, and list nothing.
	for _, dir := range []string{o.Dir, o.SocketDir, o.join("images"), o.join("run")} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, storage(fmt.Errorf("local runtime: %w", err))
		}
	}
	r := &Runtime{
		Options:   o,
		functions: map[function.Ref]*supervisor{},
		unlisted:  map[*supervisor]struct{}{},
		watchers:  map[*watcher]struct{}{},
		logs:      newLogBooks(o.join("logs"), o.Log),
		secrets:   &secrets{dir: o.join("secrets")},
		isolation: detectIsolation(o),
		python:    findOnce(o.Python),
		ledger:    newLedger(o.MaxMemory, o.FreeMemory),
		began:     make(chan struct{}),
	}
	r.images = newImages(o.join("images"), o.MaxImageSize, r.isolation.runsForeign, o.Log)
	err := r.isolation.check(append([]string{o.Dir, o.SocketDir}, o.Watchdog[:min(1, len(o.Watchdog))]...)...)
	if err != nil {
		return nil, err
	}
	if r.store, err = openStore(o.join("functions"), o.Log); err != nil {
		return nil, err
	}
	if r.namespaces, err = openNamespaces(o.join("namespaces.json")); err != nil {
		return nil, err
	}
	records, err := r.store.load()
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		r.functions[rec.Ref] = r.newSupervisor(rec)
	}
	return r, nil
}

func (o Options) join(name string) string { return filepath.Join(o.Dir, name) }

// findOnce remembers the interpreter once it was found.
func findOnce(find func(context.Context) (string, function.Target, error)) func(context.Context) (interpreter, error) {
	var mu sync.Mutex
	var found interpreter
	return func(ctx context.Context) (interpreter, error) {
		mu.Lock()
		defer mu.Unlock()
		if found.exe != "" {
			return found, nil
		}
		if find == nil {
			return interpreter{}, fault.Invalid.Errorf("this platform runs no Python functions")
		}
		exe, target, err := find(ctx)
		if err != nil {
			return interpreter{}, fault.Invalid.Errorf("this platform cannot run Python functions: %w", err)
		}
		found = interpreter{exe, target}
		return found, nil
	}
}

// Run starts the replicas of everything that is deployed and keeps them
// running until ctx ends. It returns when all of them have ended. It is called
// once.
func (r *Runtime) Run(ctx context.Context) error {
	r.clean()
	var group sync.WaitGroup
	r.mu.Lock()
	r.running, r.group = ctx, &group
	for _, f := range r.functions {
		group.Go(func() { f.run(ctx) })
	}
	group.Go(func() { r.watchMemory(ctx) })
	r.mu.Unlock()
	close(r.began)
	r.Log.Debug("local runtime started", "isolation", r.Isolation())

	<-ctx.Done()
	r.mu.Lock()
	r.running = nil // nothing joins the group from here on
	r.mu.Unlock()
	group.Wait()
	r.isolation.groups.close()
	r.logs.close()
	return nil
}

// clean removes what a platform that was killed left behind: processes that
// escaped its end, their directories and sockets, and images nobody uses.
func (r *Runtime) clean() {
	killMarked(r.marker(""))
	if err := r.isolation.groups.sweep(); err != nil {
		r.Log.Warn("control groups of old replicas remain", "err", err)
	}
	for _, dir := range []string{r.join("run"), r.SocketDir} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			r.Log.Warn("old replicas could not be cleaned up", "err", err)
			continue
		}
		for _, e := range entries {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				r.Log.Warn("old replica could not be cleaned up", "err", err)
			}
		}
	}
	r.sweepImages()
}

// Isolation says in one line how far replicas are fenced in on this machine.
func (r *Runtime) Isolation() string { return r.isolation.String() }

// ReachesClosed reports whether functions can use what [Options] names, and an
// interpreter, also below directories that only this process's user may enter.
func (r *Runtime) ReachesClosed() bool { return r.isolation.reachesClosed() }

// Deploy implements package provider's Runtime. It waits for Run to begin.
func (r *Runtime) Deploy(ctx context.Context, spec types.FunctionDeployment) error {
	ref := function.Ref{Name: spec.Service, Namespace: spec.Namespace}
	select {
	case <-r.began:
	case <-ctx.Done():
		return fmt.Errorf("wait for the runtime to run: %w", context.Cause(ctx))
	}
	unlock, err := r.deploys.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()

	img, release, err := r.images.acquire(ctx, r.Images, spec.Image)
	if err != nil {
		return err
	}
	defer r.sweepImages()
	defer release()
	if err := r.runs(ctx, img); err != nil {
		return err
	}
	v := version{Spec: spec, Digest: img.digest, DeployedAt: time.Now().UTC()}
	if _, err := v.settings(img); err != nil {
		return err
	}
	scale, err := function.ReadScale(v.labels())
	if err != nil {
		return err
	}
	if v.Foreign = img.foreign; !v.Foreign {
		v.Port = v.environment(img).fixedPort()
	}
	if v.Port != "" {
		scale.Min = min(scale.Min, 1)
		if other, taken := r.portTaken(v.Port, ref); taken {
			return fault.Invalid.Errorf("function %s listens on port %s of this machine, and so does %s: leave out upstream_url, so that it gets a free port in the variable PORT, or choose another", ref, v.Port, other)
		}
	}

	if f, err := r.function(ref); err == nil {
		return f.deploy(v, scale)
	}
	return r.create(ref, v, scale) // the function outlives the request that made it
}

// portTaken returns the function other than ref that insists on a port.
func (r *Runtime) portTaken(port string, ref function.Ref) (other function.Ref, taken bool) {
	for _, f := range r.everyone() {
		if f.ref != ref && f.insistsOn(port) {
			return f.ref, true
		}
	}
	return function.Ref{}, false
}

// create deploys a function that was not there.
func (r *Runtime) create(ref function.Ref, v version, scale function.Scale) error {
	v.Revision = 1
	r.mu.Lock()
	f := r.newSupervisor(record{Ref: ref, CreatedAt: v.DeployedAt, Desired: scale.Min, UID: r.freeUID(), Target: v})
	r.unlisted[f] = struct{}{}
	r.mu.Unlock()

	err := r.store.save(f.rec)
	r.mu.Lock()
	delete(r.unlisted, f)
	if err == nil && r.running == nil {
		err = errNotRunning
	}
	if err != nil {
		r.mu.Unlock()
		return err
	}
	r.functions[ref] = f
	ctx := r.running
	r.group.Go(func() { f.run(ctx) })
	r.mu.Unlock()
	f.announce()
	return nil
}

var errNotRunning = fault.Unavailable.Errorf("the runtime is not running")

// runs reports, as fault.Invalid with a remedy, why this machine cannot run img.
func (r *Runtime) runs(ctx context.Context, img *image) error {
	host := function.Target{OS: runtime.GOOS, Arch: runtime.GOARCH}
	if img.target.Python != "" {
		python, err := r.python(ctx)
		if err != nil {
			return err
		}
		host = python.target
	}
	return host.Runs(img.target)
}

// Remove implements package provider's Runtime.
func (r *Runtime) Remove(ctx context.Context, ref function.Ref) error {
	unlock, err := r.deploys.lock(ctx, ref)
	if err != nil {
		return err
	}
	defer unlock()
	f, err := r.function(ref)
	if err != nil {
		return err
	}
	// First on disk: a function must not come back after it was removed.
	if err := r.store.remove(ref); err != nil {
		return err
	}
	r.mu.Lock()
	delete(r.functions, ref)
	if r.running != nil {
		r.unlisted[f] = struct{}{}
	}
	r.mu.Unlock()
	f.remove()
	if err := r.logs.remove(ref); err != nil {
		r.Log.Warn("logs of a removed function remain", "function", ref, "err", err)
	}
	return nil
}

// gone is told by a removed function that its last replica has ended.
func (r *Runtime) gone(f *supervisor) {
	r.mu.Lock()
	delete(r.unlisted, f)
	r.mu.Unlock()
	r.sweepImages()
}

// Scale implements package provider's Runtime.
func (r *Runtime) Scale(_ context.Context, ref function.Ref, replicas int) error {
	f, err := r.function(ref)
	if err != nil {
		return err
	}
	return f.scale(replicas)
}

// List implements package provider's Runtime.
func (r *Runtime) List(_ context.Context, namespace string) ([]types.FunctionStatus, error) {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.functions))
	r.mu.Unlock()
	var list []types.FunctionStatus
	for _, f := range all {
		if f.ref.Namespace == namespace {
			list = append(list, f.status())
		}
	}
	slices.SortFunc(list, func(a, b types.FunctionStatus) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// Status implements package provider's Runtime.
func (r *Runtime) Status(_ context.Context, ref function.Ref) (types.FunctionStatus, error) {
	f, err := r.function(ref)
	if err != nil {
		return types.FunctionStatus{}, err
	}
	return f.status(), nil
}

// Usage implements package provider's Runtime.
func (r *Runtime) Usage(_ context.Context, ref function.Ref) (types.FunctionUsage, error) {
	f, err := r.function(ref)
	if err != nil {
		return types.FunctionUsage{}, err
	}
	return f.usage()
}

func (r *Runtime) function(ref function.Ref) (*supervisor, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f, known := r.functions[ref]
	if !known {
		return nil, fault.NotFound.Errorf("function %s is not deployed", ref)
	}
	return f, nil
}

// everyone returns all functions that may have replicas.
func (r *Runtime) everyone() []*supervisor {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.AppendSeq(slices.Collect(maps.Values(r.functions)), maps.Keys(r.unlisted))
}

// sweepImages removes the images that no function refers to and no replica
// runs from.
func (r *Runtime) sweepImages() {
	r.images.sweep(func() map[string]bool {
		used := map[string]bool{}
		for _, f := range r.everyone() {
			for _, digest := range f.digests() {
				used[digest] = true
			}
		}
		return used
	})
}

// Every function gets a user id of its own from this one on, where this
// process may give them out.
const firstUID = 200_000

// freeUID returns the lowest user id that no function has. r.mu is held.
func (r *Runtime) freeUID() int {
	taken := map[int]bool{}
	for _, f := range r.functions {
		taken[f.uid] = true
	}
	for f := range r.unlisted {
		taken[f.uid] = true
	}
	uid := firstUID
	for taken[uid] {
		uid++
	}
	return uid
}

// A watcher is told about every change of endpoints.
type watcher struct{ report func(function.Event) }

// Watch implements package provider's Runtime.
func (r *Runtime) Watch(ctx context.Context, report func(function.Event)) error {
	w := &watcher{report}
	r.mu.Lock()
	r.watchers[w] = struct{}{}
	all := slices.Collect(maps.Values(r.functions))
	r.mu.Unlock()
	for _, f := range all {
		f.introduce(report)
	}
	report(function.Event{Synced: true})
	<-ctx.Done()
	r.mu.Lock()
	delete(r.watchers, w)
	r.mu.Unlock()
	return nil
}

// report tells all watchers. Whoever calls it sees to the order of the events
// of one function, and does not hold r.mu.
func (r *Runtime) report(e function.Event) {
	r.mu.Lock()
	watchers := slices.Collect(maps.Keys(r.watchers))
	r.mu.Unlock()
	for _, w := range watchers {
		w.report(e)
	}
}

// keyedLocks are locks that are made when needed, one per function.
type keyedLocks struct {
	mu   sync.Mutex
	held map[function.Ref]chan struct{} // closed when given back
}

// lock waits for the lock of ref, or for the end of ctx.
func (l *keyedLocks) lock(ctx context.Context, ref function.Ref) (unlock func(), err error) {
	for {
		l.mu.Lock()
		if l.held == nil {
			l.held = map[function.Ref]chan struct{}{}
		}
		other, busy := l.held[ref]
		if !busy {
			mine := make(chan struct{})
			l.held[ref] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, ref)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another deploy of %s: %w", ref, context.Cause(ctx))
		}
	}
}

// storage gives err the kind fault.Storage if the disk is full.
func storage(err error) error {
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
	if full && !errors.Is(err, fault.Storage) {
		return fault.Storage.Errorf("%w: free some disk space", err)
	}
	return err
}
