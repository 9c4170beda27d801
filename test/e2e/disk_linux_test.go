package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestAFullDiskLosesNothing(t *testing.T) {
	p := serve(t, "it fills the disk that the one process has")
	p.stop()
	disk := filepath.Join(p.dir, "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=256m,mode=0755"); err != nil {
		t.Skipf("A FULL DISK IS NOT TESTED: a small file system cannot be mounted here: %v", err)
	}
	t.Cleanup(func() {
		p.stop()
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	p.data, p.url = filepath.Join(disk, "data"), ""
	p.start()
	p.call(202, "POST", "/system/secrets", `{"name":"kept","value":"whole"}`)
	p.goFunction("good", "one")
	p.cli("up", "-f", "good.yml")

	ballast := filepath.Join(disk, "ballast")
	if err := fill(ballast); err != nil {
		t.Fatal(err)
	}

	// What needs room is refused, and says why.
	p.goFunction("other", "two")
	stdout, stderr, code := p.try("", "up", "-f", "other.yml")
	if code == 0 || !strings.Contains(stdout+stderr, "disk is full") {
		t.Errorf("up on a full disk: exit %d\n%s%s", code, stdout, stderr)
	}
	if a, err := p.do("POST", "/system/secrets", `{"name":"new","value":"`+strings.Repeat("x", 64<<10)+`"}`); err != nil || a.status < 500 || !strings.Contains(a.body, "no space left") {
		t.Errorf("a new secret on a full disk: %d %q, %v", a.status, a.body, err)
	}
	if a, err := p.do("PUT", "/system/secrets", `{"name":"kept","value":"`+strings.Repeat("x", 64<<10)+`"}`); err != nil || a.status < 500 {
		t.Errorf("a changed secret on a full disk: %d %q, %v", a.status, a.body, err)
	}
	if a, err := p.do("PUT", "/system/functions", fmt.Sprintf(`{"service":"good","image":"good:latest","envVars":{"X":"%s"}}`, strings.Repeat("x", 64<<10))); err != nil || a.status < 500 {
		t.Errorf("an update on a full disk: %d %q, %v", a.status, a.body, err)
	}
	// What needs none goes on.
	p.call(200, "POST", "/function/good", "x")
	p.call(200, "GET", "/system/functions", "")
	p.cli("scale", "good", "--replicas", "0")
	testkit.Eventually(t, "good sleeps", func() bool { return p.status("good").AvailableReplicas == 0 })
	p.call(200, "POST", "/function/good", "x")

	p.kill()
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	p.start()
	testkit.Eventually(t, "the function is back", func() bool {
		a, err := p.do("POST", "/function/good", "x")
		return err == nil && a.status == 200
	})
	p.call(202, "POST", "/system/secrets", `{"name":"new","value":"y"}`)
	p.cli("up", "-f", "other.yml")
	p.call(200, "POST", "/function/other", "x")
	if got := p.status("good"); len(got.EnvVars) > 0 {
		t.Errorf("the update that was refused left %v", got.EnvVars)
	}
	p.stack("good", "go", "secrets: [kept]")
	p.write("good/handler.go", `package function

import (
	"net/http"
	"os"
)

func Handle(w http.ResponseWriter, r *http.Request) {
	text, _ := os.ReadFile(os.Getenv("SECRETS_DIR") + "/kept")
	w.Write(text)
}
`)
	p.cli("up", "-f", "good.yml")
	if a := p.call(200, "GET", "/function/good", ""); a.body != "whole" {
		t.Errorf("the secret is now %.40q", a.body)
	}
}

// fill writes a file that takes all the room there is.
func fill(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, size := range []int64{1 << 20, 4 << 10} {
		for {
			if _, err := io.CopyN(f, zeroes{}, size); errors.Is(err, syscall.ENOSPC) {
				break
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}
