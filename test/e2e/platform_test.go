package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/servetest"
)

// graphene is the program under test, built once by TestMain.
var graphene string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "graphene-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil { // some tests run it as another user
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if graphene, err = servetest.Build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if onCluster() {
			if err := prepareCluster(); err != nil {
				fmt.Fprintf(os.Stderr, "the cluster cannot be tested: %v\n", err)
				return 1
			}
		}
		status := m.Run()
		if onCluster() {
			if err := checkLogs(); err != nil {
				fmt.Fprintf(os.Stderr, "at the end: %v\n", err)
				status = 1
			}
		}
		if err := writeReport(); err != nil {
			fmt.Fprintf(os.Stderr, "write the report: %v\n", err)
			return 1
		}
		return status
	}())
}

// A platform is what a test talks to, with a command line logged in to it: a
// `graphene serve` of the test's own, or the platform that runs in the cluster.
type platform struct {
	t   *testing.T
	dir string // home of everything: data, cli configuration, work
	url string

	// Of graphene serve. In a cluster, log stays empty and the others are unset.
	data    string
	program string
	user    *syscall.Credential // whom it runs as; nil is ourselves
	socket  *os.File            // on which callers wait while it does not run; nil is none
	run     *servetest.Process
	log     *testkit.Buffer // of run
}

// start gives a platform without functions to a test that holds for every size
// of it.
func start(t *testing.T) *platform {
	t.Helper()
	if onCluster() {
		return cluster(t)
	}
	return serveAs(t, nil)
}

// serve gives a test a `graphene serve` of its own, with flags. On a cluster
// the test is skipped for the reason why, which says what a cluster has not.
func serve(t *testing.T, why string, flags ...string) *platform {
	t.Helper()
	if onCluster() {
		t.Skipf("SKIPPED on a cluster: %s", why)
	}
	return serveAs(t, nil, flags...)
}

// serveAs runs graphene serve as another user, which only root can do.
func serveAs(t *testing.T, user *syscall.Credential, flags ...string) *platform {
	t.Helper()
	p := newPlatform(t)
	p.data, p.program, p.user = filepath.Join(p.dir, "data"), graphene, user
	if user != nil {
		if err := os.Chown(p.dir, int(user.Uid), int(user.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(p.stop)
	p.start(flags...)
	return p
}

// newPlatform makes the directory of a platform, which goes when the test
// ends.
func newPlatform(t *testing.T) *platform {
	t.Helper()
	return &platform{t: t, dir: servetest.Dir(t), log: new(testkit.Buffer)}
}

// in returns the platform for use by a subtest, whose failures are then its own.
func (p *platform) in(t *testing.T) *platform {
	q := *p
	q.t = t
	return &q
}

// copyIn copies a directory of testdata into the working directory.
func (p *platform) copyIn(name string) {
	p.t.Helper()
	if err := os.CopyFS(filepath.Join(p.work(), name), os.DirFS(filepath.Join("testdata", name))); err != nil {
		p.t.Fatal(err)
	}
}

// deployWire deploys testdata/wire, the function that answers in every way.
func (p *platform) deployWire(settings ...string) {
	p.t.Helper()
	p.copyIn("wire")
	p.stack("wire", "go", settings...)
	p.cli("up", "-f", "wire.yml")
}

func (p *platform) start(flags ...string) {
	p.t.Helper()
	listen := "127.0.0.1:0"
	if p.url != "" {
		listen = strings.TrimPrefix(p.url, "http://") // a restart keeps its address
	}
	args := append([]string{"--metrics-listen", "127.0.0.1:0", "--data-dir", p.data}, flags...)
	var cmd *exec.Cmd
	if p.socket == nil {
		cmd = exec.Command(p.program, append([]string{"serve", "--listen", listen}, args...)...)
		cmd.Env = p.environ()
	} else { // as systemd passes it
		cmd = exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh", p.program, "serve", "--listen", "systemd"}, args...)...)
		cmd.Env, cmd.ExtraFiles = append(p.environ(), "LISTEN_FDS=1"), []*os.File{p.socket}
	}
	if p.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.user}
		cmd.Env = append(cmd.Env, "HOME="+p.dir)
	}
	p.run = servetest.Start(p.t, cmd)
	p.url, p.log = p.run.URL, p.run.Log
}

// stop ends the platform as an operator would and shows its log when the test
// has failed.
func (p *platform) stop() {
	if p.run == nil {
		return // it has not started
	}
	p.run.Stop(p.t)
	password, err := os.ReadFile(filepath.Join(p.data, "auth", "basic-auth-password"))
	if err == nil && strings.Contains(p.log.String(), strings.TrimSpace(string(password))) {
		p.t.Error("the log of the platform holds the administrator's password")
	}
	if p.t.Failed() {
		p.t.Logf("platform's log:\n%s", p.log)
	}
}

// kill ends the platform as a power cut would.
func (p *platform) kill() {
	p.t.Helper()
	p.run.Kill(p.t)
}

func (p *platform) environ() []string {
	env := append(os.Environ(), "OPENFAAS_CONFIG="+filepath.Join(p.dir, "cli"), "NO_COLOR=1")
	if p.url != "" {
		env = append(env, "OPENFAAS_URL="+p.url)
	}
	return env
}

// work is the directory in which commands run.
func (p *platform) work() string {
	dir := filepath.Join(p.dir, "work")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		p.t.Fatal(err)
	}
	return dir
}

// try runs one command line and returns what it printed and how it ended.
func (p *platform) try(stdin string, args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	if i := slices.Index(args, "--from-literal"); i >= 0 {
		keepSecret(args[i+1:]...)
	}
	cmd := exec.CommandContext(p.t.Context(), graphene, args...)
	cmd.Dir, cmd.Env, cmd.Stdin = p.work(), p.environ(), strings.NewReader(stdin)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		p.t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// cli runs one command line that must succeed and returns what it printed.
func (p *platform) cli(args ...string) string {
	p.t.Helper()
	stdout, stderr, code := p.try("", args...)
	if code != 0 {
		p.t.Fatalf("graphene %s: exit %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// write puts a file into the working directory.
func (p *platform) write(name, text string) {
	p.t.Helper()
	path := filepath.Join(p.work(), name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		p.t.Fatal(err)
	}
}

// read returns a file of the working directory.
func (p *platform) read(name string) string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.work(), name))
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

// password is that of the administrator.
func (p *platform) password() string {
	p.t.Helper()
	if onCluster() {
		return clusterPassword
	}
	text, err := os.ReadFile(filepath.Join(p.data, "auth", "basic-auth-password"))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// An answer is a whole HTTP response.
type answer struct {
	status int
	header http.Header
	body   string
}

// do sends one request; paths under /system carry the password.
func (p *platform) do(method, path, body string, header ...string) (answer, error) {
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if strings.HasPrefix(path, "/system") {
		req.SetBasicAuth("admin", p.password())
	}
	keepSecretsOf(path, body, header)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text)}, err
}

// call sends one request that must be answered with status and returns the
// answer.
func (p *platform) call(status int, method, path, body string, header ...string) answer {
	p.t.Helper()
	a, err := p.do(method, path, body, header...)
	if err != nil {
		p.t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.status != status {
		p.t.Fatalf("%s %s = %d %q, want %d", method, path, a.status, a.body, status)
	}
	return a
}

// gone waits until nothing answers at path: the gateways of a cluster learn an
// instant after it that a function was removed.
func (p *platform) gone(path string) {
	p.t.Helper()
	testkit.Eventually(p.t, path+" is gone", func() bool {
		a, err := p.do("GET", path, "")
		return err == nil && a.status == http.StatusNotFound
	})
}
