package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"
)

// markerName is an environment variable by which the processes of a replica
// are known, also those that have left its process group.
const markerName = "graphene_replica"

// mark is the marker's value: which platform, and which replica.
func (r *Runtime) mark(id string) string { return r.fingerprint() + "/" + id }

// fingerprint tells platforms on one machine apart.
func (o Options) fingerprint() string {
	sum := sha256.Sum256([]byte(o.Dir))
	return hex.EncodeToString(sum[:8])
}

// marker is how the environment of a replica's processes contains its mark. An
// empty id means any replica.
func (r *Runtime) marker(id string) string { return markerName + "=" + r.mark(id) }

// A processInfo is one process at one moment.
type processInfo struct {
	parent int
	cpu    time.Duration // used so far
	memory int64         // resident bytes
}

// tree adds up the process called root and all that descend from it.
func tree(table map[int]processInfo, root int) (cpu time.Duration, memory int64) {
	for _, pid := range descendants(table, root) {
		cpu += table[pid].cpu
		memory += table[pid].memory
	}
	return cpu, memory
}

// descendants returns root and all that descend from it.
func descendants(table map[int]processInfo, root int) []int {
	children := map[int][]int{}
	for pid, p := range table {
		children[p.parent] = append(children[p.parent], pid)
	}
	all := []int{root}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// shared is the memory of a tree in which processes share pages, each of which
// counts once. Workers that were forked from one that has loaded a model would
// otherwise be charged for it once each.
func shared(table map[int]processInfo, root int) (memory int64) {
	for _, pid := range descendants(table, root) {
		if part, ok := proportional(pid); ok {
			memory += part
		} else {
			memory += table[pid].memory
		}
	}
	return memory
}

// A sample remembers a measurement, to know what was used since.
type sample struct {
	at  time.Time
	cpu time.Duration
}

// usage returns what the replica has used since it was last asked, in
// thousandths of a core, and its memory in bytes, as [shared] counts it.
func (r *replica) usage(table map[int]processInfo, now time.Time) (cpu float64, memory int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.child == nil {
		return 0, 0
	}
	used, _ := tree(table, r.child.PID())
	memory = shared(table, r.child.PID())
	since := r.sampled
	if since.at.IsZero() {
		since.at = r.started
	}
	r.sampled = sample{now, used}
	elapsed := now.Sub(since.at)
	if elapsed <= 0 || used < since.cpu { // a process that ended takes its share with it
		return 0, memory
	}
	return 1000 * float64(used-since.cpu) / float64(elapsed), memory
}

// memoryInterval is how often limits are checked.
const memoryInterval = 500 * time.Millisecond

// watchMemory ends replicas that use more memory than they may, until ctx ends.
// It costs nothing while no function has a limit.
func (r *Runtime) watchMemory(ctx context.Context) {
	tick := time.NewTicker(memoryInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := r.enforceMemory(); err != nil {
			r.Log.Warn("memory limits cannot be enforced", "err", err)
			return
		}
		if err := r.balance(time.Now()); err != nil {
			r.Log.Warn("memory is not watched over", "err", err)
			return
		}
	}
}

// enforceMemory compares replicas with their limits once.
func (r *Runtime) enforceMemory() error {
	var table map[int]processInfo
	for _, f := range r.everyone() {
		for _, replica := range f.live() {
			limit := memoryLimit(replica.version)
			if limit == 0 {
				continue
			}
			if table == nil {
				var err error
				if table, err = processes(); err != nil {
					return err
				}
			}
			replica.noteKills(time.Now())
			if replica.version.Foreign {
				limit += containerSpare
			}
			if used := replica.memory(table, limit); used > limit {
				replica.kill(fmt.Sprintf("killed: it used %d MiB of memory and its limit is %s", used>>20, replica.version.Spec.Limits.Memory))
			}
		}
	}
	return nil
}

// memory returns the resident bytes of the replica's processes. What several
// of them share is counted once, if that decides whether they are over limit.
func (r *replica) memory(table map[int]processInfo, limit int64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.child == nil {
		return 0
	}
	_, memory := tree(table, r.child.PID())
	if memory <= limit {
		return memory
	}
	return shared(table, r.child.PID())
}

// recently is how long an end still has to do with a process that was killed.
const recently = 5 * time.Second

// ranOut reports whether the replica has just had too little memory.
func (r *replica) ranOut(now time.Time) bool {
	_ = r.countKills(now)
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.oomAt.IsZero() && now.Sub(r.oomAt) < recently
}

// noteKills says in the log when a replica has lost a process for want of
// memory and may live on without it, as a pool does without one worker.
func (r *replica) noteKills(now time.Time) {
	if n := r.countKills(now); n > 0 {
		r.f.log.write(r.id, fmt.Sprintf("graphene: the kernel killed %d process(es): together they needed more memory than the limit of %s", n, r.version.Spec.Limits.Memory))
	}
}

// countKills returns how many processes the kernel has killed for want of
// memory since it was last called.
func (r *replica) countKills(now time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	total := r.group.oomKills()
	more := total - r.ooms
	if more > 0 {
		r.ooms, r.oomAt = total, now
	}
	return more
}
