package logins_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/cli/logins"
	"github.com/graphene-faas/graphene/internal/fault"
)

func TestALoginIsFoundUnderEveryFormOfTheAddress(t *testing.T) {
	f := logins.File{Path: filepath.Join(t.TempDir(), "new", "config.yml")}
	if _, ok, err := f.Lookup("http://127.0.0.1:8080"); ok || err != nil {
		t.Fatalf("Lookup in no file = %v, %v", ok, err)
	}
	if err := f.Save("HTTP://LocalHost:8080/", logins.NewBasic("admin", "pa:ss")); err != nil {
		t.Fatal(err)
	}
	l, ok, err := f.Lookup("http://localhost:8080")
	if err != nil || !ok {
		t.Fatalf("Lookup = %v, %v", ok, err)
	}
	if user, password, ok := l.UserPassword(); !ok || user != "admin" || password != "pa:ss" {
		t.Errorf("UserPassword = %q, %q, %v", user, password, ok)
	}
	info, err := os.Stat(f.Path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v, want 0600", info.Mode(), err)
	}
	dir, err := os.Stat(filepath.Dir(f.Path))
	if err != nil || dir.Mode().Perm() != 0o700 {
		t.Errorf("directory's mode = %v, %v, want 0700", dir.Mode(), err)
	}
}

// The text is what faas-cli writes.
const others = `auths:
    - gateway: https://faas.example.com
      auth: oauth2
      token: eyJ
      options:
        - name: authority
          value: https://issuer.example.com
    - gateway: http://127.0.0.1:8080
      auth: basic
      token: b2xkOm9sZA==
extra: kept
`

func TestWhatOthersWroteIsKept(t *testing.T) {
	f := logins.File{Path: filepath.Join(t.TempDir(), "config.yml")}
	if err := os.WriteFile(f.Path, []byte(others), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Save("http://127.0.0.1:8080", logins.NewBasic("a", "b")); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Replace(others, "b2xkOm9sZA==", "YTpi", 1), string(got)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}

	if err := f.Remove("http://127.0.0.1:8080/"); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove("http://127.0.0.1:8080"); !errors.Is(err, fault.NotFound) {
		t.Errorf("second Remove: %v, want fault.NotFound", err)
	}
	if l, ok, err := f.Lookup("https://faas.example.com"); !ok || err != nil || !cmp.Equal(l, logins.Login{
		Kind: logins.Bearer, Token: "eyJ", Options: []logins.Option{{Name: "authority", Value: "https://issuer.example.com"}},
	}) {
		t.Errorf("Lookup = %+v, %v, %v", l, ok, err)
	}
}

func TestTwoProcessesThatLogInBothAreLoggedIn(t *testing.T) {
	f := logins.File{Path: filepath.Join(t.TempDir(), "config.yml")}
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := f.Save(fmt.Sprintf("http://host-%d", i), logins.NewBasic("u", "p")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range n {
		if _, ok, err := f.Lookup(fmt.Sprintf("http://host-%d", i)); !ok || err != nil {
			t.Errorf("host-%d: %v, %v", i, ok, err)
		}
	}
}

func TestADamagedFileIsRefusedAndLeftAlone(t *testing.T) {
	for _, text := range []string{"auths: {", "- a", "auths: 3", "\x00"} {
		f := logins.File{Path: filepath.Join(t.TempDir(), "config.yml")}
		if err := os.WriteFile(f.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := f.Save("http://a", logins.NewBasic("u", "p")); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), f.Path) {
			t.Errorf("Save over %q: %v, want fault.Invalid that names the file", text, err)
		}
		if got, err := os.ReadFile(f.Path); string(got) != text {
			t.Errorf("file is %q, %v; want %q", got, err, text)
		}
	}
}

func TestAnEmptiedFileTakesANewLogin(t *testing.T) {
	for _, text := range []string{"", "auths: []\n", "auths:\n", "# nothing\n"} {
		f := logins.File{Path: filepath.Join(t.TempDir(), "config.yml")}
		if err := os.WriteFile(f.Path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := f.Save("http://a", logins.NewBasic("u", "p")); err != nil {
			t.Errorf("Save over %q: %v", text, err)
		}
		if _, ok, err := f.Lookup("http://a"); !ok || err != nil {
			t.Errorf("Lookup after Save over %q: %v, %v", text, ok, err)
		}
	}
}

func TestPath(t *testing.T) {
	for _, tt := range []struct {
		env  map[string]string
		want string
	}{
		{map[string]string{"HOME": "/home/a"}, "/home/a/.openfaas/config.yml"},
		{map[string]string{"HOME": "/home/a", "CI": "true"}, "/home/dir/.openfaas/config.yml"},
		{map[string]string{"HOME": "/home/a", "CI": "true", "OPENFAAS_CONFIG": "/etc/faas"}, "/etc/faas/config.yml"},
		{map[string]string{"OPENFAAS_CONFIG": "my.yml"}, "/home/dir/my.yml"},
		{map[string]string{}, ""},
	} {
		got, err := logins.Path(func(k string) string { return tt.env[k] }, "/home/dir")
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("Path with %v = %q, %v; want %q", tt.env, got, err, tt.want)
		}
	}
}

func FuzzLookup(f *testing.F) {
	f.Add([]byte(others))
	f.Add([]byte("auths: [*a]"))
	f.Add([]byte("&a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := logins.File{Path: filepath.Join(t.TempDir(), "config.yml")}
		if err := os.WriteFile(file.Path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := file.Lookup("http://a"); err != nil {
			return
		}
		if err := file.Save("http://a", logins.NewBasic("u", "p")); err != nil {
			return
		}
		if _, ok, err := file.Lookup("http://a"); !ok || err != nil {
			t.Errorf("Lookup after Save: %v, %v", ok, err)
		}
	})
}
