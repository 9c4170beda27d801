package identity

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// guideBlocks returns the blocks of a guide in a language.
func guideBlocks(t *testing.T, page, language string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "guide", page))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		all = append(all, m[1])
	}
	if len(all) == 0 {
		t.Fatalf("%s has no block of %s", page, language)
	}
	return all
}

// An application stands beside the platform behind the proxy.
type application struct {
	*httptest.Server
	seen http.Header // of the last request
}

func newApplication(t *testing.T) *application {
	a := &application{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.seen = r.Header.Clone()
		fmt.Fprintf(w, "reports for %s at %s", r.Header.Get("X-User"), r.RequestURI)
	}))
	t.Cleanup(a.Close)
	return a
}

// behindNginx puts a real nginx, configured as the guide says, before a
// platform and an application, and returns where it listens.
func behindNginx(t *testing.T, p *platform, a *application, verify string) string {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil && whole {
		t.Fatalf("%v (apt-get install nginx-light)", err)
	}
	if err != nil {
		t.Skip("SKIPPED: nginx is not installed (apt-get install nginx-light)")
	}
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	config := "daemon off;\nuser root;\npid " + dir + "/pid;\nerror_log " + dir + "/error.log;\nevents {}\nhttp {\naccess_log off;\n"
	if os.Getuid() != 0 {
		config = strings.Replace(config, "user root;\n", "", 1)
	}
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		config += kind + "_temp_path " + filepath.Join(dir, kind) + ";\n"
	}
	config += "server {\nlisten " + address + ";\n" + strings.NewReplacer(
		"proxy_pass http://127.0.0.1:8080;\n    proxy_pass_request_body", "proxy_pass "+p.url+"/auth/verify"+verify+";\n    proxy_pass_request_body",
		"http://127.0.0.1:8080", p.url,
		"http://127.0.0.1:3000", a.URL,
	).Replace(guideBlocks(t, "edge.md", "nginx")[0]) + "}\n}\n"
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-p", dir, "-c", file, "-e", dir+"/error.log")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // its log says how it ended
	}()
	said := func() string {
		text, _ := os.ReadFile(dir + "/error.log") // empty if it cannot be read
		return string(text)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended already
		<-done
		if t.Failed() {
			t.Logf("nginx's log:\n%s", said())
		}
	})
	testkit.Eventually(t, "nginx listens", func() bool {
		select {
		case <-done:
			t.Fatalf("nginx ended:\n%s", said())
		default:
		}
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
	return "http://" + address
}

// ask sends a request with a token.
func ask(t *testing.T, target, token string) *person {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, target, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return newPerson(t).send(r)
}

func TestOtherApplicationsUseTheSameIdentitiesBehindNginx(t *testing.T) {
	i := startIssuer(t)
	rules := strings.ReplaceAll(secondRules(i), "DIR", ".")
	p := serve(t, rules, "--path-prefix", "/functions")
	p.rules(strings.ReplaceAll(secondRules(i), "DIR", p.dir))
	a := newApplication(t)
	front := behindNginx(t, p, a, "?role=callers")

	// The command line, through the proxy.
	c := p.terminal(t)
	c.p = &platform{t: t, url: front + "/functions", dir: p.dir}
	login := c.start("login", "--no-browser", "--no-exchange")
	newPerson(t).open(login.says(pageURL)).logIn(person1)
	login.ends(0)
	if who := c.whoami(); who.Caller != "second/id1" {
		t.Errorf("whoami: %+v", who)
	}
	token := loginOf(t, c).Token

	ask(t, front+"/reports/today?a=b&c=d", token).sees(200, "reports for id1 at /reports/today?a=b&c=d")
	if a.seen.Get("Authorization") != "" {
		t.Error("the application sees the token")
	}

	// Nobody is sent to log in, and back to what was asked for.
	b := newPerson(t)
	b.open(front + "/reports/today?a=b&c=d").logIn(person1)
	b.sees(200, "reports for id1 at /reports/today?a=b&c=d")
	if got := b.at.String(); got != front+"/reports/today?a=b&c=d" {
		t.Errorf("the login leads to %s", got)
	}
	b.open(front+"/functions/auth/me").sees(200, `"session":true`)
	b.open(front+"/reports/again").sees(200, "reports for id1")

	// Another site's page does not act in that session.
	r, err := http.NewRequest(http.MethodPost, front+"/reports/delete", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	b.send(r).sees(403, "")

	// Who is known, and has not the role.
	other := newPerson(t)
	other.open(front + "/functions/auth/login?return_to=/reports/").logIn(person2)
	other.sees(403, "")
	other.open(front+"/functions/auth/me").sees(200, `"caller":"second/id2"`)

	b.open(front + "/functions/auth/logout").submit()
	b.open(front+"/functions/auth/me").sees(401, "")
	ask(t, front+"/reports/", "").sees(200, "username") // the issuer's page
}
