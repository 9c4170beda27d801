package watchdog

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTheLeastLimitOfTheControlGroupsCounts(t *testing.T) {
	for name, test := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"no control groups": {nil, 0},
		"no limit": {map[string]string{
			"proc/self/cgroup":          "0::/pod/container\n",
			"sys/fs/cgroup/memory.max":  "max\n",
			"sys/fs/cgroup/memory.high": "1\n",
		}, 0},
		"its own": {map[string]string{
			"proc/self/cgroup":                       "0::/pod/container\n",
			"sys/fs/cgroup/pod/memory.max":           "max\n",
			"sys/fs/cgroup/pod/container/memory.max": "67108864\n",
		}, 64 << 20},
		"one above is less": {map[string]string{
			"proc/self/cgroup":                       "0::/pod/container\n",
			"sys/fs/cgroup/pod/memory.max":           "1048576\n",
			"sys/fs/cgroup/pod/container/memory.max": "67108864\n",
		}, 1 << 20},
		"the root of a container": {map[string]string{
			"proc/self/cgroup":         "0::/\n",
			"sys/fs/cgroup/memory.max": "67108864\n",
		}, 64 << 20},
		"the first version": {map[string]string{
			"proc/self/cgroup": "4:memory:/a\n3:cpu:/b\n0::/\n",
			"sys/fs/cgroup/memory/a/memory.limit_in_bytes":  "67108864\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":    "9223372036854771712\n",
			"sys/fs/cgroup/memory/b/memory.limit_in_bytes":  "1\n",
			"sys/fs/cgroup/memory/a/memory.usage_in_bytes ": "1\n",
		}, 64 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for path, text := range test.files {
				path = filepath.Join(root, path)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got := memoryLimit(root); got != test.want {
				t.Errorf("the limit is %d, want %d", got, test.want)
			}
		})
	}
}

func TestTheFloorOfTheHeapIsASmallPartOfTheLimit(t *testing.T) {
	for limit, want := range map[int64]int64{0: mostFloor, 1 << 40: mostFloor, 64 << 20: 8 << 20} {
		if got := heapFloor(limit); got != want {
			t.Errorf("with a limit of %d the floor is %d, want %d", limit, got, want)
		}
	}
}

func TestAKillForMemoryIsCalledThat(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	explain := func(m *memoryWatch, status, want string) {
		t.Helper()
		if got := m.explain(status); got != want {
			t.Errorf("%s is explained as %q, want %q", status, got, want)
		}
	}
	m := newMemoryWatch(root)
	explain(m, "signal: Killed", "signal: Killed")

	write("proc/self/cgroup", "0::/\n")
	write("sys/fs/cgroup/memory.max", "67108864\n")
	explain(m, "exit status 1", "exit status 1")
	explain(m, "signal: Killed", "signal: Killed, perhaps for memory: the container's limit is 64 MiB")

	write("sys/fs/cgroup/memory.events", "low 0\noom 2\noom_kill 2\noom_group_kill 0\n")
	m = newMemoryWatch(root)
	explain(m, "signal: killed", "signal: killed, perhaps for memory: the container's limit is 64 MiB")
	write("sys/fs/cgroup/memory.events", "low 0\noom 3\noom_kill 3\noom_group_kill 0\n")
	explain(m, "signal: Killed", "signal: Killed by the kernel, for memory: the container's limit is 64 MiB")
	explain(m, "signal: Killed", "signal: Killed, perhaps for memory: the container's limit is 64 MiB")

	write("proc/self/cgroup", "5:cpu:/\n4:memory:/x\n")
	write("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n")
	write("sys/fs/cgroup/memory/x/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
	explain(m, "signal: Killed", "signal: Killed by the kernel, for memory")
}

func TestTheLimitOfProcessesIsFoundInEitherVersion(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"first":  {"proc/self/cgroup": "8:pids:/f\n0::/g\n", "sys/fs/cgroup/pids/f/pids.max": "100\n", "sys/fs/cgroup/pids/pids.max": "max\n"},
		"second": {"proc/self/cgroup": "0::/g\n", "sys/fs/cgroup/g/pids.max": "100\n", "sys/fs/cgroup/pids.max": "4096\n"},
	} {
		root := t.TempDir()
		for path, text := range files {
			path = filepath.Join(root, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := processLimit(root); got != 100 {
			t.Errorf("%s version: %d, want 100", name, got)
		}
	}
}
