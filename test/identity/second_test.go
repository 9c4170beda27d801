package identity

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/graphene-faas/graphene/cli/logins"
)

// second is what a platform is told of the second issuer.
func second(i *issuer) string {
	return fmt.Sprintf(`
  - name: second
    iss: %q
    aud: [graphene, %s, %s]
    cli: {clientID: %s, scopes: [profile, email, offline_access]}
    web: {clientID: %s, clientSecretFile: DIR/second-secret, scopes: [profile, email, offline_access]}
`, i.url, cliClient, webClient, cliClient, webClient)
}

// policies let operators do everything and callers call one function.
const policies = `
policies:
  - name: operate
    statement: [{sid: all, effect: Allow, action: ["*"], resource: ["*"]}]
  - name: call
    statement: [{sid: echo, effect: Allow, action: ["Function:Invoke", "Function:List"], resource: ["openfaas-fn:echo"]}]
`

// secondRules make one person and the program of the second issuer callers.
func secondRules(i *issuer) string {
	return "issuers:" + second(i) + policies + fmt.Sprintf(`
roles:
  - {name: callers, policy: [call], principal: {"jwt:iss": %q, "jwt:sub": [id1, sid1]}}
`, i.url)
}

// serveSecond starts a platform that trusts the second issuer alone.
func serveSecond(t *testing.T) (*platform, *issuer) {
	t.Helper()
	i := startIssuer(t)
	p := serve(t, strings.ReplaceAll(secondRules(i), "DIR", "."))
	p.rules(strings.ReplaceAll(secondRules(i), "DIR", p.dir))
	return p, i
}

// whoami returns what the command line says of who is logged in.
func (c *terminal) whoami() (who struct {
	Caller, Subject, Issuer, Name, Login string
	Groups, Roles                        []string
	Admin, Prolonged                     bool
	Expiry                               string `json:"expires_at"`
}) {
	c.t.Helper()
	if err := json.Unmarshal([]byte(c.run("whoami", "-o", "json")), &who); err != nil {
		c.t.Fatal(err)
	}
	return who
}

// logIn logs a person in at the second issuer, at the page they are on.
func (p *person) logIn(user string) *person {
	p.t.Helper()
	return p.submit("username", user, "password", password)
}

// confirm answers whether a device may log in, which the issuer's page does by
// a script.
func (p *person) confirm(action string) *person {
	p.t.Helper()
	target, err := p.at.Parse("confirm?action=" + action)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.open(target.String())
}

var pageURL = `(?s)at\s+(http://\S+)`

func TestAPersonLogsInByBrowser(t *testing.T) {
	p, i := serveSecond(t)
	c := p.terminal(t)
	login := c.start("login", "--no-browser")
	newPerson(t).open(login.says(pageURL)).logIn(person1).sees(200, "You may close this window")
	login.ends(0)
	if got := login.out.String(); !strings.HasPrefix(got, "logged in to "+p.url+" as ") {
		t.Errorf("login says %q", got)
	}
	who := c.whoami()
	if who.Caller != "second/id1" || who.Login != "browser" || !who.Prolonged || len(who.Roles) != 1 || who.Roles[0] != "callers" {
		t.Errorf("whoami: %+v", who)
	}
	c.run("auth", "can-i", "invoke", "openfaas-fn/echo")
	if _, stderr, code := c.try("", "auth", "can-i", "invoke", "openfaas-fn/other"); code != 1 {
		t.Errorf("can-i: exit %d %s", code, stderr)
	}
	logged := loginOf(t, c)
	checkFile(t, c)

	// After a logout the token is gone here, and its refresh token at the issuer.
	c.run("logout")
	if _, stderr, code := c.try("", "whoami"); code != 4 || !strings.Contains(stderr, "graphene login") {
		t.Errorf("whoami after logout: exit %d %s", code, stderr)
	}
	resp := newPerson(t)
	resp.open(i.url) // which has no page there
	if err := (logins.File{Path: c.config()}).Save(p.url, expired(logged)); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := c.try("", "whoami"); code != 4 || !strings.Contains(stderr, "has ended") {
		t.Errorf("a login that was ended is prolonged: exit %d %s", code, stderr)
	}
}

// loginOf returns the login that a terminal keeps.
func loginOf(t *testing.T, c *terminal) logins.Login {
	t.Helper()
	l, ok, err := logins.File{Path: c.config()}.Lookup(c.p.url)
	if !ok || err != nil {
		t.Fatalf("no login is kept: %v", err)
	}
	return l
}

// expired returns a login whose token has ended.
func expired(l logins.Login) logins.Login {
	l.Options = append([]logins.Option(nil), l.Options...)
	for i, o := range l.Options {
		if o.Name == "expires_at" {
			l.Options[i].Value = "2001-01-01T00:00:00Z"
		}
	}
	return l
}

// checkFile checks that faas-cli finds a login in a terminal's file: what it
// reads is known, and that others cannot read it.
func checkFile(t *testing.T, c *terminal) {
	t.Helper()
	info, err := os.Stat(c.config())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file of logins: %v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(c.config())
	if err != nil {
		t.Fatal(err)
	}
	// As faas-cli's own types have it.
	var file struct {
		Auths []struct {
			Gateway string `yaml:"gateway"`
			Auth    string `yaml:"auth"`
			Token   string `yaml:"token"`
			Options []struct {
				Name  string `yaml:"name"`
				Value string `yaml:"value"`
			} `yaml:"options"`
		} `yaml:"auths"`
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Auths) != 1 || file.Auths[0].Gateway != c.p.url || file.Auths[0].Auth != "oauth2" {
		t.Fatalf("faas-cli does not find the login: %+v", file)
	}
	if status, body := c.p.get("/system/functions", file.Auths[0].Token); status != 200 && status != 403 {
		t.Errorf("faas-cli's token: %d %s", status, body)
	}
}

func TestAPersonLogsInByDeviceCode(t *testing.T) {
	p, _ := serveSecond(t)
	c := p.terminal(t)
	// Without a display it is how one logs in.
	login := c.start("login")
	login.says("there is no browser on this machine")
	page := login.says(`(?s)at\s+(http://\S+)\s+with the code`)
	code := login.says(`(?s)with the code\s+(\S+)`)
	newPerson(t).open(page).submit("user_code", code).logIn(person1).confirm("allowed")
	login.ends(0)
	if who := c.whoami(); who.Caller != "second/id1" || who.Login != "device" {
		t.Errorf("whoami: %+v", who)
	}
	checkFile(t, c)
}

func TestAPersonWhoDeniesIsNotLoggedIn(t *testing.T) {
	p, _ := serveSecond(t)
	c := p.terminal(t)
	login := c.start("login", "--device")
	page := login.says(`(?s)with the code in it, at\s+(http://\S+)`)
	newPerson(t).open(page).logIn(person1).confirm("denied")
	login.ends(4)
	if got := login.err.String(); !strings.Contains(got, "access_denied") {
		t.Errorf("login says %q", got)
	}
	if _, err := os.Stat(c.config()); err == nil {
		t.Error("a login is kept")
	}
}

func TestAProgramLogsIn(t *testing.T) {
	p, _ := serveSecond(t)
	c := p.terminal(t)
	secret := c.home + "/secret"
	if err := os.WriteFile(secret, []byte(programSecret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run("login", "--client-id", programClient, "--client-secret-file", "secret", "--scope", "openid")
	if who := c.whoami(); who.Caller != "second/sid1" || who.Login != "client-credentials" || !who.Prolonged {
		t.Errorf("whoami: %+v", who)
	}
	text, err := os.ReadFile(c.config())
	if err != nil || strings.Contains(string(text), programSecret) {
		t.Errorf("the secret is kept: %v\n%s", err, text)
	}
	// The next token comes from the same secret.
	if err := (logins.File{Path: c.config()}).Save(p.url, expired(loginOf(t, c))); err != nil {
		t.Fatal(err)
	}
	c.run("whoami")
	if l := loginOf(t, c); l.Option("expires_at") < "2002" {
		t.Errorf("the login was not prolonged: %v", l.Options)
	}

	other := p.terminal(t)
	if _, stderr, code := other.try(programSecret, "login", "--client-id", programClient, "--client-secret-stdin", "--scope", "openid"); code != 0 {
		t.Fatalf("by standard input: exit %d %s", code, stderr)
	}
	if _, stderr, code := other.try("wrong", "login", "--client-id", programClient, "--client-secret-stdin"); code != 4 || !strings.Contains(stderr, "the issuer says") {
		t.Errorf("with a wrong secret: exit %d %s", code, stderr)
	}
	// A token from elsewhere is kept as it is.
	if _, stderr, code := other.try(loginOf(t, c).Token, "login", "--token-stdin"); code != 0 {
		t.Fatalf("with a token: exit %d %s", code, stderr)
	}
	if who := other.whoami(); who.Caller != "second/sid1" || who.Login != "token" || who.Prolonged {
		t.Errorf("whoami: %+v", who)
	}
}

func TestLoginsAreProlongedOnceForAllCommands(t *testing.T) {
	p, i := serveSecond(t)
	c := p.terminal(t)
	login := c.start("login", "--no-browser")
	newPerson(t).open(login.says(pageURL)).logIn(person1)
	login.ends(0)
	before := loginOf(t, c)
	if err := (logins.File{Path: c.config()}).Save(p.url, expired(before)); err != nil {
		t.Fatal(err)
	}
	// The issuer gives each refresh token once: a second one who asks with it is
	// refused.
	var commands []*started
	for range 4 {
		commands = append(commands, c.start("whoami"))
	}
	for _, s := range commands {
		s.ends(0)
	}
	after := loginOf(t, c)
	if after.Option("refresh_token") == before.Option("refresh_token") {
		t.Error("the refresh token is the same: the test shows nothing")
	}

	// While the issuer is away a token that is good is good enough.
	i.stop(true)
	soon := expired(after)
	for n, o := range soon.Options {
		if o.Name == "expires_at" {
			soon.Options[n].Value = inSeconds(30)
		}
	}
	if err := (logins.File{Path: c.config()}).Save(p.url, soon); err != nil {
		t.Fatal(err)
	}
	c.run("whoami")
	if err := (logins.File{Path: c.config()}).Save(p.url, expired(after)); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := c.try("", "whoami"); code != 5 || !strings.Contains(stderr, "issuer") {
		t.Errorf("with an issuer that is away: exit %d %s", code, stderr)
	}
	// New logins say so too.
	if _, stderr, code := p.terminal(t).try("", "login", "--no-browser"); code != 5 || !strings.Contains(stderr, "the issuer answers 503") {
		t.Errorf("a new login: exit %d %s", code, stderr)
	}
}

func TestStrangersDoNotEndALogin(t *testing.T) {
	p, _ := serveSecond(t)
	c := p.terminal(t)
	login := c.start("login", "--no-browser")
	page := login.says(pageURL)
	back := regexp.MustCompile(`redirect_uri=http%3A%2F%2F127.0.0.1%3A(\d+)`).FindStringSubmatch(page)
	if back == nil {
		t.Fatalf("no port in %s", page)
	}
	stranger := newPerson(t)
	stranger.open("http://127.0.0.1:"+back[1]+"/oauth/callback?code=stolen&state=guessed").sees(403, "not the login that was begun")
	stranger.open("http://127.0.0.1:"+back[1]+"/oauth/callback?error=access_denied").sees(403, "not the login that was begun")
	stranger.open("http://127.0.0.1:"+back[1]+"/").sees(404, "")
	newPerson(t).open(page).logIn(person1).sees(200, "You are logged in")
	login.ends(0)
}
