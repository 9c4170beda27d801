package identity

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit"
)

type signingKey struct{ ID, State string }

func (c *terminal) signingKeys() []signingKey {
	c.t.Helper()
	var all []signingKey
	if err := json.Unmarshal([]byte(c.run("auth", "signing-key", "list", "-o", "json")), &all); err != nil {
		c.t.Fatal(err)
	}
	return all
}

// TestSigningKeysAreRotatedByACommand shows what changes at once. That the new
// key signs two minutes later is tried with a clock of its own, in package auth.
func TestSigningKeysAreRotatedByACommand(t *testing.T) {
	p, i := serveSecond(t)
	c := p.admin(t)
	before := c.signingKeys()
	if len(before) != 1 || before[0].State != "signs" {
		t.Fatalf("at first: %+v", before)
	}
	token := p.apiToken(i.token(t))
	if status, body := p.get("/auth/me", token); status != 200 {
		t.Fatalf("with a token of the platform's: %d %s", status, body)
	}

	// Nobody may who has no right to.
	if a := p.ask(http.MethodPost, "/system/signing-keys", "", token); a.status != 403 || !strings.Contains(a.body, "Key:Rotate") {
		t.Errorf("a caller rotates: %d %s", a.status, a.body)
	}
	if a := p.ask(http.MethodPost, "/system/signing-keys", "", ""); a.status != 401 {
		t.Errorf("nobody rotates: %d %s", a.status, a.body)
	}
	if now := c.signingKeys(); len(now) != 1 {
		t.Errorf("who may not rotate did: %+v", now)
	}

	id := strings.TrimSpace(c.run("auth", "signing-key", "rotate"))
	testkit.Eventually(t, "the new key is published", func() bool {
		now := c.signingKeys()
		return len(now) == 2 && now[0] == signingKey{id, "next"} && now[1] == signingKey{before[0].ID, "signs"}
	})
	if _, jwks := p.get("/.well-known/jwks.json", ""); !strings.Contains(jwks, id) || !strings.Contains(jwks, before[0].ID) {
		t.Errorf("published are %s, want both", jwks)
	}
	if status, body := p.get("/auth/me", token); status != 200 {
		t.Errorf("with a token of the key before: %d %s", status, body)
	}
	if _, stderr, code := c.try("", "auth", "signing-key", "rotate"); code == 0 || !strings.Contains(stderr, "there is a new signing key already") {
		t.Errorf("once more: exit %d %s", code, stderr)
	}
	for _, line := range []string{`caller=admin action=Key:Rotate .*allowed=true`, `caller=\S+ action=Key:Rotate .*allowed=false`} {
		if !regexp.MustCompile(line).MatchString(p.log.String()) {
			t.Errorf("the log has no line with %s", line)
		}
	}
}
