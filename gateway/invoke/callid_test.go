package invoke

import (
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestCallIDsAreRandomUUIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := newCallID()
		parsed, err := uuid.Parse(id)
		if err != nil || parsed.Version() != 4 || parsed.Variant() != uuid.RFC4122 || parsed.String() != id {
			t.Fatalf("newCallID() = %q, which is not a random UUID: %v", id, err)
		}
		if seen[id] {
			t.Fatalf("newCallID() = %q twice", id)
		}
		seen[id] = true
	}
}

func TestACallersIDIsKeptIfItIsHarmless(t *testing.T) {
	for id, want := range map[string]bool{
		"a": true, "order-4711/b": true, strings.Repeat("x", 128): true,
		"": false, "a b": false, "a\nb": false, "é": false, "\x7f": false, strings.Repeat("x", 129): false,
	} {
		if got := validCallID(id); got != want {
			t.Errorf("validCallID(%q) = %t", id, got)
		}
	}
}
