package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/graphene-faas/graphene/internal/iam"
)

// TestTheGuidesRulesAreRight reads every rule that a guide shows, in the form
// of a file and in that of resources of a cluster.
func TestTheGuidesRulesAreRight(t *testing.T) {
	const issuer = "issuers: [{name: corp, iss: https://sso.example.com, aud: [graphene]}]\n"
	const filler = "\npolicies: [%s]\n"
	policy := func(name string) string {
		return fmt.Sprintf(`{name: %s, statement: [{sid: s, effect: Allow, action: ["*"], resource: ["*"]}]}`, name)
	}
	seen := 0
	for _, page := range []string{"login.md", "keycloak.md", "issuers.md", "service-accounts.md", "customers.md"} {
		text, err := os.ReadFile(filepath.Join("..", "..", "docs", "guide", page))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "```yaml") {
			continue
		}
		for _, block := range guideBlocks(t, page, "yaml") {
			if strings.Contains(block, "staticClients:") || strings.HasPrefix(block, "iam:") {
				continue // Dex's own, and values of the chart
			}
			seen++
			if strings.HasPrefix(block, "apiVersion:") {
				block = rulesOf(t, block)
			}
			if !strings.Contains(block, "issuers:") {
				block = issuer + block
			}
			if !strings.Contains(block, "policies:") {
				block += fmt.Sprintf(filler, policy("call-acme")+", "+policy("deploy-acme"))
			}
			if _, err := iam.ParseRules([]byte(block)); err != nil {
				t.Errorf("%s: %v\n%s", page, err, block)
			}
		}
	}
	if seen < 5 {
		t.Errorf("only %d rules were found: the test looks in the wrong place", seen)
	}
}

// rulesOf makes a file of rules of the policies and roles among manifests.
func rulesOf(t *testing.T, manifests string) string {
	t.Helper()
	rules := map[string][]map[string]any{}
	for d := yaml.NewDecoder(strings.NewReader(manifests)); ; {
		var resource struct {
			APIVersion string `yaml:"apiVersion"`
			Kind       string
			Metadata   struct{ Name string }
			Spec       map[string]any
		}
		if err := d.Decode(&resource); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if resource.APIVersion != "iam.openfaas.com/v1" {
			continue
		}
		kind, ok := map[string]string{"Policy": "policies", "Role": "roles"}[resource.Kind]
		if !ok {
			t.Fatalf("kind %s is not known", resource.Kind)
		}
		resource.Spec["name"] = resource.Metadata.Name
		rules[kind] = append(rules[kind], resource.Spec)
	}
	text, err := yaml.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// runPipeline runs the program of the guide as a service account.
func runPipeline(t *testing.T, p *platform, issuer, client, secret, function string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "pipeline.py")
	if err := os.WriteFile(program, []byte(guideBlocks(t, "service-accounts.md", "python")[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "python3", program)
	cmd.Env = append(os.Environ(), "ISSUER="+issuer, "CLIENT_ID="+client, "CLIENT_SECRET_FILE="+filepath.Join(dir, "secret"), "GATEWAY="+p.url, "FUNCTION="+function)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestTheGuideToKeycloakLeadsToALogin follows the guide: it imports its realm
// and uses its rules.
func TestTheGuideToKeycloakLeadsToALogin(t *testing.T) {
	needsWhole(t)
	keycloaks.realm(t, "acme") // it answers
	const host = "http://127.0.0.1"
	var realm map[string]any
	if err := json.Unmarshal([]byte(strings.ReplaceAll(guideBlocks(t, "keycloak.md", "json")[0], "https://functions.example.com", host)), &realm); err != nil {
		t.Fatal(err)
	}
	realm["sslRequired"] = "none"
	keycloaks.admin(t, "POST", "", realm, nil)
	keycloaks.admin(t, "POST", "corp/users", map[string]any{
		"username": "olga", "enabled": true, "email": "olga@corp.example", "emailVerified": true, "firstName": "Olga", "lastName": "Olsen",
		"groups": []string{"operators"}, "credentials": []map[string]any{{"type": "password", "value": "olga-password"}},
	}, nil)
	iss := keycloaks.realm(t, "corp")
	rules := strings.NewReplacer("https://sso.example.com/realms/corp", iss, "/etc/graphene/web-secret", "DIR/guide-secret").Replace(guideBlocks(t, "keycloak.md", "yaml")[0])
	p := serve(t, strings.ReplaceAll(rules, "DIR", "."))
	p.write("guide-secret", "change-me-web\n")
	p.rules(strings.ReplaceAll(rules, "DIR", p.dir))

	c := p.terminal(t)
	login := c.start("login", "--no-browser")
	newPerson(t).open(login.says(pageURL)).logInAt("olga").sees(200, "You are logged in")
	login.ends(0)
	if who := c.whoami(); who.Name != "olga" || len(who.Roles) != 1 || who.Roles[0] != "operators" {
		t.Errorf("whoami: %+v", who)
	}
	newPerson(t).open(p.url+"/auth/login?return_to=/auth/me").logInAt("olga").sees(200, `"roles":["operators"]`)

	c.run("namespace", "create", "acme")
	c.run("new", "echo", "--lang", "go")
	c.run("up", "-n", "acme")
	if out, err := runPipeline(t, p, iss, "nightly", "change-me-nightly", "echo.acme"); err != nil || !strings.Contains(out, "hello") {
		t.Errorf("the pipeline of the guide: %v\n%s", err, out)
	}
	if out, err := runPipeline(t, p, iss, "nightly", "change-me-nightly", "echo"); err == nil || !strings.Contains(out, "403") {
		t.Errorf("the pipeline calls what it may not: %v\n%s", err, out)
	}
	if out, err := runPipeline(t, p, iss, "nightly", "wrong", "echo.acme"); err == nil || !strings.Contains(out, "401") {
		t.Errorf("the pipeline with a wrong secret: %v\n%s", err, out)
	}
}
