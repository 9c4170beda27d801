package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// secrets are all that tests have sent to the platform in the cluster, or got
// from it: no log may hold one.
var secrets struct {
	mu  sync.Mutex
	all []string
}

// keepSecret has logs searched for these texts, unless they are so short that
// a log holds them by chance.
func keepSecret(texts ...string) {
	const shortest = 6
	secrets.mu.Lock()
	defer secrets.mu.Unlock()
	for _, s := range texts {
		if s = strings.TrimSpace(s); len(s) >= shortest && !slices.Contains(secrets.all, s) {
			secrets.all = append(secrets.all, s)
		}
	}
}

// keepSecretsOf has logs searched for the secrets in a request: credentials in
// its headers, which are names and values in turn, and the value of a secret
// for functions.
func keepSecretsOf(path, body string, header []string) {
	const shortest = 16 // others are made up, and words
	for i := 0; i+1 < len(header); i += 2 {
		credentials := header[i+1]
		switch strings.ToLower(header[i]) {
		case "authorization", "proxy-authorization":
			_, credentials, _ = strings.Cut(credentials, " ")
		case "x-api-key":
		default:
			continue
		}
		if len(credentials) >= shortest {
			keepSecret(credentials)
		}
	}
	var secret struct{ Value string }
	if strings.HasPrefix(path, "/system/secrets") && json.Unmarshal([]byte(body), &secret) == nil {
		keepSecret(secret.Value)
	}
}

// knownSecrets counts them.
func knownSecrets() int {
	secrets.mu.Lock()
	defer secrets.mu.Unlock()
	return len(secrets.all)
}

// keepClusterSecrets has logs searched for what the installation made itself.
func keepClusterSecrets() error {
	keepSecret(clusterPassword, base64.StdEncoding.EncodeToString([]byte("admin:"+clusterPassword)))
	for _, secret := range []string{"issuer-key", "nats"} { // some installations have none
		values, err := kubectl("get", "secret", secret, "-n", systemNamespace, "--ignore-not-found", "-o", `go-template={{range .data}}{{. | base64decode}}{{"\n"}}{{end}}`)
		if err != nil {
			return err
		}
		for line := range strings.Lines(values) {
			if !strings.HasPrefix(line, "-----") { // of PEM
				keepSecret(line)
			}
		}
	}
	return nil
}

// looksSecret matches what is a token, an API key or a cookie, whoever made it.
var looksSecret = regexp.MustCompile(`eyJ[\w-]{8,}\.[\w-]{8,}\.|gpk_\w{10}_\w{20,}|graphene(-login)?=[\w-]{20,}`)

// The parts of the platform whose logs are searched.
var platformParts = []string{"gateway", "provider", "queue-worker", "nats"}

// clusterLogs are what all parts of the platform and all functions have
// printed, each line with its pod before it.
func clusterLogs() (string, error) {
	platform, err := kubectl("logs", "-n", systemNamespace, "-l", "app in ("+strings.Join(platformParts, ",")+")", "--all-containers", "--prefix", "--tail=-1", "--max-log-requests=100")
	if err != nil {
		return "", err
	}
	functions, err := kubectl("logs", "-n", functionNamespace, "-l", "faas_function", "--all-containers", "--prefix", "--tail=-1", "--max-log-requests=100", "--ignore-errors")
	if err != nil {
		return "", err
	}
	return platform + functions, nil
}

// leaks returns what the logs have of these secrets, and what looks like one:
// the beginning of each, and where it is.
func leaks(logs string, secrets []string) []string {
	var found []string
	for line := range strings.Lines(logs) {
		pod, _, _ := strings.Cut(line, "]")
		for _, s := range secrets {
			if strings.Contains(line, s) {
				found = append(found, fmt.Sprintf("%s] prints %.6s…, which a test used as a secret", pod, s))
			}
		}
		if s := looksSecret.FindString(line); s != "" {
			found = append(found, fmt.Sprintf("%s] prints %.12s…, which looks like a secret", pod, s))
		}
	}
	return found
}

// checkLogs reports the secrets that the cluster's logs hold now. Of every part
// of the platform there must be logs, and in them these texts, or the search
// shows nothing.
func checkLogs(there ...string) error {
	if err := keepClusterSecrets(); err != nil {
		return err
	}
	logs, err := clusterLogs()
	if err != nil {
		return err
	}
	for _, part := range platformParts {
		there = append(there, "[pod/"+part+"-")
	}
	for _, text := range there {
		if len(leaks(logs, []string{text})) == 0 {
			return fmt.Errorf("the logs of the cluster, %d bytes, do not have %q: the search for secrets shows nothing", len(logs), text)
		}
	}
	secrets.mu.Lock()
	defer secrets.mu.Unlock()
	if found := leaks(logs, secrets.all); len(found) > 0 {
		return fmt.Errorf("logs hold secrets:\n%s", strings.Join(found[:min(len(found), 20)], "\n"))
	}
	return nil
}

// logsAreQuiet fails the test if a log of the cluster holds a secret; that they
// are searched at all shows by texts that must be there.
func (p *platform) logsAreQuiet(there ...string) {
	p.t.Helper()
	if err := checkLogs(there...); err != nil {
		p.t.Error(err)
	}
}
