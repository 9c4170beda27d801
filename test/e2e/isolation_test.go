package e2e

import (
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestAHostileFunctionGetsNowhere(t *testing.T) {
	if onCluster() {
		t.Skip("SKIPPED on a cluster: it tries the fences of processes on one machine; the kubelet makes those of pods")
	}
	for _, as := range []struct {
		name string
		user *syscall.Credential
	}{
		{"the platform runs as it was started", nil},
		{"the platform runs as an ordinary user", &syscall.Credential{Uid: 54321, Gid: 54321}},
	} {
		t.Run(as.name, func(t *testing.T) {
			if as.user != nil && os.Getuid() != 0 {
				t.Skip("only root can start it as another user")
			}
			p := serveAs(t, as.user)
			testkit.Eventually(t, "the platform says how it isolates", func() bool { return strings.Contains(p.log.String(), "isolat") })
			ownUsers := os.Getuid() == 0 && as.user == nil
			landlock := strings.Contains(p.log.String(), "Landlock ")

			p.call(202, "POST", "/system/secrets", `{"name":"one","value":"secret of the first"}`)
			p.call(202, "POST", "/system/secrets", `{"name":"two","value":"secret of the second"}`)
			p.copyIn("spy")
			for name, secret := range map[string]string{"spy": "one", "victim": "two"} {
				p.stack(name, "go", "secrets: ["+secret+"]")
				p.write(name+".yml", strings.ReplaceAll(p.read(name+".yml"), "./"+name, "./spy"))
				p.cli("up", "-f", name+".yml")
			}
			ask := func(function, what, path string) string {
				t.Helper()
				return p.call(200, "GET", "/function/"+function+"/"+what+"?path="+url.QueryEscape(path), "").body
			}
			where := func(function string) (dir, self, secrets, tmp, socket string) {
				parts := strings.Split(strings.TrimPrefix(ask(function, "where", ""), "ok: "), "\n")
				return parts[0], parts[1], parts[2], parts[3], strings.TrimPrefix(parts[4], "unix:")
			}
			dir, self, secrets, tmp, _ := where("spy")
			theirDir, theirSelf, theirSecrets, theirTmp, theirSocket := where("victim")

			uid := strings.Fields(strings.TrimPrefix(ask("spy", "uid", ""), "ok: "))
			theirUID := strings.Fields(strings.TrimPrefix(ask("victim", "uid", ""), "ok: "))
			if ownUsers && (uid[0] == "0" || uid[1] == "0" || uid[0] == theirUID[0]) {
				t.Errorf("the functions run as users %v and %v", uid, theirUID)
			}
			if uid[2] != "[]" && uid[2] != "["+uid[1]+"]" && ownUsers {
				t.Errorf("the function has groups %s", uid[2])
			}

			may := func(what, path string) {
				t.Helper()
				if got := ask("spy", what, path); !strings.HasPrefix(got, "ok: ") {
					t.Errorf("a function may not %s %s: %s", what, path, got)
				}
			}
			mayNot := func(needs bool, what, path string) {
				t.Helper()
				if !needs {
					return
				}
				if got := ask("spy", what, path); strings.HasPrefix(got, "ok: ") {
					t.Errorf("a function may %s %s: %.200s", what, path, got)
				}
			}
			may("read", filepath.Join(secrets, "one"))
			may("read", self)
			may("write", filepath.Join(tmp, "mine"))
			may("run", "echo hello > "+filepath.Join(tmp, "again")+" && cat "+filepath.Join(tmp, "again"))
			if strings.Contains(p.log.String(), "private /tmp") {
				may("write", "/tmp/mine")
			}

			for _, path := range []string{filepath.Join(dir, "new"), self, filepath.Join(secrets, "one"), "/etc/passwd"} {
				mayNot(true, "append", path)
			}
			mayNot(ownUsers || landlock, "write", filepath.Join(dir, "new"))
			mayNot(ownUsers || landlock, "remove", self)
			mayNot(ownUsers, "chmod", dir)

			protected := ownUsers || landlock
			for _, path := range []string{
				filepath.Join(p.data, "auth", "basic-auth-password"),
				filepath.Join(p.dir, "cli", "config.yml"),
				filepath.Join(theirSecrets, "two"), filepath.Join(secrets, "two"),
			} {
				mayNot(protected, "read", path)
			}
			if got := ask("spy", "list", p.data); strings.Contains(got, "auth") {
				t.Errorf("a function sees what the platform keeps: %s", got)
			}
			for _, path := range []string{filepath.Join(p.data, "runtime", "functions"), filepath.Join(p.data, "registry")} {
				mayNot(protected, "list", path)
			}
			if theirSecrets != secrets {
				mayNot(protected, "list", theirSecrets)
			}
			if theirTmp != tmp {
				mayNot(protected, "write", filepath.Join(theirTmp, "gift"))
			}
			mayNot(ownUsers, "connect", theirSocket)
			mayNot(ownUsers, "signal", strconv.Itoa(p.run.Cmd.Process.Pid))
			mayNot(ownUsers, "read", "/proc/"+strconv.Itoa(p.run.Cmd.Process.Pid)+"/environ")
			mayNot(protected, "write", filepath.Join(theirDir, "gift"))
			mayNot(protected, "append", theirSelf)

			if got := ask("spy", "run", "grep NoNewPrivs /proc/self/status"); !strings.Contains(got, "NoNewPrivs:\t1") {
				t.Errorf("a function can gain privileges: %s", got)
			}
			if got := ask("spy", "run", "grep CapEff /proc/self/status"); !strings.Contains(got, "0000000000000000") {
				t.Errorf("a function has capabilities: %s", got)
			}
			env := ask("spy", "environ", "")
			for _, secret := range []string{p.password(), "secret of"} {
				if strings.Contains(env, secret) {
					t.Error("a secret is in the environment of a function")
				}
			}
			for _, name := range []string{"OPENFAAS_CONFIG=", "GOPATH=", "SSH_"} {
				if strings.Contains(env, name) {
					t.Errorf("the platform's own %s is in the environment of a function", name)
				}
			}
		})
	}
}

func TestAPlatformBelowAClosedHomeServes(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root has functions that run as other users")
	}
	p := serve(t, "it moves the program")
	p.stop()
	closed := filepath.Join(p.dir, "home")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(graphene)
	if err != nil {
		t.Fatal(err)
	}
	p.program = filepath.Join(closed, "graphene")
	if err := os.WriteFile(p.program, program, 0o755); err != nil {
		t.Fatal(err)
	}
	p.data, p.url = filepath.Join(closed, "data"), ""
	p.start()
	p.goFunction("echo", "closed")
	p.pythonFunction("py", "python3", "def handle(req):\n    return 'python ' + req\n")
	p.cli("up", "-f", "echo.yml")
	p.cli("up", "-f", "py.yml")
	p.call(200, "POST", "/function/echo", "x")
	if a := p.call(200, "POST", "/function/py", "x"); a.body != "python x" {
		t.Errorf("answer %q", a.body)
	}
}
