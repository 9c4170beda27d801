package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// write makes files below dir, by their relative names.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheGroupsOfAProcessAreFound(t *testing.T) {
	for _, tt := range []struct {
		name              string
		cgroup, mountinfo string
		want              map[string]string
	}{
		{
			"version 2",
			"0::/user.slice/a.scope\n",
			"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
			map[string]string{"": "/sys/fs/cgroup/user.slice/a.scope"},
		},
		{
			"both versions, with two controllers in one hierarchy",
			"7:cpu,cpuacct:/a\n4:memory:/\n3:cpuset:/\n0::/\n",
			"33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
				"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
				"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			map[string]string{"cpu": "/sys/fs/cgroup/cpu,cpuacct/a", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/a", "memory": "/sys/fs/cgroup/memory", "": "/sys/fs/cgroup/unified"},
		},
		{
			"a container that sees its own group as the root",
			"4:memory:/docker/1\n3:pids:/elsewhere\n",
			"35 31 0:32 /docker/1 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n" +
				"36 31 0:33 /docker/1 /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n",
			map[string]string{"memory": "/sys/fs/cgroup/memory"},
		},
		{"nonsense", "x\n:::\n\n", "a - b\n - \n", map[string]string{}},
	} {
		self := t.TempDir()
		write(t, self, map[string]string{"cgroup": tt.cgroup, "mountinfo": tt.mountinfo})
		if diff := cmp.Diff(tt.want, findHierarchies(self)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tt.name, diff)
		}
	}
}

// TestVersion2IsSpokenTo uses a directory that has the files of a group but
// not their behaviour: it checks what is written, not that a kernel takes it.
func TestVersion2IsSpokenTo(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{
		"self/cgroup":                                "0::/mine\n",
		"self/mountinfo":                             "30 23 0:26 / " + root + "/fs rw - cgroup2 cgroup2 rw\n",
		"fs/mine/cgroup.controllers":                 "cpuset cpu io memory hugetlb pids\n",
		"fs/mine/cgroup.subtree_control":             "",
		"fs/mine/graphene-x/cgroup.subtree_control":  "",
		"fs/mine/graphene-x/r/memory.max":            "",
		"fs/mine/graphene-x/r/cpu.max":               "",
		"fs/mine/graphene-x/r/pids.max":              "",
		"fs/mine/graphene-x/r/memory.events":         "low 0\noom 3\noom_kill 2\noom_group_kill 0\n",
		"fs/mine/graphene-x/other/memory.events":     "",
		"fs/mine/graphene-x/other/cgroup.procs":      "",
		"fs/mine/graphene-x/other/below/pids.events": "",
	})
	groups := findControlGroups(filepath.Join(root, "self"), "graphene-x")
	if groups == nil {
		t.Fatal("there are no groups")
	}
	if got := groups.String(); got != "memory, cpu, pids" {
		t.Errorf("they limit %s", got)
	}
	group, err := groups.make("r", limits{memory: 1 << 20, cpu: 250, processes: 7})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, name := range []string{"cgroup.subtree_control", "graphene-x/cgroup.subtree_control", "graphene-x/r/memory.max", "graphene-x/r/cpu.max", "graphene-x/r/pids.max"} {
		text, err := os.ReadFile(filepath.Join(root, "fs/mine", name))
		if err != nil {
			t.Fatal(err)
		}
		got[name] = string(text)
	}
	want := map[string]string{
		"cgroup.subtree_control":            "+memory +cpu +pids",
		"graphene-x/cgroup.subtree_control": "+cpu +memory +pids",
		"graphene-x/r/memory.max":           "1048576",
		"graphene-x/r/cpu.max":              "25000 100000",
		"graphene-x/r/pids.max":             "7",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{filepath.Join(root, "fs/mine/graphene-x/r/cgroup.procs")}, group.entrances()); diff != "" {
		t.Errorf("entrances (-want +got)\n%s", diff)
	}
	if n := group.oomKills(); n != 2 {
		t.Errorf("%d processes were killed", n)
	}
}

// TestTheKernelLimitsGroups uses groups of this machine.
func TestTheKernelLimitsGroups(t *testing.T) {
	groups := findControlGroups("/proc/self", "graphene-test-"+strings.ToLower(t.Name()))
	if groups == nil {
		t.Skip("NOT TESTED: no control group of this machine is writable")
	}
	defer groups.close()
	t.Logf("%T: %s", groups.dialect, groups)
	group, err := groups.make("a", limits{memory: 64 << 20, cpu: 500, processes: 9})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range groups.settings(limits{memory: 64 << 20, cpu: 500, processes: 9}) {
		parent, ok := groups.parents[s.controller]
		if !ok {
			continue
		}
		text, err := os.ReadFile(filepath.Join(parent, "a", s.file))
		if s.optional && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || strings.TrimSpace(string(text)) != s.value {
			t.Errorf("%s is %q, want %s (%v)", s.file, text, s.value, err)
		}
	}
	if _, err := groups.make("left", limits{memory: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	if err := group.remove(); err != nil {
		t.Error(err)
	}
	if err := groups.sweep(); err != nil {
		t.Error(err)
	}
	groups.close()
	for _, parent := range groups.parents {
		if isDirectory(parent) {
			t.Errorf("%s is left", parent)
		}
	}
}
