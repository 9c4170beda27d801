package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/servetest"
)

// A platform is a `graphene serve` that trusts issuers.
type platform struct {
	t   *testing.T
	url string
	dir string
	run *servetest.Process
	log *testkit.Buffer
}

// serve starts a platform with rules.
func serve(t *testing.T, rules string, flags ...string) *platform {
	t.Helper()
	p := &platform{t: t, dir: servetest.Dir(t)}
	p.write("rules.yaml", rules)
	p.write("web-secret", "web-secret\n")
	p.write("second-secret", webSecret+"\n")
	args := append([]string{"serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off", "--data-dir", filepath.Join(p.dir, "data"), "--auth-config", filepath.Join(p.dir, "rules.yaml"), "--login=false"}, flags...)
	cmd := exec.Command(graphene, args...)
	cmd.Env = append(os.Environ(), "HOME="+p.dir)
	p.run = servetest.Start(t, cmd)
	p.url, p.log = p.run.URL, p.run.Log
	t.Cleanup(p.stop)
	return p
}

func (p *platform) stop() {
	p.run.Stop(p.t)
	p.quiet()
	if p.t.Failed() {
		p.t.Logf("platform's log:\n%s", p.log)
	}
}

// tokens match what must not be in a log: tokens, and cookies of sessions.
var tokens = regexp.MustCompile(`eyJ[\w-]{8,}\.[\w-]{8,}\.|graphene(-login)?=[\w-]{20,}|(code|state|nonce|code_verifier)=[\w-]{16,}`)

// quiet fails the test if the platform's log has a secret: one of these, of
// those that all tests use, or something that looks like one.
func (p *platform) quiet(secrets ...string) {
	p.t.Helper()
	log := p.log.String()
	for _, s := range append(secrets, password, webSecret, programSecret, p.password(), adminPassword,
		"alice-password", "bob-password", "carol-password", "dora-password", "\"web-secret\"", "pipeline-secret", "broker-secret", "change-me") {
		if s != "" && strings.Contains(log, s) {
			p.t.Errorf("the log has the secret %.12s…", s)
		}
	}
	if found := tokens.FindString(log); found != "" {
		p.t.Errorf("the log has %.20s…, which looks like a secret", found)
	}
}

// write puts a file into the platform's directory.
func (p *platform) write(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// rules replaces the rules, and waits until they are in force.
func (p *platform) rules(text string) {
	p.t.Helper()
	before := strings.Count(p.log.String(), "rules of identity are in force")
	p.write("rules.yaml", text)
	testkit.Eventually(p.t, "the rules are in force", func() bool {
		return strings.Count(p.log.String(), "rules of identity are in force") > before
	})
}

// password is that of the administrator.
func (p *platform) password() string {
	p.t.Helper()
	text, err := os.ReadFile(filepath.Join(p.dir, "data", "auth", "basic-auth-password"))
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// in returns the platform for use by a subtest, whose failures are then its own.
func (p *platform) in(t *testing.T) *platform {
	q := *p
	q.t = t
	return &q
}

// An answer is a whole HTTP response.
type answer struct {
	status int
	header http.Header
	body   string
}

// ask sends a request with a token, if there is one.
func (p *platform) ask(method, path, body, token string) answer {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(text)}
}

// get asks for a path with a token, and returns what is answered.
func (p *platform) get(path, token string) (status int, body string) {
	p.t.Helper()
	a := p.ask(http.MethodGet, path, "", token)
	return a.status, a.body
}

// formToken posts a form to where tokens are given out, and returns the one
// that it gets.
func formToken(t *testing.T, address string, form url.Values) string {
	t.Helper()
	resp, err := http.PostForm(address, form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Token string `json:"access_token"`
	}
	text, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(text, &answer) != nil || answer.Token == "" {
		t.Fatalf("no token: %s %s, %v", resp.Status, text, err)
	}
	return answer.Token
}

// A terminal is where somebody uses the command line, with a home of their own.
type terminal struct {
	t    *testing.T
	p    *platform
	home string
	env  []string
}

func (p *platform) terminal(t *testing.T, env ...string) *terminal {
	t.Helper()
	return &terminal{t: t, p: p, home: t.TempDir(), env: env}
}

// config is where the command line keeps logins.
func (c *terminal) config() string { return filepath.Join(c.home, ".openfaas", "config.yml") }

func (c *terminal) command(stdin string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(c.t.Context(), 4*time.Minute)
	c.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, graphene, args...)
	cmd.Dir, cmd.Stdin = c.home, strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "HOME="+c.home, "OPENFAAS_URL="+c.p.url, "OPENFAAS_CONFIG=", "CI=", "DISPLAY=", "WAYLAND_DISPLAY=", "BROWSER=", "SSH_CONNECTION=", "NO_COLOR=1")
	cmd.Env = append(append(cmd.Env, caches...), c.env...)
	return cmd
}

// try runs a command and returns what it printed and how it ended.
func (c *terminal) try(stdin string, args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	cmd := c.command(stdin, args...)
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return o.String(), e.String(), cmd.ProcessState.ExitCode()
}

// run runs a command that must succeed and returns what it printed.
func (c *terminal) run(args ...string) string {
	c.t.Helper()
	stdout, stderr, code := c.try("", args...)
	if code != 0 {
		c.t.Fatalf("graphene %s: exit %d\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	return stdout
}

// A started command goes on while somebody does something elsewhere.
type started struct {
	c        *terminal
	cmd      *exec.Cmd
	out, err testkit.Buffer
}

func (c *terminal) start(args ...string) *started {
	c.t.Helper()
	s := &started{c: c, cmd: c.command("", args...)}
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.err
	if err := s.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return s
}

// says waits until the command has printed something that matches, to people,
// and returns the match.
func (s *started) says(pattern string) string {
	s.c.t.Helper()
	re := regexp.MustCompile(pattern)
	var found string
	testkit.Eventually(s.c.t, "the command says "+pattern, func() bool {
		if m := re.FindStringSubmatch(s.err.String()); m != nil {
			found = m[len(m)-1]
		}
		return found != ""
	})
	return found
}

// ends waits for the command's end and checks its code.
func (s *started) ends(code int) {
	s.c.t.Helper()
	if err := s.cmd.Wait(); err != nil && s.cmd.ProcessState == nil {
		s.c.t.Fatal(err)
	}
	if found := regexp.MustCompile(`eyJ[\w-]{8,}\.`).FindString(s.out.String() + s.err.String()); found != "" {
		s.c.t.Errorf("%q shows a token", s.cmd.Args)
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.c.t.Fatalf("%q ends with %d, want %d:\n%s%s", s.cmd.Args, got, code, &s.out, &s.err)
	}
}

// inSeconds is a time that is near, as logins keep it.
func inSeconds(n int) string {
	return time.Now().Add(time.Duration(n) * time.Second).UTC().Format(time.RFC3339)
}
