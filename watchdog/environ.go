package watchdog

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	defaultTimeout = 30 * time.Second
	defaultBuffer  = 64 << 20

	defaultProcesses = 512
)

// FromEnviron reads Options from an environment in the form of [os.Environ],
// by of-watchdog's names and Graphene's own. It fills everything that is data;
// Handler, Listener, Stdout, Stderr and Log are the caller's. The error
// reports every bad value together.
func FromEnviron(environ []string) (Options, error) {
	e := environment{values: map[string]string{}}
	for _, kv := range environ {
		if k, v, ok := strings.Cut(kv, "="); ok {
			e.values[k] = v
		}
	}

	o := Options{
		Mode:       Mode(e.text("mode")),
		Process:    strings.Fields(e.text("function_process", "fprocess")),
		Environ:    childEnvironment(environ),
		Upstream:   e.upstream(),
		StaticPath: "/home/app/public",

		Listen:     "tcp::" + strconv.Itoa(e.number("port", 8080, 1, 65535)),
		LifelineFD: e.number("lifeline_fd", 0, 3, 1<<20),

		ExecTimeout: e.duration("exec_timeout", defaultTimeout),
		DrainDelay:  e.duration("healthcheck_interval", 0),

		MaxInflight:    e.number("max_inflight", 0, 0, 1<<30),
		MaxHeaderBytes: int(e.size("max_header_bytes", 1<<20)),
		MaxBody:        e.size("max_body", 0),
		MaxBuffer:      e.size("max_buffer", defaultBuffer),
		ReadyPath:      e.text("ready_path"),

		BufferBody:  e.boolean(false, "http_buffer_req_body", "buffer_http"),
		ContentType: e.text("content_type"),
		Classic: ClassicOptions{
			CGIHeaders:     e.boolean(true, "cgi_headers"),
			CombineOutput:  e.boolean(true, "combine_output"),
			MarshalRequest: e.boolean(false, "marshal_request"),
			WriteDebug:     e.boolean(false, "write_debug"),
			DebugHeaders:   e.boolean(false, "debug_headers"),
		},

		PrefixLogs: e.boolean(true, "prefix_logs"),
		LogBuffer:  e.number("log_buffer_size", 64<<10, -1, 1<<30),
		LogCallID:  e.boolean(false, "log_callid", "log_call_id"),

		Workers: WorkerOptions{
			Min:          e.number("workers_min", 0, 0, 1<<16),
			Max:          e.number("workers", 0, 0, 1<<16),
			Threads:      e.number("threads", 0, 0, 1<<16),
			Concurrent:   e.number("worker_threads", 0, 0, 1<<10),
			MaxRequests:  e.number("max_requests", 0, 0, 1<<30),
			MaxMemory:    e.size("max_memory", 0),
			MaxGrowth:    e.size("max_growth", 0),
			MaxAge:       e.duration("max_age", 0),
			MaxProcesses: e.number("max_processes", defaultProcesses, 0, 1<<22),
			BatchMax:     e.number("batch_max", 0, 0, 1<<16),
			BatchLatency: e.duration("batch_latency", 0),
			LoadTimeout:  e.duration("load_timeout", 0),
			HandlerDir:   e.text("handler_dir"),
			Style:        e.text("handler_style"),
		},
	}
	if o.Mode == "" && len(o.Process) > 0 {
		o.Mode = Streaming
	}
	if o.ContentType == "" && o.Mode != Classic {
		o.ContentType = "application/octet-stream"
	}
	if e.boolean(false, "jwt_auth") {
		o.FunctionTokens = e.functionTokens()
	}
	// A call is bounded by exec_timeout alone unless the others are set, so
	// that raising one setting is enough for a slow function.
	o.ReadTimeout = e.duration("read_timeout", o.ExecTimeout)
	o.WriteTimeout = e.duration("write_timeout", o.ExecTimeout)
	if path := e.text("static_path"); path != "" {
		o.StaticPath = path
	}
	if o.ReadyPath != "" && !strings.HasPrefix(o.ReadyPath, "/") {
		o.ReadyPath = "/" + o.ReadyPath
	}
	if o.LogBuffer == -1 {
		o.LogBuffer = unlimitedLine
	}

	if listen := e.text("listen"); listen != "" {
		if path, ok := strings.CutPrefix(listen, "unix:"); !ok || path == "" {
			e.bad("listen", listen, "unix:PATH")
		}
		o.Listen = listen
	} else {
		o.Metrics = ":" + strconv.Itoa(e.number("metrics_port", 8081, 1, 65535))
		if !e.boolean(false, "suppress_lock") {
			o.LockFile = "/tmp/.lock"
		}
	}
	if e.text("listen_peer_uid") != "" {
		o.PeerUID = new(e.number("listen_peer_uid", 0, 0, 1<<32-1))
	}
	switch o.Workers.Style {
	case "", "http", "model", "classic":
	default:
		e.bad("handler_style", o.Workers.Style, "http, model or classic")
	}
	if o.Workers.Min > o.Workers.Max && o.Workers.Max > 0 {
		e.bad("workers_min", strconv.Itoa(o.Workers.Min), fmt.Sprintf("at most workers, which is %d", o.Workers.Max))
	}
	return o, errors.Join(e.problems...)
}

// Where images of OpenFaaS look for the platform, and on the machine itself.
const (
	clusterGateway = "http://gateway.openfaas:8080"
	localGateway   = "http://127.0.0.1:8000"
)

// serviceAccountNamespace holds a pod's namespace, where it has an account.
const serviceAccountNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// functionTokens reads who the function is, and where tokens come from.
func (e *environment) functionTokens() *FunctionTokens {
	t := &FunctionTokens{Gateway: clusterGateway, Name: e.text("OPENFAAS_NAME"), Namespace: e.text("OPENFAAS_NAMESPACE")}
	if e.boolean(false, "jwt_auth_local") {
		t.Gateway = localGateway
	}
	if v := e.text("jwt_auth_gateway"); v != "" {
		u, err := url.Parse(v)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			e.bad("jwt_auth_gateway", v, "a URL such as http://gateway.openfaas:8080")
		}
		t.Gateway = strings.TrimSuffix(v, "/")
	}
	if t.Namespace == "" {
		if text, err := os.ReadFile(serviceAccountNamespace); err == nil {
			t.Namespace = strings.TrimSpace(string(text))
		}
	}
	// To serve anyone where the function's owner asked for a check would be worse than not to start.
	if t.Name == "" || t.Namespace == "" {
		e.bad("jwt_auth", "true", "OPENFAAS_NAME and OPENFAAS_NAMESPACE set too: tokens name the function they are for")
	}
	return t
}

// unlimitedLine is what log_buffer_size -1 means: enough for any line that is
// meant to be one.
const unlimitedLine = 16 << 20

// childEnvironment is environ without what is addressed to this process
// alone. A child may be a watchdog itself.
func childEnvironment(environ []string) []string {
	own := []string{"listen", "listen_peer_uid", "lifeline_fd", "metrics_port"}
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		return slices.Contains(own, k)
	})
}

// absolutePythonPath returns environ with a PYTHONPATH that means the same in
// every directory: handlers change theirs, and start programs in others. Images
// name theirs relative to where they are unpacked.
func absolutePythonPath(environ []string) []string {
	environ = slices.Clone(environ)
	for i, kv := range environ {
		list, ok := strings.CutPrefix(kv, "PYTHONPATH=")
		if !ok {
			continue
		}
		dirs := filepath.SplitList(list)
		for j, dir := range dirs {
			if abs, err := filepath.Abs(dir); err == nil && dir != "" {
				dirs[j] = abs
			}
		}
		environ[i] = "PYTHONPATH=" + strings.Join(dirs, string(filepath.ListSeparator))
	}
	return environ
}

// environment reads typed values and remembers what was wrong with them.
type environment struct {
	values   map[string]string
	problems []error
}

func (e *environment) bad(name, value, want string) {
	e.problems = append(e.problems, fmt.Errorf("%s=%s: want %s", name, value, want))
}

// text is the value of the first of names that is set, without spaces around it.
func (e *environment) text(names ...string) string {
	for _, name := range names {
		if v := strings.TrimSpace(e.values[name]); v != "" {
			return v
		}
	}
	return ""
}

func (e *environment) number(name string, unset, low, high int) int {
	v := e.text(name)
	if v == "" {
		return unset
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < low || n > high {
		e.bad(name, v, fmt.Sprintf("a whole number from %d to %d", low, high))
		return unset
	}
	return n
}

// boolean is the first of names that is set.
func (e *environment) boolean(unset bool, names ...string) bool {
	for _, name := range names {
		switch v := e.text(name); v {
		case "":
			continue
		case "true", "1":
			return true
		case "false", "0":
			return false
		default:
			e.bad(name, v, "true or false")
		}
	}
	return unset
}

// duration reads bare seconds or Go's notation.
func (e *environment) duration(name string, unset time.Duration) time.Duration {
	v := e.text(name)
	if v == "" {
		return unset
	}
	d, err := parseDuration(v)
	if err != nil {
		e.bad(name, v, "seconds or a duration such as 1m30s, not negative")
		return unset
	}
	return d
}

func parseDuration(s string) (time.Duration, error) {
	if n, err := strconv.Atoi(s); err == nil {
		s = strconv.Itoa(n) + "s"
	}
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = errors.New("negative duration")
	}
	return d, err
}

// units are the suffixes of Kubernetes quantities that make sense for bytes.
var units = map[string]int64{
	"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12,
	"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40,
}

func (e *environment) size(name string, unset int64) int64 {
	v := e.text(name)
	if v == "" {
		return unset
	}
	digits := strings.TrimRight(v, "kKMGTi")
	unit, known := units[v[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !known || n < 0 || n > (1<<62)/unit {
		e.bad(name, v, "bytes, maybe with a suffix: "+strings.Join(slices.Sorted(maps.Keys(units))[1:], ", "))
		return unset
	}
	return n * unit
}

// upstream is where a child in mode http listens: as said outright, or on the
// port that it is told to use by the common PORT variable.
func (e *environment) upstream() *url.URL {
	name, v := "http_upstream_url", e.text("http_upstream_url")
	if v == "" {
		name, v = "upstream_url", e.text("upstream_url")
	}
	if v == "" {
		if port := e.text("PORT"); port != "" {
			name, v = "PORT", "http://127.0.0.1:"+port
		}
	}
	if v == "" {
		return nil
	}
	u, err := url.Parse(v)
	if err != nil || u.Scheme != "http" || u.Host == "" {
		e.bad(name, v, "a URL such as http://127.0.0.1:5000")
		return nil
	}
	return u
}
