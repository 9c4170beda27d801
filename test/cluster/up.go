//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// controllers are the control groups' hierarchies in which the node gets a
// group of its own.
var controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "systemd"}

const cgroups = "/sys/fs/cgroup"

// up brings the cluster up, unless it is, and returns when pods can run.
func (c *cluster) up(ctx context.Context) error {
	unlock, err := lock(c.State + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if c.running() {
		fmt.Println("cluster: it is up already")
		return nil
	}
	if os.Getuid() != 0 {
		return errors.New("only root can make a node: run it as root, or use light up")
	}
	if !exists(filepath.Join(cgroups, "memory", "cgroup.procs")) {
		return errors.New("this machine has no control groups of version 1, which the node needs: run the tests against another cluster")
	}
	if err := install(ctx); err != nil {
		return err
	}
	if err := c.build(ctx); err != nil {
		return err
	}
	python, err := c.pythonTar(ctx)
	if err != nil {
		return err
	}
	if err := c.clear(); err != nil {
		return err
	}
	began := time.Now()
	if err := c.prepare(); err != nil {
		return err
	}
	if err := c.startKeeper(ctx); err != nil {
		return errors.Join(err, c.clear())
	}
	if err := c.seed(ctx, python); err != nil {
		return errors.Join(err, c.clear())
	}
	fmt.Printf("cluster: up in %.1f s\n", time.Since(began).Seconds())
	return c.printEnv(os.Stdout)
}

// down takes the cluster down; it is no error if there is none.
func (c *cluster) down() error {
	unlock, err := lock(c.State + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.clear(); err != nil {
		return err
	}
	return os.Remove(c.State + ".lock")
}

// running tells whether the cluster is up.
func (c *cluster) running() bool {
	if c.pid("keeper") == 0 || !exists(c.run("ready")) {
		return false
	}
	cmd := c.inside(c.bin("kube"), "kubectl", "get", "--raw=/readyz")
	return cmd.Run() == nil
}

// prepare writes keys, users and configuration, and makes the control groups.
func (c *cluster) prepare() error {
	for _, dir := range []string{c.run("log"), filepath.Join(c.State, "registry")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	ca, err := c.writeKeys()
	if err != nil {
		return err
	}
	if err := c.writeUsers("https://"+c.NodeIP+":6443", ca.pem); err != nil {
		return err
	}
	for file, name := range map[string]string{
		"kubelet.yaml":                   "kubelet.yaml",
		"proxy.yaml":                     "proxy.yaml",
		"containerd.toml":                "containerd.toml",
		"registries/_default/hosts.toml": "hosts.toml",
		"cni/10-pods.conflist":           "pods.conflist",
		"Corefile":                       "Corefile",
		"dns.yaml":                       "dns.yaml",
	} {
		if err := c.configure(c.run(file), name); err != nil {
			return err
		}
	}
	for file, text := range map[string]string{
		"resolv.conf":      "# The node has no outside.\n",
		"node-resolv.conf": "nameserver " + c.NodeIP + "\nsearch svc.cluster.local cluster.local\n",
		"hosts":            "127.0.0.1 localhost\n" + c.NodeIP + " " + c.Node + "\n",
		// The kubelet writes these, and they are the machine's: in the node,
		// a file with the value that it wants lies over each.
		"overcommit_memory": "1\n",
		"panic_on_oom":      "0\n",
		"panic":             "10\n",
		"panic_on_oops":     "1\n",
	} {
		if err := os.WriteFile(c.run(file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	for _, controller := range controllers {
		dir := filepath.Join(cgroups, controller, c.cgroup())
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if controller != "cpuset" {
			continue
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			text, err := os.ReadFile(filepath.Join(cgroups, controller, file))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, file), text, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// startKeeper starts the process that holds the node and waits until the node
// is ready.
func (c *cluster) startKeeper(ctx context.Context) error {
	log, err := os.Create(c.log("keeper"))
	if err != nil {
		return err
	}
	defer log.Close()
	keeper := exec.Command("/proc/self/exe", "-name", c.Name, "keep")
	keeper.Args[0] = "cluster"
	keeper.Stdout, keeper.Stderr = log, log
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := keeper.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(c.run("keeper.pid"), []byte(strconv.Itoa(keeper.Process.Pid)), 0o644); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_ = keeper.Wait() // its log says more
		close(ended)
	}()
	for deadline := time.After(2 * time.Minute); !exists(c.run("ready")); {
		select {
		case <-time.After(50 * time.Millisecond):
			continue
		case <-ctx.Done():
			err = ctx.Err()
		case <-ended:
			err = errors.New("the node has ended")
		case <-deadline:
			err = errors.New("the node is not ready after two minutes")
		}
		logs, _ := filepath.Glob(c.run("log/*.log"))
		for _, l := range logs {
			fmt.Fprintf(os.Stderr, "== %s\n%s\n", filepath.Base(l), readTail(l))
		}
		return err
	}
	return nil
}

// clear ends the keeper, and the node with it, and removes what they left.
func (c *cluster) clear() error {
	// The death of the node's first process kills all others in the node. The
	// keeper's death kills it too, unless it came before the node was ready.
	for _, part := range []string{"keeper", "init"} {
		pid := c.pid(part)
		if pid == 0 {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end the %s: %w", part, err)
		}
	}
	deadline := time.Now().Add(30 * time.Second)
	for _, controller := range controllers {
		dir := filepath.Join(cgroups, controller, c.cgroup())
		for exists(dir) {
			removeGroups(dir)
			if time.Now().After(deadline) {
				return fmt.Errorf("control group %s is still in use", dir)
			}
			if exists(dir) {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	return os.RemoveAll(c.State)
}

// removeGroups removes the control groups below and at dir that have no
// processes left.
func removeGroups(dir string) {
	entries, _ := os.ReadDir(dir) // what cannot be read is in use
	for _, e := range entries {
		if e.IsDir() {
			removeGroups(filepath.Join(dir, e.Name()))
		}
	}
	_ = syscall.Rmdir(dir) // it is tried again
}

// pid is the process id of the running keeper, or of the node's first process,
// which is its init; 0 if there is none.
func (c *cluster) pid(part string) int {
	text, err := os.ReadFile(c.run(part + ".pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(text))
	if err != nil {
		return 0
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.HasPrefix(string(line), "cluster\x00-name\x00"+c.Name+"\x00") {
		return 0 // it has ended, and the number may be somebody else's
	}
	return pid
}

// seed fills the registry with what cannot be had from elsewhere: the base
// image of Python functions and the platform's queue.
func (c *cluster) seed(ctx context.Context, python string) error {
	nats := c.run("nats.tar")
	if err := writeImage(nats, "nats", c.bin("nats-server")); err != nil {
		return err
	}
	issuer := c.run("issuer.tar")
	if err := writeImage(issuer, "issuer", c.bin("issuer")); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"push", nats, c.Registry + "/library/nats:test"},
		{"push", issuer, c.Registry + "/test/issuer:test"},
		{"append", "--new_layer", python, "--new_tag", c.Registry + "/library/python:test"},
		{"mutate", c.Registry + "/library/python:test", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", "--set-platform", "linux/" + runtime.GOARCH, "--tag", c.Registry + "/library/python:test"},
	} {
		cmd := c.inside(append([]string{c.bin("crane")}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("crane %s: %w\n%s", args[0], err, tail(out))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// inside is a command that runs in the node.
func (c *cluster) inside(args ...string) *exec.Cmd {
	init, _ := os.ReadFile(c.run("init.pid")) // nsenter complains if there is none
	dir, err := os.Getwd()
	if err != nil {
		dir = "/"
	}
	return exec.Command("nsenter", append([]string{"--target", string(init), "--mount", "--net", "--uts", "--pid", "--cgroup", "--wdns=" + dir, "--",
		"env", "KUBECONFIG=" + c.config("admin"), "PATH=" + c.Bin + ":" + os.Getenv("PATH")}, args...)...)
}

// exec becomes a command in the node.
func (c *cluster) exec(args []string) error {
	if len(args) == 0 {
		return errUsage
	}
	if c.pid("keeper") == 0 {
		return errors.New("it is not up")
	}
	cmd := c.inside(args...)
	path, err := exec.LookPath(cmd.Args[0])
	if err != nil {
		return err
	}
	return syscall.Exec(path, cmd.Args, os.Environ())
}

// restartAPI kills the API server as a crash would; the node starts another.
func (c *cluster) restartAPI() error {
	out, err := c.inside("sh", "-c", "kill -9 $(cat "+c.run("apiserver.pid")+")").CombinedOutput()
	if err != nil {
		return fmt.Errorf("kill the API server: %w: %s", err, out)
	}
	return nil
}

// forwards are the ports of the machine's loopback that lead into the node.
func (c *cluster) forwards() map[string]string {
	return map[string]string{
		"api":      c.NodeIP + ":6443",
		"registry": c.Registry,
		"gateway":  c.Gateway,
	}
}

// printEnv writes what a shell needs to use the cluster from outside.
func (c *cluster) printEnv(w io.Writer) error {
	if c.pid("keeper") == 0 {
		return errors.New("it is not up")
	}
	address := map[string]string{}
	for name := range c.forwards() {
		text, err := os.ReadFile(c.run(name + ".address"))
		if err != nil {
			return err
		}
		address[name] = string(text)
	}
	_, err := fmt.Fprintf(w, "export KUBECONFIG=%s\nexport REGISTRY=%s\nexport GATEWAY=http://%s\nexport PATH=%s:$PATH\n",
		c.config("outside"), address["registry"], address["gateway"], c.Bin)
	return err
}

// keep holds the node: it starts the node's first process in namespaces of
// its own, forwards ports to it, and takes it along when it ends.
func (c *cluster) keep(ctx context.Context) error {
	// The node's first process is told when the thread that started it ends, so
	// this one stays.
	runtime.LockOSThread()
	node := exec.Command("/proc/self/exe", "-name", c.Name, "node")
	node.Args[0] = "cluster"
	node.Stdout, node.Stderr = os.Stdout, os.Stderr
	node.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS,
	}
	if err := node.Start(); err != nil {
		return err
	}
	if err := os.WriteFile(c.run("init.pid"), []byte(strconv.Itoa(node.Process.Pid)), 0o644); err != nil {
		return err
	}
	network, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", node.Process.Pid))
	if err != nil {
		return err
	}
	defer network.Close()
	ca, err := os.ReadFile(c.run("pki/ca.crt"))
	if err != nil {
		return err
	}
	token, err := os.ReadFile(c.run("admin.token"))
	if err != nil {
		return err
	}
	for name, target := range c.forwards() {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer l.Close()
		go forward(l, network, target)
		if name == "api" {
			if err := writeKubeconfig(c.config("outside"), "https://"+l.Addr().String(), ca, string(token)); err != nil {
				return err
			}
		}
		if err := os.WriteFile(c.run(name+".address"), []byte(l.Addr().String()), 0o644); err != nil {
			return err
		}
	}
	signal.Ignore(syscall.SIGHUP)
	stopped := context.AfterFunc(ctx, func() { _ = node.Process.Kill() })
	defer stopped()
	return node.Wait()
}

// linger is how long a caller may take to leave after the answer has ended.
const linger = 5 * time.Second

// forward serves connections to l by connections to target in another
// network, until l is closed.
func forward(l net.Listener, network *os.File, target string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			to, err := dialIn(network, target)
			if err != nil {
				fmt.Fprintln(os.Stderr, "forward:", err)
				return
			}
			defer to.Close()
			left := make(chan struct{})
			go func() {
				defer close(left)
				_, _ = io.Copy(to, from) // either side may leave
				_ = to.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, from)
			}()
			_, _ = io.Copy(from, to)
			_ = from.(*net.TCPConn).CloseWrite()
			// Whoever still sends has to read the answer first: closing now
			// could take it away from them.
			select {
			case <-left:
			case <-time.After(linger):
			}
		}()
	}
}
