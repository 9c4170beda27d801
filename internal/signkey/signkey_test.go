package signkey_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/signkey"
)

func ids(t *testing.T, text []byte) []string {
	t.Helper()
	keys, err := signkey.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, k := range keys {
		all = append(all, k.ID)
	}
	return all
}

func TestANewKeyComesFirstAndOldOnesGoWhenTheirTokensHave(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	first, a, err := signkey.Rotate(nil, now)
	if err != nil {
		t.Fatal(err)
	}
	second, b, err := signkey.Rotate(first, now.Add(time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(ids(t, second), " "); got != b+" "+a {
		t.Errorf("the file holds %s, want %s %s", got, b, a)
	}
	if _, _, err := signkey.Rotate(second, now.Add(signkey.Delay)); !errors.Is(err, fault.Exists) {
		t.Errorf("before the new key signs: %v, want fault.Exists", err)
	}
	later := now.Add(time.Second + signkey.Delay)
	third, c, err := signkey.Rotate(second, later)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(ids(t, third), " "); got != c+" "+b+" "+a {
		t.Errorf("the file holds %s, want all three", got)
	}
	// The first has signed nothing since the second does.
	fourth, d, err := signkey.Rotate(third, later.Add(signkey.Keep+time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(ids(t, fourth), " "); got != d+" "+c+" "+b {
		t.Errorf("the file holds %s, want %s %s %s", got, d, c, b)
	}
	if _, _, err := signkey.Rotate([]byte("nonsense"), now); !errors.Is(err, fault.Invalid) {
		t.Errorf("of what is no file of keys: %v", err)
	}
}

func TestOfManyRotationsAtOnceOneTakesPlace(t *testing.T) {
	f := &signkey.File{Path: filepath.Join(t.TempDir(), "issuer.key")}
	if _, err := f.Rotate(time.Now()); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var made []string
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			id, err := f.RotateSigningKeys(t.Context())
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				made = append(made, id)
			case !errors.Is(err, fault.Exists):
				t.Error(err)
			}
		})
	}
	all.Wait()
	text, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	if got := ids(t, text); len(made) != 1 || len(got) != 2 || got[0] != made[0] {
		t.Errorf("made were %q, the file holds %q", made, got)
	}
	if info, err := os.Stat(f.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file: %v, %v", info.Mode(), err)
	}
}
