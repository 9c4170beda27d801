package local

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/graphene-faas/graphene/internal/function"
)

// An environment is what a process is given, by name.
type environment map[string]string

func newEnvironment(list []string) environment {
	e := environment{}
	for _, kv := range list {
		if name, value, ok := strings.Cut(kv, "="); ok {
			e[name] = value
		}
	}
	return e
}

func (e environment) set(name, value string) { e[name] = value }
func (e environment) get(name string) string { return e[name] }

func (e environment) list() []string {
	var list []string
	for _, name := range slices.Sorted(maps.Keys(e)) {
		list = append(list, name+"="+e[name])
	}
	return list
}

// useInterpreter has "python" and "python3" mean exe: as the first word of
// fprocess, and for whatever the function starts.
func (e environment) useInterpreter(exe string) {
	words := strings.Fields(e["fprocess"])
	if len(words) > 0 && (words[0] == "python3" || words[0] == "python") {
		words[0] = exe
		e["fprocess"] = strings.Join(words, " ")
	}
	e["PATH"] = filepath.Dir(exe) + ":" + e["PATH"]
}

// assignPort gives a function that is an HTTP server a port of its own, since
// replicas of one machine share its ports. A function that says where it
// listens is left alone.
func (e environment) assignPort() error {
	if e["mode"] != "http" || e.upstream() != "" {
		return nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	address := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	e["PORT"] = strconv.Itoa(address.Port)
	e["upstream_url"] = "http://" + address.String()
	return nil
}

// upstream is where a function that is an HTTP server says that it listens.
func (e environment) upstream() string { return cmp.Or(e["http_upstream_url"], e["upstream_url"]) }

// fixedPort returns the port of this machine that a function insists on, or
// nothing. There can be only one replica of it at a time.
func (e environment) fixedPort() string {
	if e["mode"] != "http" || e.upstream() == "" {
		return ""
	}
	u, err := url.Parse(e.upstream())
	if err != nil {
		return "" // the watchdog will say so
	}
	if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && !ip.IsLoopback() && !ip.IsUnspecified() {
		return "" // a server elsewhere serves any number of replicas
	}
	return cmp.Or(u.Port(), "80")
}

// prefixes returns the directories an interpreter finds its library in: beside
// itself, and beside what it is a link to.
func prefixes(exe string) []string {
	list := []string{filepath.Dir(filepath.Dir(exe))}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		list = append(list, filepath.Dir(filepath.Dir(real)))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// settings reads the version's settings; an image brings defaults of its own
// in its environment.
func (v version) settings(img *image) (function.Settings, error) {
	return function.ReadSettings(v.annotations(), v.environment(img))
}

// environment is what the version's image and its deployment set.
func (v version) environment(img *image) environment {
	env := environment{}
	if img != nil {
		env = newEnvironment(img.config.Env)
	}
	maps.Copy(env, v.Spec.EnvVars)
	return env
}

// settingsOf is settings for a version that was checked when it was deployed.
// If its image is gone, replicas say so; until then its own settings will do.
func (r *Runtime) settingsOf(v version) function.Settings {
	img, err := r.images.open(v.Digest)
	if err != nil {
		img = nil
	}
	s, err := v.settings(img)
	if err != nil {
		r.Log.Warn("settings cannot be read; defaults apply", "function", v.Spec.Service, "err", err)
		s, _ = function.ReadSettings(nil, nil)
	}
	return s
}

// capacity returns how many workers a pool may have, 0 for as many as there
// are CPUs, and how many requests a replica handles at once, 0 for any number.
func capacity(s function.Settings, v version, img *image) (workers, slots int) {
	workers, slots = s.Workers, s.MaxInflight
	if workers == 0 {
		workers = cpuLimit(v)
	}
	if slots == 0 && img.target.Python != "" {
		slots = max(1, workers)
		if workers == 0 {
			slots = runtime.NumCPU()
		}
	}
	return workers, slots
}

// cpuLimit returns the CPUs that a version may use, rounded up; 0 is no limit.
func cpuLimit(v version) int { return int(milliCPULimit(v)+999) / 1000 }

// milliCPULimit returns the thousandths of a CPU that one replica may use; 0 is
// no limit.
func milliCPULimit(v version) int64 {
	if v.Spec.Limits == nil || v.Spec.Limits.CPU == "" {
		return 0
	}
	var m function.MilliCPU
	if m.UnmarshalText([]byte(v.Spec.Limits.CPU)) != nil {
		return 0 // refused when it was deployed
	}
	return int64(m)
}

// memoryLimit returns the bytes that one replica may use; 0 is no limit.
func memoryLimit(v version) int64 {
	if v.Spec.Limits == nil || v.Spec.Limits.Memory == "" {
		return 0
	}
	var b function.Bytes
	if b.UnmarshalText([]byte(v.Spec.Limits.Memory)) != nil {
		return 0 // refused when it was deployed
	}
	return int64(b)
}
