package watchdog

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// A variable is one row of the reference page.
type variable struct {
	names, unset, modes, doc string // names: in the order in which they count
}

const (
	everyMode  = "all"
	childModes = "with a child"
	forkModes  = "streaming, serializing, classic"
)

// A default in words depends on other variables; one in backquotes is a value.
var variables = []variable{
	{"mode", "streaming if there is `fprocess`", everyMode, "how requests become answers; see above"},
	{"function_process fprocess", "required", childModes, "the program and its arguments, split at spaces; there is no shell"},
	{"http_upstream_url upstream_url", "`PORT` on 127.0.0.1", "http", "where the child listens"},
	{"PORT", "–", "http", "the port that the child is told to listen on, if there is no `upstream_url`"},
	{"static_path", "`/home/app/public`", "static", "the directory to serve"},

	{"port", "`8080`", everyMode, "where to listen; not used with `listen`"},
	{"metrics_port", "`8081`", everyMode, "where `/metrics` is; with `listen` it is at `/_/metrics` of the socket instead"},
	{"listen", "–", everyMode, "`unix:PATH` of a socket to listen on"},
	{"listen_peer_uid", "–", everyMode, "on a socket, serve only this user, root, and the watchdog's own"},
	{"lifeline_fd", "–", everyMode, "a descriptor whose end means that the platform has died: the function ends at once; on it a pool is told to end its workers while nobody calls, and that a call is about to come"},
	{"suppress_lock", "`false`", everyMode, "write no `/tmp/.lock`, which exists while the function is healthy; with `listen` there is none anyway"},

	{"exec_timeout", "`30s`", everyMode, "longest time a call may take, after the function has loaded; `0`: no bound. Then 504, and a process of the call's own is killed"},
	{"read_timeout", "`exec_timeout`", everyMode, "longest time for reading a request's body"},
	{"write_timeout", "`exec_timeout`", everyMode, "bounds a call as `exec_timeout` does; the shorter counts"},
	{"healthcheck_interval", "`0s`", everyMode, "how long calls are still accepted after SIGTERM, while health says 503"},
	{"load_timeout", "`10m`", "pool", "longest time for loading the function"},

	{"max_inflight", "`0`", everyMode, "calls at the same time; more get 429. `0`: no limit"},
	{"max_body", "`0`", everyMode, "bytes of a request's body; more get 413. `0`: no limit"},
	{"max_header_bytes", "`1Mi`", everyMode, "bytes of a request's headers"},
	{"max_buffer", "`64Mi`", "serializing, classic, http", "bytes of a body (413 beyond) or an answer (500 beyond) that must be held as a whole"},
	{"ready_path", "–", everyMode, "a path of the function that is asked to answer `/_/ready`"},

	{"content_type", "`application/octet-stream`", forkModes, "type of the answer; in classic, unset means the request's"},
	{"http_buffer_req_body buffer_http", "`false`", "http", "give the child a Content-Length even if the request has none"},
	{"cgi_headers", "`true`", "classic", "tell the process of the request by `Http_` variables; streaming and serializing always do"},
	{"combine_output", "`true`", "classic", "what the process prints as errors is part of the answer, and else goes to the log"},
	{"marshal_request", "`false`", "classic", "give the process `{\"header\": …, \"body\": {\"raw\": BASE64}}` instead of the body"},
	{"write_debug", "`false`", "classic", "log answers"},
	{"debug_headers", "`false`", "classic", "log the headers of requests, without credentials"},

	{"prefix_logs", "`true`", childModes, "put the time and the stream before each line that the child prints"},
	{"log_buffer_size", "`65536`", childModes, "longest line in bytes; longer ones are split. `-1`: no limit, up to 16 MiB"},
	{"log_callid log_call_id", "`false`", everyMode, "end lines of the log with the call's id"},
	{"jwt_auth", "`false`", everyMode, "let only callers through with a function token for this function, by its `OPENFAAS_NAME` and `OPENFAAS_NAMESPACE`; others get 401 or 403"},
	{"OPENFAAS_NAME OPENFAAS_NAMESPACE", "from the platform", everyMode, "the function's own, for `jwt_auth`; without the second a pod's namespace is taken from its service account"},
	{"jwt_auth_gateway", "`http://gateway.openfaas:8080`", everyMode, "with `jwt_auth`: where the platform is asked who signs its tokens"},
	{"jwt_auth_local", "`false`", everyMode, "with `jwt_auth`: the platform is at `http://127.0.0.1:8000`, unless `jwt_auth_gateway` says otherwise"},

	{"workers", "one per CPU", "pool", "most worker processes"},
	{"workers_min", "`1`", "pool", "worker processes kept while idle"},
	{"threads", "`1`", "pool", "threads of numeric libraries in a worker; above 1 each worker loads the function for itself"},
	{"worker_threads", "`1`", "pool", "calls that a worker answers at once, each in a Python thread; with an async `handle_batch`, batches at once"},
	{"max_requests", "`0`", "pool", "calls after which a worker is replaced; `0`: never"},
	{"max_memory", "`0`", "pool", "resident bytes beyond which a worker is replaced; at twice as many it is killed; `0`: never"},
	{"max_growth", "`0`", "pool", "bytes that a worker may grow after its first ten calls until it is replaced; `0`: never"},
	{"max_age", "`0`", "pool", "age at which a worker is replaced; `0`: never"},
	{"max_processes", "`512`", "pool", "processes and threads of a worker, with all that it has started, beyond which it is killed with all of them; `0`: no limit"},
	{"batch_max", "`32`", "pool", "calls that `handle_batch` is given together; `1`: none"},
	{"batch_latency", "`0`", "pool", "what a call of a function with `handle_batch` should take; `0`: no target"},
	{"handler_dir", "`function`", "pool", "the directory with `handler.py`"},
	{"handler_style", "by the signature", "pool", "`http`, `model` or `classic`"},
}

// The rest of the page is written by hand.
func TestTheTableInTheReferenceIsTrue(t *testing.T) {
	const page, from, to = "../docs/reference/watchdog.md", "from here -->\n\n", "<!-- to here -->"
	written, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(written), from)
	_, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("%s has no marks around the table", page)
	}
	var b bytes.Buffer
	b.WriteString(before + from + "| variable | default | modes | meaning |\n|---|---|---|---|\n")
	for _, v := range variables {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", strings.ReplaceAll(v.names, " ", "`, `"), v.unset, v.modes, v.doc)
	}
	b.WriteString("\n" + to + after)
	testkit.Golden(t, page, b.Bytes())
}

func TestEveryVariableThatIsReadIsInTheReference(t *testing.T) {
	source, err := os.ReadFile("environ.go")
	if err != nil {
		t.Fatal(err)
	}
	var read, described []string
	for _, call := range regexp.MustCompile(`e\.(?:text|number|boolean|duration|size)\(([^)]*)\)`).FindAllSubmatch(source, -1) {
		for _, name := range regexp.MustCompile(`"(\w+)"`).FindAllSubmatch(call[1], -1) {
			read = append(read, string(name[1]))
		}
	}
	for _, v := range variables {
		described = append(described, strings.Fields(v.names)...)
	}
	sorted := cmpopts.SortSlices(strings.Compare)
	slices.Sort(read)
	if diff := cmp.Diff(slices.Compact(read), described, sorted); diff != "" {
		t.Errorf("(-read +described)\n%s", diff)
	}
}

func TestTheDefaultsInTheReferenceAreTrue(t *testing.T) {
	base := []string{"fprocess=x"}
	unset, err := New(must(t, base))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variables {
		value, ok := strings.CutPrefix(strings.TrimSuffix(v.unset, "`"), "`")
		name, _, _ := strings.Cut(v.names, " ")
		if !ok || strings.Contains(value, "_timeout") || strings.Contains(value, "`") {
			continue
		}
		set, err := New(must(t, append(base, name+"="+value)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(unset.o, set.o, cmpopts.IgnoreFields(Options{}, "Environ", "Log")); diff != "" {
			t.Errorf("%s=%s is not the default (-unset +set)\n%s", name, value, diff)
		}
	}
}

func must(t *testing.T, environ []string) Options {
	t.Helper()
	o, err := FromEnviron(environ)
	if err != nil {
		t.Fatal(err)
	}
	return o
}
