//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestAClusterLeavesNothingBehind brings a cluster of its own up and down,
// twice, and kills one in between, and looks for what is left of them on the
// machine.
func TestAClusterLeavesNothingBehind(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can make a node")
	}
	c, err := newCluster("leftovers")
	if err != nil {
		t.Fatal(err)
	}
	if !exists(c.bin("pause.tar")) {
		t.Skip("SKIPPED: the cluster's binaries are not built; `make e2e` builds them")
	}
	program := filepath.Join(t.TempDir(), "cluster")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	do := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append([]string{"-name", c.Name}, args...)...)
		var out, complaints bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaints
		if err := cmd.Run(); err != nil {
			t.Fatalf("cluster %s: %v\n%s%s", strings.Join(args, " "), err, &out, &complaints)
		}
		return out.String()
	}
	t.Cleanup(func() { _ = exec.Command(program, "-name", c.Name, "down").Run() })

	before := machine(t, c)
	do("up")
	if out := do("up"); !strings.Contains(out, "already") {
		t.Errorf("a second up says %q", out)
	}
	// A pod, so that there are mounts, links and control groups to leave.
	do("exec", "kubectl", "create", "deployment", "x", "--image="+c.Registry+"/test/issuer:test")
	do("exec", "kubectl", "wait", "--for=condition=Available", "deployment/x", "--timeout=60s")
	if slices.Equal(before, machine(t, c)) {
		t.Fatal("this test does not see a cluster that is up, and so proves nothing")
	}
	do("down")
	same(t, "down", before, machine(t, c))

	do("up")
	keeper, err := os.FindProcess(c.pid("keeper"))
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Kill(); err != nil {
		t.Fatal(err)
	}
	do("down")
	same(t, "the death of the keeper and down", before, machine(t, c))
	do("down") // when there is nothing
	same(t, "a second down", before, machine(t, c))
}

func same(t *testing.T, what string, before, after []string) {
	t.Helper()
	for _, line := range after {
		if !slices.Contains(before, line) {
			t.Errorf("after %s there is: %s", what, line)
		}
	}
	for _, line := range before {
		if !slices.Contains(after, line) {
			t.Errorf("after %s there is no longer: %s", what, line)
		}
	}
}

// machine lists what a cluster could leave: mounts, network interfaces,
// control groups, processes, files and kernel settings.
func machine(t *testing.T, c *cluster) []string {
	t.Helper()
	var found []string
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, c.State) {
			found = append(found, "mount "+line)
		}
	}
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		found = append(found, "interface "+l.Name)
	}
	for _, controller := range controllers {
		if dir := filepath.Join(cgroups, controller, c.cgroup()); exists(dir) {
			found = append(found, "control group "+dir)
		}
	}
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range commands {
		line, err := os.ReadFile(file)
		if err == nil && (bytes.Contains(line, []byte(c.State)) || bytes.HasPrefix(line, []byte("cluster\x00-name\x00"+c.Name+"\x00"))) {
			found = append(found, fmt.Sprintf("process %s: %q", file, line))
		}
	}
	if exists(c.State) {
		found = append(found, "directory "+c.State)
	}
	for _, setting := range []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/hostname", "net/ipv4/ip_forward"} {
		value, err := os.ReadFile(filepath.Join("/proc/sys", setting))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, fmt.Sprintf("setting %s = %s", setting, bytes.TrimSpace(value)))
	}
	return found
}
