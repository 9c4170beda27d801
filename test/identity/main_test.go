// Package identity tries logins with real issuers: an independent one that the
// test runs in its own process, and, in the end-to-end tests, Dex, and Keycloak
// with a real browser.
package identity

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit/servetest"
)

// graphene is the program under test, built once by TestMain.
var graphene string

// caches are where builds find what was built before, whoever's home they run
// in: NAME=VALUE.
var caches []string

// whole tells that everything has to be tried, which needs Java, Maven and
// Chromium: the end-to-end tests set it.
var whole = os.Getenv("GRAPHENE_TEST_IDENTITY") != ""

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "graphene-identity-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil { // replicas run as other users
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if whole {
			keycloaks = startKeycloak(dir) // it takes its time; others can be tried meanwhile
			defer keycloaks.stop()
			dexes = buildDex(dir)
			defer dexes.wait()
		}
		for _, name := range []string{"GOCACHE", "GOMODCACHE"} {
			value, err := exec.Command("go", "env", name).Output()
			if err != nil {
				fmt.Fprintf(os.Stderr, "go env %s: %v\n", name, err)
				return 1
			}
			caches = append(caches, name+"="+strings.TrimSpace(string(value)))
		}
		if graphene, err = servetest.Build(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

// needsWhole skips a test that only the end-to-end tests run.
func needsWhole(t *testing.T) {
	t.Helper()
	if !whole {
		t.Skip("SKIPPED: needs Keycloak, which make e2e starts (GRAPHENE_TEST_IDENTITY=1)")
	}
}
