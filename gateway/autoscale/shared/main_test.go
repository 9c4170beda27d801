package shared

import (
	"testing"

	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
