package watchdog

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"
)

const (
	watchShare  = 100                    // of the time that passes, about this fraction is spent looking at processes that do not multiply
	watchSeldom = 250 * time.Millisecond // between looks at them, at most
	stopPasses  = 100                    // at most, through a tree that still grows, to stop it

	forkerWords = 100 * time.Millisecond // for a worker to say where it starts processes
)

// A process is a line of the system's table of processes.
type process struct {
	pid, parent, group int
	threads            int
	born               uint64 // in ticks since the system's start: tells processes apart that had the same id
	zombie             bool
}

// processTable is all processes, by id. It is empty on systems without /proc.
type processTable map[int]process

func readProcesses() processTable {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1) // as many as there are
	table := make(processTable, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			if p, ok := readProcess(pid); ok {
				table[pid] = p
			}
		}
	}
	return table
}

func readProcess(pid int) (process, bool) {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return process{}, false // it has ended
	}
	// The name in parentheses may have anything in it.
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return process{}, false
	}
	number := func(i int) int { n, _ := strconv.Atoi(string(fields[i])); return n }
	born, _ := strconv.ParseUint(string(fields[19]), 10, 64)
	return process{
		pid: pid, parent: number(1), group: number(2), threads: number(17),
		born: born, zombie: fields[0][0] == 'Z',
	}, true
}

// below returns the processes that descend from those with the given ids,
// which are not among them.
func (t processTable) below(roots ...int) []process {
	children := map[int][]process{}
	for _, p := range t {
		children[p.parent] = append(children[p.parent], p)
	}
	var found []process
	for next := roots; len(next) > 0; {
		var after []int
		for _, pid := range next {
			for _, child := range children[pid] {
				if !slices.Contains(roots, child.pid) {
					found = append(found, child)
					after = append(after, child.pid)
				}
			}
		}
		next = after
	}
	return found
}

// has reports whether a process that was seen earlier is still there.
func (t processTable) has(p process) bool {
	now, ok := t[p.pid]
	return ok && now.born == p.born && !now.zombie
}

// tasks counts processes and threads.
func tasks(processes []process) int {
	n := 0
	for _, p := range processes {
		n += max(1, p.threads)
	}
	return n
}

// newest is the last process id, or thread id, that was given away here. It
// tells whether there can be new processes without looking at them all.
func newest() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	return string(text[bytes.LastIndexByte(text, ' ')+1:])
}

// A hunt stops processes, and then kills them: those that are not stopped may
// have children faster than they can be killed.
type hunt map[int]process

// stop stops the processes and all that descend from them, also those that
// they start meanwhile.
func (h hunt) stop(roots ...process) {
	ids := make([]int, len(roots))
	for i, root := range roots {
		ids[i] = root.pid
	}
	for range stopPasses {
		table := readProcesses()
		more := false
		for _, q := range append(table.below(ids...), roots...) {
			if _, known := h[q.pid]; !known && table.has(q) {
				more = true
				h[q.pid] = q
				_ = syscall.Kill(q.pid, syscall.SIGSTOP) // it may have ended
			}
		}
		if !more {
			return
		}
	}
}

// kill kills what has been stopped.
func (h hunt) kill() {
	for _, q := range h {
		if now, ok := readProcess(q.pid); ok && now.born == q.born {
			_ = syscall.Kill(q.pid, syscall.SIGKILL) // as above
		}
	}
}

// killTrees kills the processes and all that descend from them.
func killTrees(roots ...process) {
	h := hunt{}
	h.stop(roots...)
	h.kill()
}

// watchWorkers has a goroutine look at workers while they are busy, or have
// started processes: at how large they are, and how many processes and threads
// there are of them. One that has too much is killed. It also recalls calls that
// wait behind long ones. The caller holds the lock.
func (p *pool) watchWorkers() {
	if p.watching {
		return
	}
	p.watching = true
	p.readers.Go(func() {
		timer := time.NewTimer(watchEvery)
		defer timer.Stop()
		for {
			<-timer.C
			begun := time.Now()
			seen := p.look()
			if len(seen.doomed) > 0 {
				killTrees(seen.doomed...)
			}
			if !seen.again {
				return
			}
			interval := watchEvery
			switch {
			case seen.recalled:
				interval = recallTime
			case !seen.grown:
				interval = max(interval, min(watchShare*time.Since(begun), watchSeldom))
			}
			timer.Reset(interval)
		}
	})
}

// A sight is what came of a look at the workers.
type sight struct {
	again    bool      // they have to be looked at again
	grown    bool      // there are more processes than before
	recalled bool      // calls have been recalled, and are to be taken back soon
	doomed   []process // to be killed
}

func (p *pool) look() (seen sight) {
	p.mu.Lock()
	var workers []*worker
	busy := false
	for _, w := range p.workers {
		if w.ready && !w.dead && w.reason == "" {
			workers = append(workers, w)
			busy = busy || len(w.calls) > 0
		}
	}
	last := newest()
	var table processTable
	if p.w.MaxProcesses > 0 && last != p.newest {
		p.mu.Unlock()
		table = readProcesses()
		p.mu.Lock()
		p.newest = last
	}
	defer p.unlock()
	if p.ended {
		return sight{}
	}
	if table != nil {
		before := len(p.stray)
		p.stray = p.strays(table)
		seen.grown = len(p.stray) > before
		if n := tasks(p.stray); n > p.w.MaxProcesses {
			p.log.Warn("killing processes that workers have left behind", "processes", n, "max_processes", p.w.MaxProcesses)
			seen.doomed = p.stray
		}
	}
	p.watching = busy || len(p.stray) > 0
	now := time.Now()
	for _, w := range workers {
		seen.recalled = p.recall(w, now) || seen.recalled
		if table.has(w.self) {
			before := len(w.kin)
			w.kin = w.allKin(table)
			seen.grown = seen.grown || len(w.kin) > before
		}
		p.watching = p.watching || len(w.kin) > 0
		if w.dead || w.reason != "" {
			continue
		}
		if size := residentBytes(w.pid); p.w.MaxMemory > 0 && len(w.calls) > 0 && size > 2*p.w.MaxMemory {
			p.killLocked(w, killMemory, fmt.Sprintf("it had %d MiB of memory, more than twice max_memory", size>>20))
		} else if n := tasks(w.kin) + table[w.pid].threads; table.has(w.self) && n > p.w.MaxProcesses {
			p.killMany(w, n)
		}
	}
	seen.again = p.watching
	return seen
}

// allKin returns the processes that a worker has started, and theirs: those that
// descend from it, those in its group, and what descends from those that once
// were among them. The worker is in the table.
func (w *worker) allKin(table processTable) []process {
	roots := []int{w.pid}
	var lost []process
	known := func(q process) bool { return slices.ContainsFunc(lost, func(k process) bool { return k.pid == q.pid }) }
	for _, k := range w.kin {
		if table.has(k) {
			lost = append(lost, table[k.pid])
			roots = append(roots, k.pid)
		}
	}
	for _, q := range table {
		if q.group == w.pid && q.pid != w.pid && !q.zombie && !known(q) {
			lost = append(lost, q)
			roots = append(roots, q.pid)
		}
	}
	return append(lost, table.below(roots...)...)
}

// killMany ends a worker that has too many processes and threads, and all of
// them, at once. The caller holds the lock.
func (p *pool) killMany(w *worker, n int) {
	p.condemn(w, killProcesses, fmt.Sprintf("it had %d processes and threads, more than max_processes, %d", n, p.w.MaxProcesses))
	self, kin := w.self, w.kin
	p.readers.Go(func() {
		h := hunt{}
		h.stop(kin...)
		_ = syscall.Kill(self.pid, syscall.SIGUSR1) // it prints where it is
		<-time.After(forkerWords)
		h.stop(append(kin, self)...)
		h.kill()
	})
}

// endKin kills what a worker that has ended has left behind.
func (p *pool) endKin(w *worker) {
	p.mu.Lock()
	kin := w.kin
	p.mu.Unlock()
	if len(kin) > 0 {
		killTrees(kin...)
	}
}

// strays returns the processes of the function that nobody can tell whose they
// are: they made sessions of their own before they were seen, and their parents
// have ended. The caller holds the lock.
func (p *pool) strays(table processTable) []process {
	if !p.o.Adopt {
		return nil
	}
	known := map[int]bool{}
	roots := slices.Clone(p.zygotes)
	for _, w := range p.workers {
		roots = append(roots, w.pid)
		for _, k := range w.kin {
			known[k.pid] = true
		}
	}
	for _, pid := range roots {
		known[pid] = true
	}
	for _, q := range table.below(roots...) {
		known[q.pid] = true
	}
	return slices.DeleteFunc(table.below(os.Getpid()), func(q process) bool { return known[q.pid] || q.zombie })
}

// endStrays kills what is left when the function has ended.
func (p *pool) endStrays() {
	if !p.o.Adopt {
		return
	}
	if left := readProcesses().below(os.Getpid()); len(left) > 0 {
		killTrees(left...)
	}
}
