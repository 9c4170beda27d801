package function

import (
	"errors"
	"testing"

	"github.com/graphene-faas/graphene/internal/fault"
)

func TestScaleIsReadFromLabels(t *testing.T) {
	for _, tt := range []struct {
		min, max string
		want     Scale
		ok       bool
	}{
		{"", "", Scale{Min: 1}, true},
		{"2", "", Scale{Min: 2}, true},
		{"0", "3", Scale{Max: 3}, true},
		{"2", "2", Scale{Min: 2, Max: 2}, true},
		{"3", "2", Scale{}, false},
		{"many", "", Scale{}, false},
		{"", "-1", Scale{}, false},
	} {
		got, err := ReadScale(map[string]string{LabelScaleMin: tt.min, LabelScaleMax: tt.max})
		if (err == nil) != tt.ok || err != nil && !errors.Is(err, fault.Invalid) {
			t.Errorf("min %q, max %q: error %v", tt.min, tt.max, err)
		}
		if got != tt.want {
			t.Errorf("min %q, max %q: got %+v, want %+v", tt.min, tt.max, got, tt.want)
		}
	}
}
