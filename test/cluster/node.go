//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// dialIn connects to an address in another network namespace.
func dialIn(network *os.File, address string) (net.Conn, error) {
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		if _, _, errno := syscall.RawSyscall(sysSetns, network.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
			done <- result{err: fmt.Errorf("enter the node's network: %w", errno)}
			return
		}
		conn, err := net.DialTimeout("tcp", address, 10*time.Second)
		done <- result{conn, err}
	}()
	r := <-done
	return r.conn, r.err
}

// node is the first process of the node. It has namespaces of its own already,
// except that of control groups: for it, it goes into the node's groups first.
func (c *cluster) node(ctx context.Context) error {
	if os.Getenv("IN_CGROUP") == "" {
		runtime.LockOSThread()
		for _, controller := range controllers {
			if err := os.WriteFile(filepath.Join(cgroups, controller, c.cgroup(), "cgroup.procs"), []byte("0"), 0); err != nil {
				return err
			}
		}
		if err := syscall.Unshare(syscall.CLONE_NEWCGROUP); err != nil {
			return fmt.Errorf("make a namespace of control groups: %w", err)
		}
		if err := errors.Join(os.Setenv("IN_CGROUP", "1"), os.Setenv("PATH", c.Bin+":"+os.Getenv("PATH"))); err != nil {
			return err
		}
		// The namespace is this thread's; after exec it is everybody's.
		return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}
	// The node ends with its keeper. The wish is this thread's, which stays,
	// and would not have outlived exec.
	runtime.LockOSThread()
	if _, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0); errno != 0 {
		return errno
	}
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"mount", c.mount},
		{"make the network", c.network},
		{"start the control plane and containerd", func() error { return c.startControlPlane(ctx) }},
		{"start the node's agents", func() error { return c.startAgents(ctx) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	if err := os.WriteFile(c.run("ready"), nil, 0o644); err != nil {
		return err
	}
	// Orphans of the node come to its first process.
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); errors.Is(err, syscall.ECHILD) {
			return errors.New("nothing runs in the node any more")
		}
	}
}

// mount gives the node its own /proc, /run, control groups and a few files.
func (c *cluster) mount() error {
	type mount struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}
	mounts := []mount{
		{"", "/", "", syscall.MS_REC | syscall.MS_PRIVATE, ""},
		{"proc", "/proc", "proc", 0, ""},
		{"", "/", "", syscall.MS_REC | syscall.MS_SHARED, ""}, // the kubelet's mounts reach containers
		{"tmpfs", "/run", "tmpfs", 0, "mode=755"},
		{"tmpfs", "/var/log", "tmpfs", 0, ""},
		{"tmpfs", "/var/lib/kubelet", "tmpfs", 0, ""},
		{"", "/var/lib/kubelet", "", syscall.MS_REC | syscall.MS_SHARED, ""},
		{"tmpfs", cgroups, "tmpfs", 0, "mode=755"},
	}
	for _, controller := range controllers {
		data := controller
		if controller == "systemd" {
			data = "none,name=systemd"
		}
		mounts = append(mounts, mount{"cgroup", filepath.Join(cgroups, controller), "cgroup", 0, data})
	}
	for file, target := range map[string]string{
		"overcommit_memory": "/proc/sys/vm/overcommit_memory",
		"panic_on_oom":      "/proc/sys/vm/panic_on_oom",
		"panic":             "/proc/sys/kernel/panic",
		"panic_on_oops":     "/proc/sys/kernel/panic_on_oops",
		"hosts":             "/etc/hosts",
		"node-resolv.conf":  "/etc/resolv.conf",
	} {
		mounts = append(mounts, mount{c.run(file), target, "", syscall.MS_BIND, ""})
	}
	for _, m := range mounts {
		if m.target == cgroups {
			// The hierarchies as the machine sees them go, to come back as
			// the node's groups see them.
			if err := unmountBelow(cgroups); err != nil {
				return err
			}
		}
		if m.kind != "" {
			if err := os.MkdirAll(m.target, 0o755); err != nil {
				return err
			}
		}
		if err := syscall.Mount(m.source, m.target, m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	return nil
}

// unmountBelow takes dir and everything mounted in it away from this
// namespace.
func unmountBelow(dir string) error {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 1 && strings.HasPrefix(fields[1], dir+"/") {
			if err := syscall.Unmount(fields[1], syscall.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", fields[1], err)
			}
		}
	}
	return syscall.Unmount(dir, syscall.MNT_DETACH)
}

// network makes the node's address and the way to Services.
func (c *cluster) network() error {
	if err := syscall.Sethostname([]byte(c.Node)); err != nil {
		return err
	}
	for _, args := range []string{
		"link set lo up",
		"link add node0 type bridge", // a kernel may have no dummy interfaces
		"addr add " + c.NodeIP + "/24 dev node0",
		"link set node0 up",
		"route add " + c.ServiceIPs + " dev node0",
	} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0)
}

// startControlPlane starts what must be there before the node's agents.
func (c *cluster) startControlPlane(ctx context.Context) error {
	etcd := "http://127.0.0.1:2379"
	if err := c.daemon("registry", "crane", "registry", "serve", "--address", c.Registry, "--disk", filepath.Join(c.State, "registry")); err != nil {
		return err
	}
	if err := c.daemon("containerd", "containerd", "--config", c.run("containerd.toml")); err != nil {
		return err
	}
	// What etcd knows is gone with the node, so it need not reach a disk.
	if err := c.daemon("etcd", "kube", "etcd", "--data-dir", "/run/etcd", "--unsafe-no-fsync", "--log-level", "error",
		"--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", "http://127.0.0.1:2380"); err != nil {
		return err
	}
	if err := waitFor(ctx, "etcd", answers(etcd+"/health")); err != nil {
		return err
	}
	if err := c.startAPIServer(); err != nil {
		return err
	}
	if err := waitFor(ctx, "containerd", func(ctx context.Context) error { return exec.CommandContext(ctx, "ctr", "version").Run() }); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "ctr", "--namespace", "k8s.io", "images", "import", c.bin("pause.tar")).CombinedOutput(); err != nil {
		return fmt.Errorf("import the pause image: %w: %s", err, out)
	}
	return waitFor(ctx, "the API server", answers("https://"+c.NodeIP+":6443/readyz"))
}

// startAPIServer starts the API server; tests restart it by killing it.
func (c *cluster) startAPIServer() error {
	script := c.run("apiserver.sh")
	command := fmt.Sprintf(`while true; do
  kube kube-apiserver --etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --secure-port=6443 --advertise-address=%s \
    --service-cluster-ip-range=%s --service-node-port-range=30000-32767 \
    --tls-cert-file=%[3]s/pki/apiserver.crt --tls-private-key-file=%[3]s/pki/apiserver.key --client-ca-file=%[3]s/pki/ca.crt \
    --token-auth-file=%[3]s/tokens.csv --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --service-account-key-file=%[3]s/pki/sa.pub --service-account-signing-key-file=%[3]s/pki/sa.key --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --kubelet-preferred-address-types=InternalIP --profiling=false &
  echo $! > %[3]s/apiserver.pid # as the node counts
  wait $!
done
`, c.NodeIP, c.ServiceIPs, c.Run)
	if err := os.WriteFile(script, []byte(command), 0o644); err != nil {
		return err
	}
	return c.daemon("kube-apiserver", "sh", script)
}

// startAgents starts the rest and waits until pods can run.
func (c *cluster) startAgents(ctx context.Context) error {
	for _, d := range [][]string{
		{"kube-controller-manager", "kube", "kube-controller-manager", "--kubeconfig=" + c.config("controller-manager"), "--leader-elect=false",
			"--service-account-private-key-file=" + c.run("pki/sa.key"), "--root-ca-file=" + c.run("pki/ca.crt"),
			"--cluster-signing-cert-file=" + c.run("pki/ca.crt"), "--cluster-signing-key-file=" + c.run("pki/ca.key"),
			"--kube-api-qps=500", "--kube-api-burst=1000", "--bind-address=127.0.0.1", "--profiling=false"},
		{"kube-scheduler", "kube", "kube-scheduler", "--kubeconfig=" + c.config("scheduler"), "--leader-elect=false",
			"--kube-api-qps=500", "--kube-api-burst=1000", "--bind-address=127.0.0.1", "--profiling=false"},
		{"kubelet", "kube", "kubelet", "--config=" + c.run("kubelet.yaml"), "--kubeconfig=" + c.config("kubelet"),
			"--hostname-override=" + c.Node, "--node-ip=" + c.NodeIP, "--root-dir=/var/lib/kubelet"},
		{"kube-proxy", "kube", "kube-proxy", "--config=" + c.run("proxy.yaml")},
		{"coredns", "coredns", "-conf", c.run("Corefile")},
	} {
		if err := c.daemon(d[0], d[1:]...); err != nil {
			return err
		}
	}
	kubectl := func(args ...string) func(context.Context) error {
		return func(ctx context.Context) error {
			cmd := exec.CommandContext(ctx, "kube", append([]string{"kubectl", "--kubeconfig", c.config("admin")}, args...)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("kubectl %s: %w: %s", args[0], err, out)
			}
			return nil
		}
	}
	if err := kubectl("apply", "-f", c.run("dns.yaml"))(ctx); err != nil {
		return err
	}
	for what, ready := range map[string]func(context.Context) error{
		"the node":                    kubectl("wait", "--for=condition=Ready", "node/"+c.Node, "--timeout=60s"),
		"the default service account": kubectl("get", "serviceaccount", "default"),
		"DNS":                         answers("http://" + c.NodeIP + ":8181/ready"),
	} {
		if err := waitFor(ctx, what, ready); err != nil {
			return err
		}
	}
	return nil
}

// daemon starts a program that runs as long as the node, with a log.
func (c *cluster) daemon(name string, args ...string) error {
	log, err := os.Create(c.log(name))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	return cmd.Start() // whom node reaps
}

// waitFor waits for up to a minute until ready returns no error.
func waitFor(ctx context.Context, what string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// answers tells whether a URL is answered 200, whoever answers.
func answers(url string) func(context.Context) error {
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
		return nil
	}
}
