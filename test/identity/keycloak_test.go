package identity

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gofrs/flock"

	"github.com/graphene-faas/graphene/internal/testkit"
)

const (
	keycloakVersion = "26.4.5"
	adminPassword   = "admin-password"
	// keycloakTime is how long a Keycloak may take to start, on a machine that is
	// busy with other things.
	keycloakTime = 10 * time.Minute
)

// keycloaks is the one Keycloak of all tests; nil without the end-to-end tests.
var keycloaks *keycloak

// A keycloak is a real one, with the realms of testdata/keycloak.
type keycloak struct {
	url   string // without a slash at its end
	home  string // its own copy of the distribution
	log   *testkit.Buffer
	ready chan struct{} // closed when it answers, or has failed
	err   error         // why it has failed; may be read after ready

	mu  sync.Mutex // guards cmd
	cmd *exec.Cmd
}

// startKeycloak begins to start a Keycloak in dir.
func startKeycloak(dir string) *keycloak {
	k := &keycloak{home: filepath.Join(dir, "keycloak"), log: new(testkit.Buffer), ready: make(chan struct{})}
	go func() {
		defer close(k.ready)
		k.err = k.prepare()
		if k.err == nil {
			k.err = k.start()
		}
	}()
	return k
}

// realm returns the URL of a realm, once Keycloak answers.
func (k *keycloak) realm(t *testing.T, name string) string {
	t.Helper()
	<-k.ready
	if k.err != nil {
		t.Fatalf("Keycloak: %v\n%s", k.err, k.log)
	}
	return k.url + "/realms/" + name
}

// prepare fetches and builds Keycloak, once for this machine, and makes a copy
// that costs nothing.
func (k *keycloak) prepare() error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	built := filepath.Join(cache, "graphene", "keycloak", keycloakVersion)
	if err := os.MkdirAll(filepath.Dir(built), 0o755); err != nil {
		return err
	}
	lock := flock.New(built + ".lock")
	if err := lock.Lock(); err != nil {
		return err
	}
	defer lock.Unlock()
	if _, err := os.Stat(built); errors.Is(err, fs.ErrNotExist) {
		if err := buildKeycloak(built); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if err := linkTree(built, k.home); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	k.url = "http://" + ln.Addr().String()
	if err := ln.Close(); err != nil {
		return err
	}
	imports := filepath.Join(k.home, "data", "import")
	if err := os.MkdirAll(imports, 0o755); err != nil {
		return err
	}
	for _, realm := range []string{"acme.json", "partner.json"} {
		text, err := os.ReadFile(filepath.Join("testdata", "keycloak", realm))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(imports, realm), bytes.ReplaceAll(text, []byte("BASE"), []byte(k.url)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// buildKeycloak makes a Keycloak, at the path built, that starts fast.
func buildKeycloak(built string) error {
	tmp, err := os.MkdirTemp(filepath.Dir(built), "tmp-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	artefact := "org.keycloak:keycloak-quarkus-dist:" + keycloakVersion + ":zip"
	for _, args := range [][]string{
		{"dependency:get", "-Dartifact=" + artefact, "-Dtransitive=false"},
		{"dependency:copy", "-Dartifact=" + artefact, "-DoutputDirectory=" + tmp},
	} {
		if out, err := exec.Command("mvn", append([]string{"-q", "-B"}, args...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("fetch Keycloak: %w (apt-get install maven openjdk-17-jre-headless)\n%s", err, out)
		}
	}
	if err := unzip(filepath.Join(tmp, "keycloak-quarkus-dist-"+keycloakVersion+".zip"), tmp); err != nil {
		return err
	}
	home := filepath.Join(tmp, "keycloak-"+keycloakVersion)
	if out, err := exec.Command(filepath.Join(home, "bin", "kc.sh"), "build", "--db=dev-mem").CombinedOutput(); err != nil {
		return fmt.Errorf("build Keycloak: %w\n%s", err, out)
	}
	return os.Rename(home, built)
}

func unzip(file, dir string) error {
	z, err := zip.OpenReader(file)
	if err != nil {
		return err
	}
	defer z.Close()
	for _, f := range z.File {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("%s has a file %q", file, f.Name)
		}
		if f.FileInfo().IsDir() {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := unzipFile(f, path); err != nil {
			return err
		}
	}
	return nil
}

func unzipFile(f *zip.File, path string) error {
	in, err := f.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, f.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// linkTree makes a tree of the same files, which nobody writes to.
func linkTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		if err := os.Link(path, target); err == nil {
			return nil
		}
		text, err := os.ReadFile(path) // another file system
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(target, text, info.Mode().Perm())
	})
}

// start starts Keycloak, and returns when it answers.
func (k *keycloak) start() error {
	_, port, err := net.SplitHostPort(strings.TrimPrefix(k.url, "http://"))
	if err != nil {
		return err
	}
	// It ends with this process, however that ends: then its standard input does.
	cmd := exec.Command("sh", "-c", `"$@" & cat; kill -KILL 0`, "sh",
		filepath.Join(k.home, "bin", "kc.sh"), "start", "--optimized", "--import-realm",
		"--http-enabled=true", "--hostname-strict=false", "--http-host=127.0.0.1", "--http-port="+port)
	if _, err := cmd.StdinPipe(); err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), "JAVA_OPTS_KC_HEAP=-Xms64m -Xmx512m", "KC_BOOTSTRAP_ADMIN_USERNAME=admin", "KC_BOOTSTRAP_ADMIN_PASSWORD="+adminPassword)
	cmd.Stdout, cmd.Stderr = k.log, k.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	k.mu.Lock()
	k.cmd = cmd
	k.mu.Unlock()
	for _, realm := range []string{"acme", "partner"} {
		deadline := time.Now().Add(keycloakTime)
		for {
			resp, err := http.Get(k.url + "/realms/" + realm + "/.well-known/openid-configuration")
			if err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					break
				}
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("it does not answer within %v", keycloakTime)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// stop ends Keycloak.
func (k *keycloak) stop() {
	k.mu.Lock()
	cmd := k.cmd
	k.cmd = nil
	k.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // nothing of it is kept
	_ = cmd.Wait()
}

// pause has Keycloak do nothing until the function that it returns is called:
// it accepts connections then, and answers none.
func (k *keycloak) pause(t *testing.T) (resume func()) {
	t.Helper()
	k.mu.Lock()
	group := -k.cmd.Process.Pid
	k.mu.Unlock()
	if err := syscall.Kill(group, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resume = sync.OnceFunc(func() {
		if err := syscall.Kill(group, syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(resume)
	return resume
}

// token gets a token as a program.
func (k *keycloak) token(t *testing.T, client, secret string) string {
	t.Helper()
	return postToken(t, k.realm(t, "acme"), url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {secret}})
}

func postToken(t *testing.T, realm string, form url.Values) string {
	t.Helper()
	return formToken(t, realm+"/protocol/openid-connect/token", form)
}

// admin sends a request to Keycloak's own management, and reads the answer into
// out unless that is nil.
func (k *keycloak) admin(t *testing.T, method, path string, body, out any) {
	t.Helper()
	token := postToken(t, k.realm(t, "master"), url.Values{"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {adminPassword}})
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(k.url+"/admin/realms/"+path, "/"), bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		t.Fatalf("%s %s: %s %s, %v", method, path, resp.Status, said, err)
	}
	if out == nil {
		return
	}
	if err := json.Unmarshal(said, out); err != nil {
		t.Fatal(err)
	}
}
