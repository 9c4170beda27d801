package local

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// limits are what all processes of a replica may use together. Zero is no
// limit.
type limits struct {
	memory    int64 // bytes
	cpu       int64 // thousandths of a core
	processes int64 // and threads
}

// Controllers of the kernel, by the names they have in all versions.
const (
	memoryController = "memory"
	cpuController    = "cpu"
	pidsController   = "pids"
)

var allControllers = []string{memoryController, cpuController, pidsController}

// A dialect is how one version of control groups is spoken to.
type dialect interface {
	// settings returns which files of which controller to write for l.
	settings(l limits) []setting
	// oomEvents names the file of the memory controller that counts the
	// processes the kernel killed, on a line "oom_kill NUMBER".
	oomEvents() string
}

// A setting is one file of a group and what to write there. One that is
// optional is missing on kernels that were built without that feature.
type setting struct {
	controller, file, value string
	optional                bool
}

const cpuPeriod = 100_000 // µs; the kernel's default

// cpuQuota is the processor time in one period, in µs, and not less than the
// kernel takes.
func cpuQuota(milli int64) int64 { return max(1000, milli*cpuPeriod/1000) }

// unified is version 2: all controllers share one hierarchy.
type unified struct{}

func (unified) oomEvents() string { return "memory.events" }

func (unified) settings(l limits) (all []setting) {
	if l.memory > 0 {
		all = append(all,
			setting{memoryController, "memory.max", fmt.Sprint(l.memory), false},
			setting{memoryController, "memory.swap.max", "0", true})
	}
	if l.cpu > 0 {
		all = append(all, setting{cpuController, "cpu.max", fmt.Sprintf("%d %d", cpuQuota(l.cpu), cpuPeriod), false})
	}
	if l.processes > 0 {
		all = append(all, setting{pidsController, "pids.max", fmt.Sprint(l.processes), false})
	}
	return all
}

// legacy is version 1: every controller has a hierarchy of its own.
type legacy struct{}

func (legacy) oomEvents() string { return "memory.oom_control" }

func (legacy) settings(l limits) (all []setting) {
	if l.memory > 0 {
		all = append(all,
			setting{memoryController, "memory.limit_in_bytes", fmt.Sprint(l.memory), false},
			setting{memoryController, "memory.memsw.limit_in_bytes", fmt.Sprint(l.memory), true})
	}
	if l.cpu > 0 {
		all = append(all,
			setting{cpuController, "cpu.cfs_period_us", fmt.Sprint(cpuPeriod), false},
			setting{cpuController, "cpu.cfs_quota_us", fmt.Sprint(cpuQuota(l.cpu)), false})
	}
	if l.processes > 0 {
		all = append(all, setting{pidsController, "pids.max", fmt.Sprint(l.processes), false})
	}
	return all
}

// controlGroups make the kernel limit replicas, each with all its processes.
// What it makes lies below the group of this process, so that limits which
// others have put on that hold. There is nothing while no replica needs it.
// Nil are none.
type controlGroups struct {
	dialect
	parents map[string]string // by controller: the directory that groups of replicas are made in
	others  []string          // that of all hierarchies, which OCI runtimes use
	undo    func()            // undoes what finding them changed

	parenting sync.Mutex // held while parents are made or removed
}

const (
	procsFile   = "cgroup.procs" // writing 0 there moves the writing process
	subtreeFile = "cgroup.subtree_control"
	// platformGroup is where this process moves within a hierarchy whose
	// groups have either processes or groups in them.
	platformGroup = "graphene-platform"
)

// findControlGroups returns the control groups that this process may make, in
// a directory called name, or nil. self describes the process as /proc/self
// does.
func findControlGroups(self, name string) *controlGroups {
	all := findHierarchies(self)
	if own, ok := all[""]; ok {
		if g := findUnified(own, name); g != nil {
			return g
		}
	}
	g := &controlGroups{dialect: legacy{}, parents: map[string]string{}}
	for _, c := range allControllers {
		own, ok := all[c]
		if !ok {
			continue
		}
		parent := filepath.Join(own, name)
		if os.Mkdir(parent, 0o755) != nil && !isDirectory(parent) {
			continue
		}
		g.parents[c] = parent
		if !g.has(c) {
			_ = os.Remove(parent) // it is empty, so it goes
			delete(g.parents, c)
		}
	}
	if len(g.parents) == 0 {
		return nil
	}
	for _, own := range all {
		g.others = append(g.others, filepath.Join(own, name))
	}
	g.undo = g.removeParents
	return g
}

// has reports whether the kernel has what settings of a controller need.
func (g *controlGroups) has(controller string) bool {
	for _, s := range g.settings(limits{1, 1, 1}) {
		if s.controller != controller || s.optional {
			continue
		}
		if _, err := os.Stat(filepath.Join(g.parents[controller], s.file)); err != nil {
			return false
		}
	}
	return true
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// findHierarchies returns the directory of a process's group by controller;
// that of version 2 has no name.
func findHierarchies(self string) map[string]string {
	mounts, err := os.ReadFile(filepath.Join(self, "mountinfo"))
	if err != nil {
		return nil
	}
	memberships, err := os.ReadFile(filepath.Join(self, "cgroup"))
	if err != nil {
		return nil
	}
	type mount struct{ root, point string }
	mounted := map[string]mount{}
	for line := range strings.Lines(string(mounts)) {
		before, after, ok := strings.Cut(line, " - ")
		fields, system := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(system) < 3 {
			continue
		}
		m := mount{root: fields[3], point: fields[4]}
		switch system[0] {
		case "cgroup2":
			mounted[""] = m
		case "cgroup":
			for c := range strings.SplitSeq(system[2], ",") {
				mounted[c] = m // with options of the mount, which nothing asks for
			}
		}
	}
	own := map[string]string{}
	for line := range strings.Lines(string(memberships)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for c := range strings.SplitSeq(fields[1], ",") {
			m, ok := mounted[c]
			inner, err := filepath.Rel(m.root, fields[2])
			if ok && err == nil && filepath.IsLocal(inner) {
				own[c] = filepath.Join(m.point, inner)
			}
		}
	}
	return own
}

// findUnified prepares a directory called name in the group own of version 2.
// It returns nil if there is no controller for us in it.
func findUnified(own, name string) *controlGroups {
	if filepath.Base(own) == platformGroup { // where an earlier Runtime of this process moved it
		own = filepath.Dir(own)
	}
	offered := words(filepath.Join(own, "cgroup.controllers"))
	var useful []string
	for _, c := range allControllers {
		if slices.Contains(offered, c) {
			useful = append(useful, c)
		}
	}
	if len(useful) == 0 {
		return nil
	}
	moved := ""
	if err := share(own, useful); errors.Is(err, syscall.EBUSY) {
		moved = filepath.Join(own, platformGroup)
		if os.Mkdir(moved, 0o755) != nil && !isDirectory(moved) || writeControl(moved, procsFile, "0") != nil {
			_ = os.Remove(moved)
			return nil
		}
	} else if err != nil {
		return nil
	}
	back := func() {
		if moved != "" {
			_ = writeControl(own, subtreeFile, "-"+strings.Join(useful, " -"))
			_ = writeControl(own, procsFile, "0")
			_ = os.Remove(moved)
		}
	}
	parent := filepath.Join(own, name)
	// Others may be in our group too; then nothing more can be made in it.
	if share(own, useful) != nil || os.Mkdir(parent, 0o755) != nil && !isDirectory(parent) || share(parent, useful) != nil {
		_ = os.Remove(parent)
		back()
		return nil
	}
	g := &controlGroups{dialect: unified{}, parents: map[string]string{}}
	for _, c := range useful {
		g.parents[c] = parent
	}
	g.undo = func() {
		g.removeParents()
		back()
	}
	return g
}

// share lets the groups within dir have controllers.
func share(dir string, controllers []string) error {
	shared := words(filepath.Join(dir, subtreeFile))
	if !slices.ContainsFunc(controllers, func(c string) bool { return !slices.Contains(shared, c) }) {
		return nil
	}
	return writeControl(dir, subtreeFile, "+"+strings.Join(controllers, " +"))
}

func words(file string) []string {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	return strings.Fields(string(text))
}

// writeControl writes to a file of a group, which exists or never will.
func writeControl(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// removeParents removes the directories that have no groups in them.
func (g *controlGroups) removeParents() {
	g.parenting.Lock()
	defer g.parenting.Unlock()
	for _, parent := range g.everywhere() {
		_ = os.Remove(parent) // most were never made
	}
}

// everywhere returns the directories in which there may be groups of replicas.
func (g *controlGroups) everywhere() []string {
	all := slices.AppendSeq(slices.Clone(g.others), maps.Values(g.parents))
	slices.Sort(all)
	return slices.Compact(all)
}

// ofContainer makes a group that an OCI runtime is going to use, which makes
// more of them for the controllers that we leave alone.
func (g *controlGroups) ofContainer(name string, l limits) (*controlGroup, error) {
	group, err := g.make(name, l)
	if err != nil {
		return nil, err
	}
	group.dirs = nil
	for _, parent := range g.everywhere() {
		group.dirs = append(group.dirs, filepath.Join(parent, name))
	}
	return group, nil
}

// close undoes what finding the groups changed, once there are none any more.
func (g *controlGroups) close() {
	if g != nil {
		g.undo()
	}
}

// probe makes a group that limits everything as little as possible. It
// returns nil if that fails.
func (g *controlGroups) probe() *controlGroup {
	if g == nil {
		return nil
	}
	group, err := g.make("probe", limits{memory: 1 << 40, cpu: 1000, processes: maxProcesses})
	if err != nil {
		return nil
	}
	return group
}

// String names what is limited.
func (g *controlGroups) String() string {
	var names []string
	for _, c := range allControllers {
		if _, ok := g.parents[c]; ok {
			names = append(names, c)
		}
	}
	return strings.Join(names, ", ")
}

// make makes a group. A limit that the kernel cannot enforce here is left out.
func (g *controlGroups) make(name string, l limits) (*controlGroup, error) {
	group := &controlGroup{among: g}
	for _, s := range g.settings(l) {
		parent, ok := g.parents[s.controller]
		if !ok {
			continue
		}
		dir := filepath.Join(parent, name)
		if !slices.Contains(group.dirs, dir) {
			if err := g.makeDirectory(dir); err != nil {
				return nil, errors.Join(fmt.Errorf("make control group: %w", err), group.remove())
			}
			group.dirs = append(group.dirs, dir)
		}
		if s.controller == memoryController {
			group.oomEvents = filepath.Join(dir, g.oomEvents())
		}
		err := writeControl(dir, s.file, s.value)
		// The group above may have less than this one is to get. Then that holds.
		less := s.controller == cpuController && errors.Is(err, syscall.EINVAL)
		absent := s.optional && errors.Is(err, fs.ErrNotExist)
		if err != nil && !less && !absent {
			return nil, errors.Join(fmt.Errorf("limit control group: %w", err), group.remove())
		}
	}
	return group, nil
}

func (g *controlGroups) makeDirectory(dir string) error {
	g.parenting.Lock()
	defer g.parenting.Unlock()
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if _, ok := g.dialect.(unified); ok {
		if err := share(parent, slices.Sorted(maps.Keys(g.parents))); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// sweep ends and removes groups that a platform which was killed left behind.
func (g *controlGroups) sweep() error {
	if g == nil {
		return nil
	}
	var problems []error
	for _, parent := range g.everywhere() {
		entries, err := os.ReadDir(parent)
		if !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, err)
		}
		for _, e := range entries {
			if e.IsDir() {
				problems = append(problems, removeGroup(filepath.Join(parent, e.Name())))
			}
		}
	}
	g.removeParents()
	return errors.Join(problems...)
}

// A controlGroup is that of one replica. The nil group has no limits.
type controlGroup struct {
	among     *controlGroups
	dirs      []string // one in version 2, one per controller in version 1
	oomEvents string   // empty: memory is not limited
}

// entrances are files that make the process that writes 0 to them, and its
// children, members.
func (g *controlGroup) entrances() []string {
	if g == nil {
		return nil
	}
	var files []string
	for _, dir := range g.dirs {
		files = append(files, filepath.Join(dir, procsFile))
	}
	return files
}

// oomKills counts the processes that the kernel killed because the group had
// no more memory.
func (g *controlGroup) oomKills() int {
	if g == nil || g.oomEvents == "" {
		return 0
	}
	text, err := os.ReadFile(g.oomEvents)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(count)) // the kernel writes numbers
			return n
		}
	}
	return 0
}

// remove ends the members and removes the group.
func (g *controlGroup) remove() error {
	if g == nil {
		return nil
	}
	var problems []error
	for _, dir := range g.dirs {
		problems = append(problems, removeGroup(dir))
	}
	g.among.removeParents()
	return errors.Join(problems...)
}

// removePatience is how long members may take to end once they are killed.
const removePatience = 2 * time.Second

// removeGroup removes a group and those in it, and ends their members. It is
// no error if there is none.
func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for deadline := time.Now().Add(removePatience); ; {
		killMembers(dir)
		// Not os.Remove, which tries to unlink first and reports the error of that.
		err := syscall.Rmdir(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove control group %s: %w", dir, err)
		}
		<-time.After(time.Millisecond) // the kernel tells nobody when the last member is gone
	}
}

func killMembers(dir string) {
	if writeControl(dir, "cgroup.kill", "1") == nil {
		return
	}
	for _, word := range words(filepath.Join(dir, procsFile)) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 1 && pid != os.Getpid() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	}
}
