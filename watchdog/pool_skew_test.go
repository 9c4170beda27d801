package watchdog_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/watchdog"
)

// runtime makes the pool use a copy of graphene_function as another release
// might have it: in each file, by name, the first text is replaced by the second.
func runtime(t *testing.T, o *watchdog.Options, changes map[string][2]string) {
	t.Helper()
	library := t.TempDir()
	if err := os.CopyFS(library, os.DirFS("../templates/python")); err != nil {
		t.Fatal(err)
	}
	for name, change := range changes {
		path := filepath.Join(library, "graphene_function", name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		changed := strings.Replace(string(text), change[0], change[1], 1)
		if changed == string(text) {
			t.Fatalf("%s has no %q", name, change[0])
		}
		if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o.Environ = append(o.Environ, "PYTHONPATH="+library)
}

// An image keeps the runtime that it was built with, and the watchdog around it
// may come from an older or a newer release.
func TestAnImageOfAnotherReleaseWorksOrSaysWhyNot(t *testing.T) {
	const protocol, hello = "PROTOCOL = 2", `"protocols": [ch.PROTOCOL]`
	for name, test := range map[string]struct {
		changes map[string][2]string
		want    string // that readiness says
	}{
		"a newer one that still speaks our version": {
			map[string][2]string{"zygote.py": {hello, `"protocols": [2, 3], "news": True`}}, "ready\n",
		},
		"one from before worker_threads": {
			map[string][2]string{"worker.py": {`"many": many, `, ""}, "zygote.py": {`self._settings.get("worker_threads", 1)`, "1"}},
			"ready: worker_threads has no effect: the image's graphene_function is too old for it; build the image again\n",
		},
		"an older one": {
			map[string][2]string{"channel.py": {protocol, "PROTOCOL = 1"}},
			"failed: the image's graphene_function speaks versions [1] of the pool's protocol and not 2, as this watchdog does; the image is older than this watchdog: build it again\n",
		},
		"a newer one": {
			map[string][2]string{"channel.py": {protocol, "PROTOCOL = 3"}},
			"failed: the image's graphene_function speaks versions [3] of the pool's protocol and not 2, as this watchdog does; the image is newer than this watchdog: bring the platform up to date, or build the image with its version of graphene\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := pool(t, "def handle(event, context): return 'served'")
			o.Workers.Concurrent = 2
			runtime(t, &o, test.changes)
			r := start(t, o)
			for {
				status, body := r.tryReady()
				if status == 0 || body == "loading\n" {
					continue
				}
				if body != test.want {
					t.Errorf("ready says %q, want %q", body, test.want)
				}
				if status == http.StatusOK {
					if got := r.do("GET", "/", ""); got.body != "served" {
						t.Errorf("got %d %q", got.status, got.body)
					}
				}
				return
			}
		})
	}
}
