package fault_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/graphene-faas/graphene/internal/fault"
)

func TestAKindSurvivesWrapping(t *testing.T) {
	cause := errors.New("disk on fire")
	err := fmt.Errorf("deploy echo: %w", fault.NotFound.Errorf("no such image: %w", cause))
	if !errors.Is(err, fault.NotFound) {
		t.Errorf("errors.Is(%v, NotFound) = false", err)
	}
	if errors.Is(err, fault.Invalid) {
		t.Errorf("errors.Is(%v, Invalid) = true", err)
	}
	if !errors.Is(err, cause) {
		t.Errorf("the cause is lost from %v", err)
	}
	if got, want := err.Error(), "deploy echo: no such image: disk on fire"; got != want {
		t.Errorf("text = %q, want %q", got, want)
	}
}

func TestTheOutermostKindWins(t *testing.T) {
	err := fault.Unavailable.Errorf("provider: %w", fault.NotFound.Errorf("gone"))
	if got := fault.KindOf(err); got != fault.Unavailable {
		t.Errorf("KindOf = %q, want %q", got, fault.Unavailable)
	}
}

func TestAnErrorWithoutAKindIsInternal(t *testing.T) {
	if got := fault.KindOf(errors.New("boom")); got != fault.Internal {
		t.Errorf("KindOf = %q, want %q", got, fault.Internal)
	}
}
