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
			"proc/self/cgroup":                              "4:memory:/a\n3:cpu:/b\n0::/\n",
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
