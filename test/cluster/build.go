//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A program is built once per version of the sources.
type program struct {
	name    string
	pkg     string
	ldflags string
}

// kubernetesVersion is the one that go.mod requires, such as v1.37.2.
var kubernetesVersion = regexp.MustCompile(`\sk8s\.io/kubernetes (v(\d+)\.(\d+)\.\d+)\n`)

// programs, the one that takes longest first: nine of ten minutes.
func programs() ([]program, error) {
	requirements, err := sources.ReadFile("go.mod")
	if err != nil {
		return nil, err
	}
	version := kubernetesVersion.FindSubmatch(requirements)
	if version == nil {
		return nil, errors.New("go.mod requires no k8s.io/kubernetes")
	}
	// Kubernetes says its version and compares it with others'.
	var stamp strings.Builder
	for _, p := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		fmt.Fprintf(&stamp, " -X %[1]s.gitVersion=%[2]s -X %[1]s.gitMajor=%[3]s -X %[1]s.gitMinor=%[4]s -X %[1]s.gitTreeState=clean -X %[1]s.buildDate=1970-01-01T00:00:00Z", p, version[1], version[2], version[3])
	}
	return []program{
		{name: "kube", pkg: "./kube", ldflags: stamp.String()},
		{name: "coredns", pkg: "./dns"},
		{name: "helm", pkg: "helm.sh/helm/v4/cmd/helm"},
		{name: "kwok", pkg: "sigs.k8s.io/kwok/cmd/kwok"},
		{name: "crane", pkg: "github.com/google/go-containerregistry/cmd/crane"},
		{name: "nats-server", pkg: "github.com/nats-io/nats-server/v2"},
		{name: "issuer", pkg: "./issuer"},
		{name: "pause", pkg: "./pause"},
	}, nil
}

// packages are Debian's, each named by a program that it brings.
var packages = map[string]string{
	"containerd":       "containerd",
	"runc":             "runc",
	"/usr/lib/cni/ptp": "containernetworking-plugins",
	"nft":              "nftables",
	"conntrack":        "conntrack",
	"ip":               "iproute2",
	"mmdebstrap":       "mmdebstrap",
}

// build makes what is missing below c.Bin, which is nothing after the first
// time.
func (c *cluster) build(ctx context.Context) error {
	unlock, err := lock(c.Bin + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	all, err := programs()
	if err != nil {
		return err
	}
	for _, p := range all {
		if exists(c.bin(p.name)) {
			continue
		}
		source, err := sourceDir()
		if err != nil {
			return err
		}
		began := time.Now()
		fmt.Printf("cluster: build %s\n", p.name)
		// The API server and kubelet take gigabytes to link. Nothing that
		// serves somebody should wait for them.
		cmd := exec.CommandContext(ctx, "nice", "go", "build", "-trimpath", "-ldflags", "-s -w"+p.ldflags, "-o", c.bin(p.name)+".new", p.pkg)
		cmd.Dir = source
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", p.name, err, tail(out))
		}
		if err := os.Rename(c.bin(p.name)+".new", c.bin(p.name)); err != nil {
			return err
		}
		fmt.Printf("cluster: built %s in %v\n", p.name, time.Since(began).Round(time.Second))
	}
	if err := linkKubectl(c.bin("kubectl")); err != nil {
		return err
	}
	if !exists(c.bin("pause.tar")) {
		return writeImage(c.bin("pause.tar"), c.PauseImage, c.bin("pause"))
	}
	return nil
}

// linkKubectl writes kubectl, so that people and scripts find it by its name.
func linkKubectl(file string) error {
	if exists(file) {
		return nil
	}
	return os.WriteFile(file, []byte("#!/bin/sh\nexec \"$(dirname \"$0\")/kube\" kubectl \"$@\"\n"), 0o755)
}

// sourceDir is the directory of this module.
func sourceDir() (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if dir := filepath.Dir(file); ok && exists(filepath.Join(dir, "go.mod")) {
		return dir, nil
	}
	return "", errors.New("the sources that this program was built from are gone, and binaries are missing")
}

// install installs the packages whose programs are missing.
func install(ctx context.Context) error {
	var missing []string
	for program, pkg := range packages {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("these packages of Debian's are missing, and there is no apt-get: %s", strings.Join(missing, " "))
	}
	fmt.Printf("cluster: install %s\n", strings.Join(missing, " "))
	for _, args := range [][]string{{"update", "-qq"}, append([]string{"install", "-qy", "--no-install-recommends"}, missing...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get %s: %w\n%s", args[0], err, tail(out))
		}
	}
	return nil
}

// pythonTar is a file system with Python 3 on Debian's C library: the base of
// Python functions, since this machine may reach no registry. It is made once.
func (c *cluster) pythonTar(ctx context.Context) (string, error) {
	unlock, err := lock(c.Bin + ".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	args := []string{"--quiet", "--variant=essential", "--include=" + strings.Join(pythonPackages, ",")}
	for _, dir := range []string{"doc", "man", "locale"} {
		args = append(args, "--dpkgopt=path-exclude=/usr/share/"+dir+"/*")
	}
	key := sha256.Sum256([]byte(strings.Join(args, " ")))
	file := filepath.Join(filepath.Dir(c.Bin), "python3-bookworm-"+hex.EncodeToString(key[:4])+".tar.gz")
	if exists(file) {
		return file, nil
	}
	fmt.Println("cluster: make the base image of Python functions")
	cmd := exec.CommandContext(ctx, "mmdebstrap", append(args, "bookworm", file+".new.tar.gz")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make the base image of Python functions: %w\n%s", err, tail(out))
	}
	return file, os.Rename(file+".new.tar.gz", file)
}

// pythonPackages are what the base image of Python functions has besides the
// essentials: the libraries that wheels expect, as in Python's own images.
var pythonPackages = []string{"python3", "ca-certificates", "libstdc++6"}

// writeImage writes an image of one program as a file that ctr imports and
// crane pushes.
func writeImage(file, name, program string) error {
	binary, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	entry := filepath.Base(program)
	layer, err := tarOf(map[string][]byte{entry: binary})
	if err != nil {
		return err
	}
	sum := sha256.Sum256(layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": map[string]any{"Entrypoint": []string{"/" + entry}, "User": "65532:65532"},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal([]any{map[string]any{"Config": "config.json", "RepoTags": []string{name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	archive, err := tarOf(map[string][]byte{"layer.tar": layer, "config.json": config, "manifest.json": manifest})
	if err != nil {
		return err
	}
	return os.WriteFile(file, archive, 0o644)
}

func tarOf(files map[string][]byte) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(text)), ModTime: time.Unix(0, 0)}); err != nil {
			return nil, err
		}
		if _, err := w.Write(text); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), w.Close()
}

// lock holds a file until unlock is called or the process ends.
func lock(file string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// tail is the end of a command's output.
func tail(out []byte) []byte {
	return out[max(0, len(out)-4000):]
}

func readTail(file string) []byte {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	if _, err := f.Seek(-2000, io.SeekEnd); err != nil {
		_, _ = f.Seek(0, io.SeekStart) // it is shorter
	}
	text, _ := io.ReadAll(f) // what there is
	return text
}
