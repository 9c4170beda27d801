//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// lightUp starts etcd and an API server on loopback, for tests of what only
// speaks to the API. Without controllers, nothing happens to what is created.
func (c *cluster) lightUp(ctx context.Context) error {
	if err := c.build(ctx); err != nil {
		return err
	}
	if err := c.lightDown(); err != nil {
		return err
	}
	if err := os.MkdirAll(c.run("log"), 0o755); err != nil {
		return err
	}
	began := time.Now()
	ports, err := freePorts(3)
	if err != nil {
		return err
	}
	ca, err := c.writeKeys()
	if err != nil {
		return err
	}
	api, etcd := fmt.Sprintf("127.0.0.1:%d", ports[0]), fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	if err := c.writeUsers("https://"+api, ca.pem); err != nil {
		return err
	}
	for _, d := range [][]string{
		{"etcd", "--data-dir", c.run("etcd"), "--unsafe-no-fsync", "--log-level", "error",
			"--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", fmt.Sprintf("http://127.0.0.1:%d", ports[2])},
		{"kube-apiserver", "--etcd-servers=" + etcd, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[0]), "--advertise-address=192.0.2.1",
			"--tls-cert-file=" + c.run("pki/apiserver.crt"), "--tls-private-key-file=" + c.run("pki/apiserver.key"), "--client-ca-file=" + c.run("pki/ca.crt"),
			"--token-auth-file=" + c.run("tokens.csv"), "--authorization-mode=RBAC", "--service-cluster-ip-range=" + c.ServiceIPs,
			"--service-account-key-file=" + c.run("pki/sa.pub"), "--service-account-signing-key-file=" + c.run("pki/sa.key"),
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--disable-admission-plugins=ServiceAccount", "--profiling=false"},
	} {
		log, err := os.Create(c.log(d[0]))
		if err != nil {
			return err
		}
		cmd := exec.Command(c.bin("kube"), d...)
		cmd.Stdout, cmd.Stderr = log, log
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		log.Close()
		if err := os.WriteFile(c.run(d[0]+".pid"), []byte(strconv.Itoa(cmd.Process.Pid)), 0o644); err != nil {
			return err
		}
	}
	if err := waitFor(ctx, "the API server", answers("https://"+api+"/readyz")); err != nil {
		return errors.Join(err, fmt.Errorf("%s", readTail(c.log("kube-apiserver"))))
	}
	fmt.Printf("cluster: light, up in %.1f s\nexport KUBECONFIG=%s\nexport PATH=%s:$PATH\n", time.Since(began).Seconds(), c.config("admin"), c.Bin)
	return nil
}

// lightDown ends what lightUp has started; it is no error if there is nothing.
func (c *cluster) lightDown() error {
	for _, name := range []string{"kube-apiserver", "etcd"} {
		text, err := os.ReadFile(c.run(name + ".pid"))
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(string(text))
		if err != nil {
			continue
		}
		if program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err != nil || program != c.bin("kube") {
			continue // it has ended, and the number may be somebody else's
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("end %s: %w", name, err)
		}
	}
	return os.RemoveAll(c.State)
}

// freePorts finds ports of loopback that nobody listens on, for programs that
// cannot choose one themselves.
func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // when all are known, so that they differ
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
