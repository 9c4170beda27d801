package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit"
)

// TestIdentityInACluster installs a real issuer in the cluster and has the
// platform trust it, and the cluster's own service accounts.
func TestIdentityInACluster(t *testing.T) {
	p := cluster(t)
	if *valuesFile == "" {
		t.Skip("SKIPPED: the values of the installation are not known")
	}
	for _, name := range []string{"echo", "limited"} {
		p.goFunction(name, "one")
		p.cli("up", "-f", name+".yml")
	}
	registry, _, _ := strings.Cut(p.status("echo").Image, "/")
	const issuer = "http://issuer.default.svc.cluster.local:9998/"
	p.apply(`apiVersion: apps/v1
kind: Deployment
metadata: {name: issuer, namespace: default}
spec:
  selector: {matchLabels: {app: issuer}}
  template:
    metadata: {labels: {app: issuer}}
    spec:
      containers:
      - {name: issuer, image: "` + registry + `/test/issuer:test", args: ["-issuer", "` + issuer + `"], readinessProbe: {tcpSocket: {port: 9998}}}
---
apiVersion: v1
kind: Service
metadata: {name: issuer, namespace: default}
spec: {selector: {app: issuer}, ports: [{port: 9998}]}
`)
	defer p.k("delete", "deploy/issuer", "service/issuer", "-n", "default")
	p.k("rollout", "status", "deploy/issuer", "-n", "default", "--timeout=60s")
	p.write("identity.yaml", `
iam: {enabled: true, serviceAccounts: {enabled: true}}
auth:
  issuers:
  - {name: test, iss: "`+issuer+`", aud: [graphene]}
  policies:
  - name: everything
    statement:
    - {sid: all, effect: Allow, action: ["*"], resource: ["*"]}
  roles:
  - name: machines
    policy: [everything]
    principal: {"jwt:iss": "`+issuer+`", "jwt:sub": [sid1]}
limits:
- {name: tight, callers: [test/sid1], functions: ["openfaas-fn:limited"], rate: 1/h, burst: 3}
gateway:
  accessLog: true
  env: {log_level: debug}
`)
	p.helm("upgrade", "graphene", "../../charts/graphene", "-n", systemNamespace, "-f", *valuesFile, "-f", p.work()+"/identity.yaml", "--wait", "--timeout", "3m")
	defer func() {
		p.helm("upgrade", "graphene", "../../charts/graphene", "-n", systemNamespace, "-f", *valuesFile, "--wait", "--timeout", "3m")
	}()
	// With an issuer, functions are no longer open.
	testkit.Eventually(t, "a call without a token is refused", func() bool {
		a, err := p.do("GET", "/function/echo", "")
		return err == nil && a.status == 401
	})
	token := p.token()
	t.Run("tokens of an issuer are believed", func(t *testing.T) { p.in(t).tokensAreBelieved(token) })
	t.Run("pods call as their service account", func(t *testing.T) { p.in(t).podsCall(registry) })
	t.Run("API keys are kept by the cluster", func(t *testing.T) { p.in(t).keysAreKept() })
	t.Run("signing keys are rotated", func(t *testing.T) { p.in(t).signingKeysRotate(token) })
	t.Run("limits hold and usage is whole", func(t *testing.T) { p.in(t).limitsHold(token) })
	// Here, because the next installation takes these logs away.
	p.logsAreQuiet("test/sid1", "system:serviceaccount:default:stranger")
}

func (p *platform) tokensAreBelieved(token string) {
	bearer := []string{"Authorization", "Bearer " + token}
	testkit.Eventually(p.t, "a call with a token is answered", func() bool {
		a, err := p.do("GET", "/function/echo", "", bearer...)
		return err == nil && a.status == 200
	})
	if a, err := p.do("GET", "/system/functions", "", bearer...); err != nil || a.status != 200 || !strings.Contains(a.body, "echo") {
		p.t.Errorf("the list with a token: %d %q, %v", a.status, a.body, err)
	}
	header, rest, _ := strings.Cut(token, ".")
	claims, signature, _ := strings.Cut(rest, ".")
	for what, wrong := range map[string]string{
		"with another signature": header + "." + claims + "." + strings.Repeat("A", len(signature)),
		"that is none":           "nonsense",
	} {
		for _, path := range []string{"/system/functions", "/function/echo"} {
			if a, err := p.do("GET", path, "", "Authorization", "Bearer "+wrong); err != nil || a.status != 401 {
				p.t.Errorf("%s with a token %s: %d %q, %v", path, what, a.status, a.body, err)
			}
		}
	}
	p.call(200, "GET", "/system/functions", "") // and the password goes on working
	a := p.call(202, "POST", "/async-function/echo", "x", bearer...)
	p.call(200, "GET", "/async-function/"+a.header.Get("X-Call-Id")+"/result?wait=50s", "", bearer...)
}

// podCalls is what a pod runs: it calls with its token, as it finds it in its
// volume, until all gateways let it, and then with others.
const podCalls = `
import time, urllib.error, urllib.request

def call(function, token):
    request = urllib.request.Request("http://gateway.openfaas.svc.cluster.local:8080/function/" + function, b"x")
    if token:
        with open("/var/run/graphene/" + token) as f:
            request.add_header("Authorization", "Bearer " + f.read())
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as answer:
        return answer.code
    except OSError:
        return 0

# Gateways hear of rules one after the other: a good while after an upgrade, if
# they are still connected to the provider from before.
until, in_a_row = time.monotonic() + 60, 0
while in_a_row < 20 and time.monotonic() < until:
    in_a_row = in_a_row + 1 if call("echo", "token") == 200 else 0
    time.sleep(0.1)
print(call("echo", "token"), call("limited", "token"), call("echo", "foreign"), call("echo", ""))
`

// podsCall has a pod call by the token that Kubernetes gives it. Of the same
// cluster, an account without a role may nothing.
func (p *platform) podsCall(registry string) {
	p.apply(`apiVersion: iam.openfaas.com/v1
kind: Policy
metadata: {name: call-echo, namespace: openfaas}
spec: {statement: [{sid: calls, effect: Allow, action: ["Function:Invoke"], resource: ["openfaas-fn:echo"]}]}
---
apiVersion: iam.openfaas.com/v1
kind: Role
metadata: {name: etl, namespace: openfaas}
spec:
  policy: [call-echo]
  principal: {"jwt:sub": ["system:serviceaccount:default:etl"]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: etl, namespace: default}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: stranger, namespace: default}
---
apiVersion: v1
kind: Pod
metadata: {name: etl, namespace: default}
spec:
  serviceAccountName: etl
  automountServiceAccountToken: false
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: etl
    image: ` + registry + `/library/python:test
    command: [python3, -c, ` + strconv.Quote(podCalls) + `]
    volumeMounts: [{name: tokens, mountPath: /var/run/graphene}]
  volumes:
  - name: tokens
    projected:
      sources:
      - {serviceAccountToken: {audience: graphene, path: token}}
      - {serviceAccountToken: {audience: elsewhere, path: foreign}}
`)
	defer p.k("delete", "policies.iam.openfaas.com/call-echo", "roles.iam.openfaas.com/etl", "-n", systemNamespace)
	defer p.k("delete", "pod/etl", "serviceaccount/etl", "serviceaccount/stranger", "-n", "default")
	p.k("wait", "--for=condition=Ready", "roles.iam.openfaas.com/etl", "-n", systemNamespace, "--timeout=60s")
	p.k("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/etl", "-n", "default", "--timeout=90s")
	if got := p.k("logs", "pod/etl", "-n", "default"); got != "200 403 401 401" {
		p.t.Errorf("with its token, for what it may not, with a token for others, without one: %s, want 200 403 401 401", got)
	}
	stranger := p.k("create", "token", "stranger", "-n", "default", "--audience", "graphene")
	if a, err := p.do("GET", "/function/echo", "", "Authorization", "Bearer "+stranger); err != nil || a.status != 403 {
		p.t.Errorf("an account without a role: %d %q, %v", a.status, a.body, err)
	}
}

func (p *platform) keysAreKept() {
	key := strings.TrimSpace(p.cli("auth", "key", "create", "e2e", "--action", "invoke", "--resource", functionNamespace+"/echo"))
	answered := func(path string, status int) func() bool {
		return func() bool {
			for range 20 { // of both gateways
				if a, err := p.do("GET", path, "", "X-API-Key", key, "Connection", "close"); err != nil || a.status != status {
					return false
				}
			}
			return true
		}
	}
	testkit.Eventually(p.t, "the key is good", answered("/function/echo", 200))
	if !answered("/function/limited", 403)() {
		p.t.Error("the key is good for what it is not for")
	}
	p.cli("auth", "key", "revoke", key)
	testkit.Eventually(p.t, "the key is revoked", answered("/function/echo", 401))
}

// signingKeysRotate has the provider make a new key, and Kubernetes carry it to
// both gateways.
func (p *platform) signingKeysRotate(token string) {
	exchange := url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {token}}.Encode()
	var own struct {
		AccessToken string `json:"access_token"`
	}
	a := p.call(200, "POST", "/oauth/token", exchange, "Content-Type", "application/x-www-form-urlencoded")
	if err := json.Unmarshal([]byte(a.body), &own); err != nil {
		p.t.Fatal(err)
	}
	id := strings.TrimSpace(p.cli("auth", "signing-key", "rotate"))
	// Nodes renew what is mounted once a minute, or when something else is new.
	p.k("annotate", "pods", "-n", systemNamespace, "-l", "app=gateway", "--overwrite", "e2e="+id)
	testkit.Eventually(p.t, "both gateways publish the new key", func() bool {
		for range 20 {
			a, err := p.do("GET", "/.well-known/jwks.json", "", "Connection", "close")
			if err != nil || !strings.Contains(a.body, id) {
				return false
			}
		}
		return true
	})
	p.call(200, "GET", "/function/echo", "", "Authorization", "Bearer "+own.AccessToken)
}

// limitsHold calls until nothing is let through any more: what one gateway lets
// through counts for the other a moment later, and both report to one account.
func (p *platform) limitsHold(token string) {
	const burst, calls = 3, 40 // of which chance gives each of two gateways a few
	used := func() (c struct{ Calls, Refused int }) {
		var lines []struct {
			Caller, Function string
			Calls, Refused   int
		}
		if err := json.Unmarshal([]byte(p.cli("usage", "--by", "caller,function", "-o", "json")), &lines); err != nil {
			p.t.Fatal(err)
		}
		for _, l := range lines {
			if l.Caller == "test/sid1" && l.Function == functionNamespace+":limited" {
				c.Calls, c.Refused = l.Calls, l.Refused
			}
		}
		return c
	}
	gateways := p.k("get", "pods", "-n", systemNamespace, "-l", "app=gateway", "-o", "name")
	testkit.Eventually(p.t, "the gateways from before are gone", func() bool {
		gateways = p.k("get", "pods", "-n", systemNamespace, "-l", "app=gateway", "-o", "name")
		return len(strings.Fields(gateways)) == len(p.pods(systemNamespace, "app=gateway"))
	})
	most := burst * len(strings.Fields(gateways)) // if neither has heard of the other's
	before, answered := used(), 0
	for range calls {
		a, err := p.do("GET", "/function/limited", "", "Authorization", "Bearer "+token, "Connection", "close")
		switch after, _ := strconv.Atoi(a.header.Get("Retry-After")); {
		case err != nil:
			p.t.Fatal(err)
		case a.status == 200:
			answered++
		case a.status != 429 || after < 1 || after > (most-burst+1)*3600 || !strings.Contains(a.body, "tight"):
			p.t.Fatalf("a call beyond the limit: %d %q, Retry-After %q", a.status, a.body, a.header.Get("Retry-After"))
		}
	}
	if answered < burst || answered > most {
		p.t.Errorf("%d calls were answered, want %d to %d", answered, burst, most)
	}
	p.call(200, "GET", "/function/echo", "", "Authorization", "Bearer "+token) // which has no limit
	testkit.Eventually(p.t, "usage counts the calls of all gateways", func() bool {
		now := used()
		return now.Calls-before.Calls == answered && now.Refused-before.Refused == calls-answered
	})
	if got := p.cli("usage", "--by", "caller"); !strings.Contains(got, "test/sid1") {
		p.t.Errorf("the report for people:\n%s", got)
	}
}

// token asks the issuer for one, through the API server.
func (p *platform) token() string {
	p.t.Helper()
	resp, err := http.PostForm(p.api().url+"/api/v1/namespaces/default/services/issuer:9998/proxy/oauth/token",
		url.Values{"grant_type": {"client_credentials"}, "client_id": {"sid1"}, "client_secret": {"verysecret"}, "scope": {"openid"}})
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(text, &answer); err != nil || strings.Count(answer.AccessToken, ".") != 2 {
		p.t.Fatalf("the issuer answers %s %s", resp.Status, text)
	}
	return answer.AccessToken
}
