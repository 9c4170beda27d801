package identity

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/internal/testkit"
)

// dexes is the program Dex; nil without the end-to-end tests.
var dexes *dexProgram

// A dexProgram is Dex itself, built from the module in the folder dex.
type dexProgram struct {
	path  string
	built chan struct{} // closed when it is there, or has failed
	err   error         // why it has failed; may be read after built
}

// buildDex begins to build Dex in dir.
func buildDex(dir string) *dexProgram {
	d := &dexProgram{path: filepath.Join(dir, "dex"), built: make(chan struct{})}
	go func() {
		defer close(d.built)
		build := exec.Command("go", "-C", "dex", "build", "-o", d.path, "github.com/dexidp/dex/cmd/dex")
		// Dex cannot do without SQLite, which takes a C compiler a minute to
		// optimise and is used by nobody here.
		build.Env = append(os.Environ(), "CGO_ENABLED=1", "CGO_CFLAGS=-O0", "GOWORK=off")
		if out, err := build.CombinedOutput(); err != nil {
			d.err = fmt.Errorf("build Dex: %w\n%s", err, out)
		}
	}()
	return d
}

// wait waits for the end of the build.
func (d *dexProgram) wait() { <-d.built }

// dexUsers are the settings of Dex that are not a guide's: somebody with a
// password, who is in no group, and a connector that lets everybody in as one
// of the group authors. The hash is that of the password of all tests.
const dexUsers = `
storage: {type: memory}
web: {http: LISTEN}
enablePasswordDB: true
staticPasswords:
  - {email: jane@corp.example, username: jane, userID: "4711", hash: "$2a$10$2XF84310XtoR0Q5GoqEUgugd06YcHw6a7ZynudjK/AFESMspzMoQu"}
connectors:
  - {type: mockCallback, id: authors, name: Authors}
`

// start runs Dex with settings until the test's end, once it is built.
func (d *dexProgram) start(t *testing.T, issuer, settings string) {
	t.Helper()
	d.wait()
	if d.err != nil {
		t.Fatal(d.err)
	}
	file := filepath.Join(t.TempDir(), "dex.yaml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	log := new(testkit.Buffer)
	cmd := exec.CommandContext(t.Context(), d.path, "serve", file)
	cmd.Env = append(os.Environ(), "GRAPHENE_WEB_SECRET="+webSecret)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // the test's context has ended it
		if t.Failed() {
			t.Logf("Dex's log:\n%s", log)
		}
	})
	testkit.Eventually(t, "Dex answers", func() bool {
		resp, err := http.Get(issuer + "/.well-known/openid-configuration")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// freePort returns a port of this machine that nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	return port
}

// TestTheGuideToDexLeadsToALogin follows the guide: it starts Dex with its
// settings, and uses its rules.
func TestTheGuideToDexLeadsToALogin(t *testing.T) {
	needsWhole(t)
	const roles = policies + `
roles:
  - {name: operators, policy: [operate], condition: {StringEqual: {"jwt:email": [jane@corp.example]}}}
  - {name: authors, policy: [call], condition: {"ForAnyValue:StringEqual": {"jwt:groups": [authors]}}}
`
	// Dex and the platform have to know each other's address.
	p := serve(t, "issuers: [{name: nobody, iss: https://nobody.example, aud: [graphene]}]")
	at, back := "127.0.0.1:"+freePort(t), freePort(t)
	issuer := "http://" + at
	blocks := guideBlocks(t, "issuers.md", "yaml")
	adapt := strings.NewReplacer("https://dex.example.com", issuer, "https://functions.example.com", p.url, "8400", back,
		"/etc/graphene/web-secret", filepath.Join(p.dir, "second-secret"), "LISTEN", at)
	dexes.start(t, issuer, adapt.Replace(blocks[0]+dexUsers))
	p.rules(adapt.Replace(blocks[1]) + roles)

	jane := p.terminal(t)
	login := jane.start("login", "--no-browser")
	newPerson(t).open(login.says(pageURL)).follow("Email").submit("login", "jane@corp.example", "password", password).sees(200, "You are logged in")
	login.ends(0)
	if who := jane.whoami(); who.Name != "jane" || who.Issuer != "dex" || !who.Prolonged || !slices.Equal(who.Roles, []string{"operators"}) {
		t.Errorf("whoami: %+v", who)
	}
	checkFile(t, jane)
	p.deploy(jane)

	// The login is prolonged.
	before := loginOf(t, jane)
	if err := (logins.File{Path: jane.config()}).Save(p.url, expired(before)); err != nil {
		t.Fatal(err)
	}
	jane.run("whoami")
	if after := loginOf(t, jane); after.Token == before.Token || after.Option("expires_at") < "2002" {
		t.Errorf("the login was not prolonged: %v", after.Options)
	}

	// By device code, somebody in a group.
	author := p.terminal(t)
	login = author.start("login", "--device")
	newPerson(t).open(login.says(`(?s)with the code in it, at\s+(http://\S+)`)).submit().follow("Authors").sees(200, "Login Successful")
	login.ends(0)
	if who := author.whoami(); who.Login != "device" || !slices.Equal(who.Groups, []string{"authors"}) || !slices.Equal(who.Roles, []string{"authors"}) {
		t.Errorf("whoami: %+v", who)
	}
	if out, stderr, code := author.try("hello", "invoke", "echo"); code != 0 || !strings.Contains(out, "hello") {
		t.Errorf("an author calls echo: exit %d %s%s", code, out, stderr)
	}
	if _, stderr, code := author.try("hello", "invoke", "secretive"); code != 4 || !strings.Contains(stderr, "403 Forbidden") {
		t.Errorf("an author calls what they may not: exit %d %s", code, stderr)
	}

	// In a browser, until they log out.
	browser := newPerson(t)
	browser.open(p.url+"/auth/login?return_to=/auth/me").follow("Authors").sees(200, `"roles":["authors"]`)
	browser.open(p.url + "/auth/logout").submit()
	if browser.open(p.url + "/auth/me"); browser.status != http.StatusUnauthorized {
		t.Errorf("after the logout: %s", browser)
	}
}
