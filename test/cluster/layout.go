//go:build linux

package main

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"text/template"
)

// sources are what the binaries are built from.
//
//go:embed go.mod go.sum kube dns pause issuer
var sources embed.FS

//go:embed config
var configs embed.FS

// A cluster knows where its things are and how they are called. Its fields are
// what the files in config refer to.
type cluster struct {
	Name  string
	Bin   string // binaries, for all clusters of this version
	State string // everything else; removed by down
	Run   string // certificates, configuration, logs and process ids

	Node       string
	NodeIP     string // address of the node in its own network
	PodCIDR    string
	ServiceIPs string // range of Services
	APIService string // first address of it, which leads to the API server
	DNSIP      string
	Registry   string // inside the node
	Gateway    string // where the chart's NodePort is, inside the node
	PauseImage string
}

func newCluster(name string) (*cluster, error) {
	if !regexp.MustCompile(`^[a-z0-9-]{1,32}$`).MatchString(name) {
		return nil, fmt.Errorf("a cluster cannot be called %q: use lower-case letters, digits and hyphens", name)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	key, err := sourceKey()
	if err != nil {
		return nil, err
	}
	base := filepath.Join(cache, "graphene", "cluster")
	state := filepath.Join(base, "state-"+name)
	return &cluster{
		Name:       name,
		Bin:        filepath.Join(base, key),
		State:      state,
		Run:        filepath.Join(state, "run"),
		Node:       "node1",
		NodeIP:     "10.99.0.1",
		PodCIDR:    "10.244.0.0/16",
		ServiceIPs: "10.96.0.0/16",
		APIService: "10.96.0.1",
		DNSIP:      "10.96.0.10",
		Registry:   "127.0.0.1:5000",
		Gateway:    "10.99.0.1:31112",
		PauseImage: "registry.k8s.io/pause:3.10.1",
	}, nil
}

// sourceKey names a version of the binaries: it changes with every file that
// they are built from and with the compiler.
func sourceKey() (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version())
	var add func(dir string) error
	add = func(dir string) error {
		entries, err := sources.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if e.IsDir() {
				if err := add(name); err != nil {
					return err
				}
				continue
			}
			text, err := sources.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(sum, "%s %d\n%s", name, len(text), text)
		}
		return nil
	}
	if err := add("."); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil))[:16], nil
}

// configure writes file, the template called config/NAME filled in.
func (c *cluster) configure(file, name string) error {
	t, err := template.ParseFS(configs, "config/"+name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.Execute(f, c); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return f.Close()
}

func (c *cluster) bin(name string) string    { return filepath.Join(c.Bin, name) }
func (c *cluster) run(name string) string    { return filepath.Join(c.Run, name) }
func (c *cluster) log(name string) string    { return filepath.Join(c.Run, "log", name+".log") }
func (c *cluster) cgroup() string            { return "graphene-" + c.Name }
func (c *cluster) config(user string) string { return c.run(user + ".kubeconfig") }
