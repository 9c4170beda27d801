package function

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("min %q, max %q (-want +got):\n%s", tt.min, tt.max, diff)
		}
	}
}

func TestEveryLabelAboutScalingIsRead(t *testing.T) {
	labels := map[string]string{
		LabelScaleMin: "2", LabelScaleMax: "9", LabelScaleType: "rps", LabelScaleTarget: "12.5", LabelScaleProportion: "0.7",
		LabelScaleZero: "true", LabelScaleZeroAfter: "5m", LabelScaleDownWindow: "0s", LabelScaleFactor: "0",
	}
	got, err := ReadScale(labels)
	if err != nil {
		t.Fatal(err)
	}
	want := Scale{
		Min: 2, Max: 9, Type: ScaleRPS, Target: 12.5, Proportion: 0.7,
		Zero: true, ZeroAfter: Duration(5 * time.Minute), DownWindow: new(Duration), Factor: new(int),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, l := range ListScaleLabels() {
		if _, ok := labels[l.Name]; !ok {
			t.Errorf("label %s is not tried", l.Name)
		}
	}
}

func TestLabelsAboutScalingThatMakeNoSenseAreRefusedByName(t *testing.T) {
	for label, values := range map[string][]string{
		LabelScaleType:       {"memory", "RPS", "job:my_rule"},
		LabelScaleTarget:     {"0", "-1", "NaN", "Inf", "a lot"},
		LabelScaleProportion: {"0", "1.01", "90%"},
		LabelScaleZero:       {"yes please"},
		LabelScaleZeroAfter:  {"0", "-5m", "soon"},
		LabelScaleDownWindow: {"5m1s", "-1s"},
		LabelScaleFactor:     {"101", "-1", "20%"},
	} {
		for _, value := range values {
			_, err := ReadScale(map[string]string{label: value})
			if !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), label) {
				t.Errorf("%s=%q: error %v", label, value, err)
			}
		}
	}
}

func FuzzReadScale(f *testing.F) {
	f.Add("1", "3", "cpu", "500", "0.5", "30s")
	f.Fuzz(func(t *testing.T, least, most, kind, target, proportion, window string) {
		labels := map[string]string{
			LabelScaleMin: least, LabelScaleMax: most, LabelScaleType: kind, LabelScaleTarget: target,
			LabelScaleProportion: proportion, LabelScaleDownWindow: window, LabelScaleZeroAfter: window,
		}
		before := maps.Clone(labels)
		s, err := ReadScale(labels)
		if !maps.Equal(before, labels) {
			t.Fatal("the labels were changed")
		}
		if err != nil {
			return
		}
		if s.Min < 0 || s.Max < 0 || s.Max > 0 && s.Max < s.Min || s.Target < 0 || s.Proportion < 0 || s.Proportion > 1 || s.ZeroAfter < 0 {
			t.Errorf("%v were read as %+v", labels, s)
		}
	})
}
