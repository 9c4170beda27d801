package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// The suite runs against one of two targets. Without a gateway, each test
// starts a `graphene serve` of its own. With one, the tests share the platform
// in a cluster that KUBECONFIG leads to, one after the other, and each finds
// it without functions. `make e2e` does the latter.
var gatewayURL = flag.String("gateway", "", "test the platform in a cluster that answers at this `URL` instead of graphene serve; kubectl must reach it")

// The namespaces that the chart makes.
const (
	systemNamespace   = "openfaas"
	functionNamespace = "openfaas-fn"
)

// clusterPassword is that of the cluster's administrator.
var clusterPassword string

func onCluster() bool { return *gatewayURL != "" }

// prepareCluster finds the password and makes sure that no functions are
// there that the tests would remove.
func prepareCluster() error {
	out, err := kubectl("get", "secret", "basic-auth", "-n", systemNamespace, "-o", `go-template={{index .data "basic-auth-password" | base64decode}}`)
	if err != nil {
		return err
	}
	clusterPassword = out
	if err := keepClusterSecrets(); err != nil {
		return err
	}
	functions, err := system[[]struct{ Name string }]("GET", "/system/functions", "")
	if err != nil {
		return err
	}
	if len(functions) > 0 {
		return fmt.Errorf("there are functions, such as %s, and the tests would remove them", functions[0].Name)
	}
	return nil
}

// cluster gives a test the platform in the cluster, empty.
func cluster(t *testing.T) *platform {
	t.Helper()
	if !onCluster() {
		t.Skip("SKIPPED on graphene serve: only a cluster has it; `make e2e` tests it")
	}
	p := newPlatform(t)
	p.url = strings.TrimSuffix(*gatewayURL, "/")
	before := knownSecrets()
	t.Cleanup(func() {
		if knownSecrets() > before { // functions' logs go with them
			p.logsAreQuiet()
		}
		if t.Failed() {
			t.Logf("the cluster:\n%s", describeCluster())
		}
		if err := empty(); err != nil {
			t.Error(err)
		}
	})
	if stdout, stderr, code := p.try(clusterPassword, "login", "--password-stdin"); code != 0 {
		t.Fatalf("graphene login: exit %d\n%s%s", code, stdout, stderr)
	}
	return p
}

// empty removes all functions, secrets and further namespaces.
func empty() error {
	namespaces, err := system[[]string]("GET", "/system/namespaces", "")
	if err != nil {
		return err
	}
	for _, ns := range namespaces {
		functions, err := system[[]struct{ Name string }]("GET", "/system/functions?namespace="+ns, "")
		if err != nil {
			return err
		}
		for _, f := range functions {
			if _, err := system[any]("DELETE", "/system/functions?namespace="+ns, fmt.Sprintf(`{"functionName":%q,"namespace":%q}`, f.Name, ns)); err != nil {
				return err
			}
		}
		secrets, err := system[[]struct{ Name string }]("GET", "/system/secrets?namespace="+ns, "")
		if err != nil {
			return err
		}
		for _, s := range secrets {
			if _, err := system[any]("DELETE", "/system/secrets?namespace="+ns, fmt.Sprintf(`{"name":%q,"namespace":%q}`, s.Name, ns)); err != nil {
				return err
			}
		}
		// Names of pods that still end come back in the next test's logs. Nobody
		// calls them any more, so they need no time for it; once nothing makes new
		// ones.
		for _, args := range [][]string{
			{"wait", "--for=delete", "replicasets"},
			{"delete", "pods", "--force", "--grace-period=0"},
		} {
			if _, err := kubectl(append(args, "-l", "faas_function", "-n", ns, "--timeout=90s")...); err != nil {
				return err
			}
		}
		if ns == functionNamespace {
			continue
		}
		if _, err := system[any]("DELETE", "/system/namespace/"+ns, fmt.Sprintf(`{"name":%q}`, ns)); err != nil {
			return err
		}
		if _, err := kubectl("wait", "--for=delete", "namespace/"+ns, "--timeout=90s"); err != nil {
			return err
		}
	}
	return nil
}

// system sends a request to the management API and decodes the answer.
func system[T any](method, path, body string) (T, error) {
	var answer T
	req, err := http.NewRequest(method, strings.TrimSuffix(*gatewayURL, "/")+path, strings.NewReader(body))
	if err != nil {
		return answer, err
	}
	req.SetBasicAuth("admin", clusterPassword)
	client := &http.Client{Timeout: time.Minute}
	resp, err := client.Do(req)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer, err
	}
	if resp.StatusCode >= 300 {
		return answer, fmt.Errorf("%s %s = %s: %s", method, path, resp.Status, text)
	}
	if len(text) == 0 || method != "GET" {
		return answer, nil
	}
	return answer, json.Unmarshal(text, &answer)
}

// kubectl runs one command line of it and returns what it printed.
func kubectl(args ...string) (string, error) {
	return kubectlWith("", args...)
}

// kubectlWith is kubectl with something to read.
func kubectlWith(stdin string, args ...string) (string, error) {
	cmd := exec.Command("kubectl", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return string(out), fmt.Errorf("kubectl %s: %w", strings.Join(args, " "), err)
	}
	return string(out), nil
}

// describeCluster tells how the cluster is, for a test that has failed.
func describeCluster() string {
	var b strings.Builder
	for _, args := range [][]string{
		{"get", "pods,functions", "-A", "-o", "wide"},
		{"get", "events", "-n", functionNamespace, "--sort-by=.lastTimestamp"},
		{"logs", "-n", systemNamespace, "deploy/provider", "--tail=30"},
		{"logs", "-n", systemNamespace, "-l", "app=gateway", "--prefix", "--tail=30"},
	} {
		out, err := kubectl(args...)
		if err != nil {
			out += err.Error()
		}
		if lines := strings.Split(out, "\n"); len(lines) > 60 {
			out = strings.Join(lines[len(lines)-60:], "\n")
		}
		fmt.Fprintf(&b, "$ kubectl %s\n%s\n", strings.Join(args, " "), out)
	}
	return b.String()
}
