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
func (r *Runtime) mark(id string) string {
	sum := sha256.Sum256([]byte(r.Dir))
	return hex.EncodeToString(sum[:8]) + "/" + id
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
	children := map[int][]int{}
	for pid, p := range table {
		children[p.parent] = append(children[p.parent], pid)
	}
	for todo := []int{root}; len(todo) > 0; {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		cpu += table[pid].cpu
		memory += table[pid].memory
	}
	return cpu, memory
}

// A sample remembers a measurement, to know what was used since.
type sample struct {
	at  time.Time
	cpu time.Duration
}

// usage returns what the replica has used since it was last asked, in
// thousandths of a core, and its resident memory in bytes.
func (r *replica) usage(table map[int]processInfo, now time.Time) (cpu float64, memory int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.child == nil {
		return 0, 0
	}
	used, memory := tree(table, r.child.PID())
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
			if used := replica.memory(table); used > limit {
				replica.kill(fmt.Sprintf("killed: it used %d MiB of memory and its limit is %s", used>>20, replica.version.Spec.Limits.Memory))
			}
		}
	}
	return nil
}

func (r *replica) memory(table map[int]processInfo) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.child == nil {
		return 0
	}
	_, memory := tree(table, r.child.PID())
	return memory
}
