package watchdog_test

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/graphene-faas/graphene/watchdog"
)

var defaultWorkers = watchdog.WorkerOptions{MaxProcesses: 512}

var classicDefaults = watchdog.ClassicOptions{CGIHeaders: true, CombineOutput: true}

func TestFromEnvironReadsEverySetting(t *testing.T) {
	tests := map[string]struct {
		environ []string
		want    watchdog.Options
	}{
		"nothing": {
			want: watchdog.Options{
				Listen: "tcp::8080", Metrics: ":8081", LockFile: "/tmp/.lock", StaticPath: "/home/app/public",
				ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, ExecTimeout: 30 * time.Second,
				MaxHeaderBytes: 1 << 20, MaxBuffer: 64 << 20, PrefixLogs: true, LogBuffer: 64 << 10,
				ContentType: "application/octet-stream", Classic: classicDefaults, Workers: defaultWorkers,
			},
		},
		"of-watchdog's": {
			environ: []string{
				"mode=http", "fprocess=old one", "function_process=python  -m app", "upstream_url=http://127.0.0.1:1", "http_upstream_url=http://127.0.0.1:5000",
				"port=8090", "read_timeout=5", "write_timeout=1m", "exec_timeout=10s", "healthcheck_interval=3", "max_inflight=7",
				"prefix_logs=0", "log_buffer_size=-1", "log_call_id=true", "http_buffer_req_body=true", "ready_path=ok", "suppress_lock=1", "static_path=/srv",
			},
			want: watchdog.Options{
				Mode: watchdog.HTTP, Process: []string{"python", "-m", "app"}, Upstream: &url.URL{Scheme: "http", Host: "127.0.0.1:5000"},
				Listen: "tcp::8090", Metrics: ":8081", StaticPath: "/srv",
				ReadTimeout: 5 * time.Second, WriteTimeout: time.Minute, ExecTimeout: 10 * time.Second, DrainDelay: 3 * time.Second,
				ContentType: "application/octet-stream", Classic: classicDefaults, Workers: defaultWorkers,
				MaxInflight: 7, MaxHeaderBytes: 1 << 20, MaxBuffer: 64 << 20, BufferBody: true, LogBuffer: 16 << 20, LogCallID: true, ReadyPath: "/ok",
			},
		},
		"a pool behind a socket": {
			environ: []string{
				"mode=pool", "fprocess=python3 -m graphene_function", "listen=unix:/run/f.sock", "listen_peer_uid=0", "lifeline_fd=3", "exec_timeout=0",
				"workers=4", "workers_min=2", "threads=3", "worker_threads=5", "max_processes=0", "max_requests=100", "max_memory=512Mi", "max_growth=64Mi", "max_age=1h", "batch_max=8", "batch_latency=50ms", "load_timeout=5m", "handler_dir=src", "handler_style=model",
				"max_body=1k", "max_buffer=3Ki", "max_header_bytes=2Ki",
			},
			want: watchdog.Options{
				Mode: watchdog.Pool, Process: []string{"python3", "-m", "graphene_function"}, Listen: "unix:/run/f.sock", PeerUID: new(0), LifelineFD: 3,
				StaticPath: "/home/app/public", MaxHeaderBytes: 2 << 10, MaxBody: 1000, MaxBuffer: 3 << 10,
				ContentType: "application/octet-stream", Classic: classicDefaults, PrefixLogs: true, LogBuffer: 64 << 10,
				Workers: watchdog.WorkerOptions{
					Min: 2, Max: 4, Threads: 3, Concurrent: 5, MaxRequests: 100, MaxMemory: 512 << 20, MaxGrowth: 64 << 20, MaxAge: time.Hour, BatchMax: 8, BatchLatency: 50 * time.Millisecond, LoadTimeout: 5 * time.Minute, HandlerDir: "src", Style: "model",
				},
			},
		},
		"a server that is told its port": {
			environ: []string{"mode=http", "fprocess=x", "PORT=5001", "listen=unix:/s"},
			want: watchdog.Options{
				Mode: watchdog.HTTP, Process: []string{"x"}, Upstream: &url.URL{Scheme: "http", Host: "127.0.0.1:5001"}, Listen: "unix:/s", StaticPath: "/home/app/public",
				ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, ExecTimeout: 30 * time.Second,
				MaxHeaderBytes: 1 << 20, MaxBuffer: 64 << 20, PrefixLogs: true, LogBuffer: 64 << 10,
				ContentType: "application/octet-stream", Classic: classicDefaults, Workers: defaultWorkers,
			},
		},
		"a program and no mode": {
			environ: []string{"fprocess=cat", "content_type=text/plain", "listen=unix:/s"},
			want: watchdog.Options{
				Mode: watchdog.Streaming, Process: []string{"cat"}, Listen: "unix:/s", StaticPath: "/home/app/public",
				ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, ExecTimeout: 30 * time.Second,
				MaxHeaderBytes: 1 << 20, MaxBuffer: 64 << 20, PrefixLogs: true, LogBuffer: 64 << 10,
				ContentType: "text/plain", Classic: classicDefaults, Workers: defaultWorkers,
			},
		},
		"the classic watchdog's": {
			environ: []string{
				"mode=classic", "fprocess=cat", "listen=unix:/s", "cgi_headers=false", "combine_output=0", "marshal_request=true", "write_debug=1", "debug_headers=true",
			},
			want: watchdog.Options{
				Mode: watchdog.Classic, Process: []string{"cat"}, Listen: "unix:/s", StaticPath: "/home/app/public",
				ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second, ExecTimeout: 30 * time.Second,
				MaxHeaderBytes: 1 << 20, MaxBuffer: 64 << 20, PrefixLogs: true, LogBuffer: 64 << 10,
				Classic: watchdog.ClassicOptions{MarshalRequest: true, WriteDebug: true, DebugHeaders: true}, Workers: defaultWorkers,
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := watchdog.FromEnviron(test.environ)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(watchdog.Options{}, "Environ")); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestFromEnvironReportsEveryBadValueTogether(t *testing.T) {
	environ := []string{
		"port=http", "exec_timeout=soon", "max_inflight=-1", "prefix_logs=yes", "max_memory=1Q", "workers=2", "workers_min=3",
		"upstream_url=localhost", "listen=tcp:1", "handler_style=flask", "listen_peer_uid=root", "lifeline_fd=2",
		"jwt_auth=true",
	}
	_, err := watchdog.FromEnviron(environ)
	if err == nil {
		t.Fatal("no error")
	}
	for _, kv := range environ {
		name, _, _ := strings.Cut(kv, "=")
		if name == "port" || name == "workers" { // one is not used beside listen, the other is fine
			continue
		}
		if !strings.Contains(err.Error(), name+"=") {
			t.Errorf("no word about %s in\n%v", kv, err)
		}
	}
}

func TestAChildIsNotToldWhatIsMeantForTheWatchdog(t *testing.T) {
	o, err := watchdog.FromEnviron([]string{"A=1", "listen=unix:/s", "lifeline_fd=3", "listen_peer_uid=1", "exec_timeout=5"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"A=1", "exec_timeout=5"}, o.Environ); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzFromEnviron(f *testing.F) {
	f.Add("exec_timeout", "1m")
	f.Add("max_memory", "5Gi")
	f.Add("upstream_url", "http://[::1]:80")
	f.Add("port", "0")
	f.Fuzz(func(t *testing.T, name, value string) {
		o, err := watchdog.FromEnviron([]string{name + "=" + value})
		if err == nil && (o.ExecTimeout < 0 || o.MaxBody < 0 || o.Workers.MaxMemory < 0 || o.MaxInflight < 0) {
			t.Errorf("%s=%s was read as a negative bound", name, value)
		}
	})
}
