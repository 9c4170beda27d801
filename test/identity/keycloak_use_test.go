package identity

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/internal/testkit"
)

// acme is what a platform is told of Keycloak.
func acme(realm string) string {
	return fmt.Sprintf(`
  - name: acme
    iss: %s
    aud: [graphene]
    cli: {clientID: graphene-cli, scopes: [profile, email]}
    web: {clientID: graphene-web, clientSecretFile: DIR/web-secret, scopes: [profile, email]}
`, realm)
}

// roles are had by groups, and by the groups of a partner's people.
const roles = `
roles:
  - {name: operators, policy: [operate], condition: {ForAnyValue:StringEqual: {"jwt:groups": [operators]}}}
  - {name: callers, policy: [call], condition: {ForAnyValue:StringEqual: {"jwt:groups": [callers, partners]}}}
`

// serveAcme starts a platform that trusts Keycloak, and both issuers if there
// is a second.
func serveAcme(t *testing.T, more ...*issuer) *platform {
	t.Helper()
	needsWhole(t)
	rules := "issuers:" + acme(keycloaks.realm(t, "acme"))
	for _, i := range more {
		rules += second(i)
	}
	rules += policies + roles
	for _, i := range more {
		rules += fmt.Sprintf(`  - {name: callers of the second, policy: [call], principal: {"jwt:iss": %q, "jwt:sub": [id1]}}`+"\n", i.url)
	}
	p := serve(t, strings.ReplaceAll(rules, "DIR", "."))
	p.rules(strings.ReplaceAll(rules, "DIR", p.dir))
	return p
}

// logInAt logs a person in at the page of Keycloak that they are on.
func (p *person) logInAt(user string) *person {
	p.t.Helper()
	return p.submit("username", user, "password", user+"-password")
}

// deploy deploys the function echo, and one that nobody but operators may call.
func (p *platform) deploy(c *terminal) {
	p.t.Helper()
	c.run("new", "echo", "--lang", "go")
	c.run("up", "-f", "stack.yaml")
	text, err := os.ReadFile(filepath.Join(c.home, "stack.yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	other := strings.ReplaceAll(string(text), "  echo:", "  secretive:")
	if err := os.WriteFile(filepath.Join(c.home, "other.yaml"), []byte(other), 0o600); err != nil {
		p.t.Fatal(err)
	}
	c.run("deploy", "-f", "other.yaml")
}

func TestKeycloakLetsPeopleDoWhatTheirGroupsMay(t *testing.T) {
	p := serveAcme(t)
	alice := p.terminal(t)
	login := alice.start("login", "--no-browser")
	newPerson(t).open(login.says(pageURL)).logInAt("alice").sees(200, "You may close this window")
	login.ends(0)
	if who := alice.whoami(); who.Name != "alice" || who.Issuer != "acme" || !slices.Equal(who.Groups, []string{"operators"}) || !slices.Equal(who.Roles, []string{"operators"}) {
		t.Errorf("whoami: %+v", who)
	}
	checkFile(t, alice)
	p.deploy(alice)

	// Bob, by device code, may call one function and no other.
	bob := p.terminal(t)
	device := bob.start("login", "--device")
	newPerson(t).open(device.says(`(?s)with the code in it, at\s+(http://\S+)`)).logInAt("bob").submit("accept", "Yes")
	device.ends(0)
	if out, stderr, code := bob.try("hello", "invoke", "echo"); code != 0 || !strings.Contains(out, "hello") {
		t.Errorf("bob calls echo: exit %d %s%s", code, out, stderr)
	}
	if _, stderr, code := bob.try("hello", "invoke", "secretive"); code != 4 || !strings.Contains(stderr, "403 Forbidden") {
		t.Errorf("bob calls secretive: exit %d %s", code, stderr)
	}
	if _, stderr, code := bob.try("", "remove", "echo"); code != 4 || !strings.Contains(stderr, "Function:Delete") {
		t.Errorf("bob removes echo: exit %d %s", code, stderr)
	}

	// Carol is in no group, and is known nevertheless.
	carol := p.terminal(t)
	login = carol.start("login", "--no-browser")
	newPerson(t).open(login.says(pageURL)).logInAt("carol").sees(403, "You are not logged in")
	login.ends(4)
	if got := login.err.String(); !strings.Contains(got, "No policies found") {
		t.Errorf("carol's login says %q", got)
	}
	login = carol.start("login", "--no-browser", "--no-exchange")
	newPerson(t).open(login.says(pageURL)).logInAt("carol").sees(200, "You are logged in")
	login.ends(0)
	if who := carol.whoami(); who.Name != "carol" || len(who.Roles) != 0 {
		t.Errorf("whoami: %+v", who)
	}
	if _, stderr, code := carol.try("hello", "invoke", "echo"); code != 4 {
		t.Errorf("carol calls echo: exit %d %s", code, stderr)
	}

	// Dora logs in with her own company, behind Keycloak.
	dora := p.terminal(t)
	login = dora.start("login", "--no-browser")
	newPerson(t).open(login.says(pageURL)).follow("Partner GmbH").logInAt("dora").sees(200, "You are logged in")
	login.ends(0)
	if who := dora.whoami(); who.Issuer != "acme" || who.Name != "dora" || !slices.Equal(who.Groups, []string{"partners"}) || !slices.Equal(who.Roles, []string{"callers"}) {
		t.Errorf("whoami: %+v", who)
	}
	if out, stderr, code := dora.try("hello", "invoke", "echo"); code != 0 {
		t.Errorf("dora calls echo: exit %d %s%s", code, out, stderr)
	}

	// A pipeline.
	job := p.terminal(t)
	if _, stderr, code := job.try("pipeline-secret", "login", "--client-id", "pipeline", "--client-secret-stdin"); code != 0 {
		t.Fatalf("the pipeline's login: exit %d %s", code, stderr)
	}
	if out, stderr, code := job.try("hello", "invoke", "echo"); code != 0 {
		t.Errorf("the pipeline calls echo: exit %d %s%s", code, out, stderr)
	}
	if status, body := p.get("/function/secretive", keycloaks.token(t, "pipeline", "pipeline-secret")); status != 403 {
		t.Errorf("the pipeline calls secretive: %d %s", status, body)
	}
	p.quiet(loginOf(t, alice).Option("refresh_token"), loginOf(t, bob).Option("refresh_token"))

	// Who is logged out at Keycloak is not prolonged.
	kept := loginOf(t, bob)
	bob.run("logout")
	if err := (logins.File{Path: bob.config()}).Save(p.url, expired(kept)); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := bob.try("", "whoami"); code != 4 || !strings.Contains(stderr, "has ended") {
		t.Errorf("after a logout: exit %d %s", code, stderr)
	}
}

func TestKeycloakAndASecondIssuerAreTrustedSideBySide(t *testing.T) {
	i := startIssuer(t)
	p := serveAcme(t, i)
	c := p.terminal(t)
	if _, stderr, code := c.try("", "login", "--no-browser"); code != 2 || !strings.Contains(stderr, "acme, second") {
		t.Errorf("a login without a choice: exit %d %s", code, stderr)
	}
	login := c.start("login", "--no-browser", "--issuer", "second")
	newPerson(t).open(login.says(pageURL)).logIn(person1)
	login.ends(0)
	if who := c.whoami(); who.Caller != "second/id1" {
		t.Errorf("whoami: %+v", who)
	}
	other := p.terminal(t)
	login = other.start("login", "--no-browser", "--issuer", "acme")
	newPerson(t).open(login.says(pageURL)).logInAt("bob")
	login.ends(0)
	if who := other.whoami(); who.Name != "bob" || !slices.Equal(who.Roles, []string{"callers"}) {
		t.Errorf("whoami: %+v", who)
	}
	// In a browser, too.
	b := newPerson(t)
	b.open(p.url+"/auth/login?return_to=/auth/me").follow("acme").logInAt("bob").sees(200, `"session":true`)
	b = newPerson(t)
	b.open(p.url+"/auth/login?return_to=/auth/me").follow("second").logIn(person1).sees(200, `"caller":"second/id1"`)
}

func TestSessionsWithKeycloak(t *testing.T) {
	p := serveAcme(t)
	p.deploy(p.admin(t))
	b := newPerson(t)
	b.open(p.url+"/auth/me").sees(401, "")
	b.open(p.url+"/auth/login?return_to=/auth/me").logInAt("bob").sees(200, `"name":"bob"`)
	b.open(p.url+"/function/echo").sees(200, "")
	b.open(p.url+"/function/secretive").sees(403, "may not do Function:Invoke")
	b.open(p.url+"/system/functions").sees(403, "")
	if me := b.open(p.url + "/auth/me"); !strings.Contains(me.text, `"roles":["callers"]`) || me.header.Get("Cache-Control") != "no-store" {
		t.Errorf("me: %s", me.text)
	}
	// Tokens of this client are good for 45 s, so that each of these is later
	// prolonged than the one before; what was said is said still.
	b.open(p.url+"/auth/me").sees(200, `"name":"bob"`)

	// Another site's page may not act for bob.
	r, err := http.NewRequest(http.MethodPost, p.url+"/function/echo", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "cross-site")
	b.send(r).sees(403, "another site")

	b.open(p.url + "/auth/logout").submit()
	b.sees(200, "You are logged out")
	b.open(p.url+"/auth/me").sees(401, "")
	// And at Keycloak: who comes back is asked for a password.
	b.open(p.url+"/auth/login").sees(200, "password")
}

// admin returns a terminal of the platform's administrator.
func (p *platform) admin(t *testing.T) *terminal {
	t.Helper()
	c := p.terminal(t)
	if _, stderr, code := c.try(p.password(), "login", "--username", "admin", "--password-stdin"); code != 0 {
		t.Fatalf("the administrator's login: exit %d %s", code, stderr)
	}
	return c
}

// TestKeysOfKeycloakAreReplacedUnderLoad adds a key that signs from then on,
// then takes the old one away, while calls go on with tokens of both.
func TestKeysOfKeycloakAreReplacedUnderLoad(t *testing.T) {
	p := serveAcme(t)
	var token atomic.Pointer[string]
	first := keycloaks.token(t, "pipeline", "pipeline-secret")
	token.Store(&first)
	stop := make(chan struct{})
	var calls sync.WaitGroup
	var done, refused atomic.Int64
	for range 4 {
		calls.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if status, body := p.get("/auth/me", *token.Load()); status != 200 {
					refused.Add(1)
					t.Errorf("a call during the rotation: %d %s", status, body)
					return
				}
				done.Add(1)
			}
		})
	}
	old := keycloaks.signingKeys(t)
	next := keycloaks.rotate(t, "next")
	header := func(s string) string { h, _, _ := strings.Cut(s, "."); return h }
	if header(first) == header(next) {
		t.Error("the new token has the old key: the test shows nothing")
	}
	before := done.Load()
	token.Store(&next)
	testkit.Eventually(t, "calls go on with the new key", func() bool { return done.Load() > before+20 || refused.Load() > 0 })
	close(stop)
	calls.Wait()
	t.Logf("%d calls while the key was replaced", done.Load())

	// An old key that Keycloak takes away is not good any more when the platform
	// next asks for keys: after five minutes, or for a token with a new one.
	if status, body := p.get("/auth/me", first); status != 200 {
		t.Errorf("a token of the old key, which is published still: %d %s", status, body)
	}
	for _, id := range old {
		keycloaks.admin(t, "DELETE", "acme/components/"+id, nil, nil)
	}
	last := keycloaks.rotate(t, "last")
	for _, good := range []string{last, next} {
		if status, body := p.get("/auth/me", good); status != 200 {
			t.Errorf("a token of a key that is published: %d %s", status, body)
		}
	}
	if status, body := p.get("/auth/me", first); status != 401 {
		t.Errorf("a token of the key that was taken away: %d %s", status, body)
	}
}

// signingKeys are the IDs of what makes the keys that sign Keycloak's tokens.
func (k *keycloak) signingKeys(t *testing.T) []string {
	t.Helper()
	var all []struct {
		ID         string
		ProviderID string `json:"providerId"`
	}
	k.admin(t, "GET", "acme/components?type=org.keycloak.keys.KeyProvider", nil, &all)
	var ids []string
	for _, c := range all {
		if c.ProviderID == "rsa-generated" {
			ids = append(ids, c.ID)
		}
	}
	if len(ids) == 0 {
		t.Fatalf("Keycloak has no key of its own: %+v", all)
	}
	return ids
}

// rotate has a new key sign Keycloak's tokens, and returns one of these.
func (k *keycloak) rotate(t *testing.T, name string) (token string) {
	t.Helper()
	priority := strconv.FormatInt(time.Now().UnixMilli(), 10) // above all from before
	k.admin(t, "POST", "acme/components", map[string]any{
		"name": name, "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
		"config": map[string][]string{"priority": {priority}, "enabled": {"true"}, "active": {"true"}, "algorithm": {"RS256"}, "keySize": {"2048"}},
	}, nil)
	return k.token(t, "pipeline", "pipeline-secret")
}

// TestKeycloakIsAway shows that who is known stays known while the issuer does
// not answer, and that others are told why they cannot log in.
func TestKeycloakIsAway(t *testing.T) {
	p := serveAcme(t)
	token := keycloaks.token(t, "pipeline", "pipeline-secret")
	if status, body := p.get("/auth/me", token); status != 200 {
		t.Fatalf("before: %d %s", status, body)
	}
	other := keycloaks.token(t, "pipeline", "pipeline-secret")
	resume := keycloaks.pause(t)
	for _, good := range []string{token, other} { // one is cached, the other is verified by keys that are
		if status, body := p.get("/auth/me", good); status != 200 {
			t.Errorf("while Keycloak is away: %d %s", status, body)
		}
	}
	began := time.Now()
	if _, stderr, code := p.terminal(t).try("", "login", "--no-browser"); code != 5 || !strings.Contains(stderr, "issuer") {
		t.Errorf("a new login: exit %d %s", code, stderr)
	}
	newPerson(t).open(p.url+"/auth/login").sees(503, "The issuer cannot be reached")
	t.Logf("both were told within %v", time.Since(began).Round(time.Second))
	resume()
	newPerson(t).open(p.url+"/auth/login").sees(200, "password")
}

func TestWhatKeycloakDidNotSignForThisPlatformIsRefused(t *testing.T) {
	p := serveAcme(t)
	// For another audience: the management's own token.
	foreign := postToken(t, keycloaks.realm(t, "master"), map[string][]string{"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {adminPassword}})
	if status, body := p.get("/auth/me", foreign); status != 401 || !strings.Contains(body, "not trusted") {
		t.Errorf("a token of another realm: %d %s", status, body)
	}
	good := keycloaks.token(t, "pipeline", "pipeline-secret")
	if status, body := p.get("/auth/me", good[:len(good)-20]); status != 401 {
		t.Errorf("a token that is cut off: %d %s", status, body)
	}
	var answer map[string]any
	if status, body := p.get("/auth/config", ""); status != 200 || json.Unmarshal([]byte(body), &answer) != nil || strings.Contains(body, "secret") {
		t.Errorf("how people log in: %d %s", status, body)
	}
}
