package function

import (
	"testing"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/function"
)

func TestAFunctionIsReadyWhenItsNewestVersionIs(t *testing.T) {
	old, fresh := function.Replica{Revision: 1, Ready: true}, function.Replica{Revision: 2, Ready: true}
	booting := function.Replica{Revision: 2}
	status := func(replicas, available uint64) types.FunctionStatus {
		return types.FunctionStatus{Replicas: replicas, AvailableReplicas: available}
	}
	for name, tt := range map[string]struct {
		d    client.Details
		want phase
	}{
		"nothing yet":                   {client.Details{Revision: 2, FunctionStatus: status(1, 0)}, starting},
		"only the old version is ready": {client.Details{Revision: 2, FunctionStatus: status(1, 1), Instances: []function.Replica{old, booting}}, starting},
		"both are ready":                {client.Details{Revision: 2, FunctionStatus: status(1, 1), Instances: []function.Replica{old, fresh}}, ready},
		"it failed":                     {client.Details{Revision: 2, FunctionStatus: status(1, 1), Failure: "x", Instances: []function.Replica{old}}, failed},
		"it failed once and is ready":   {client.Details{Revision: 2, FunctionStatus: status(1, 1), Failure: "x", Instances: []function.Replica{fresh}}, ready},
		"asleep":                        {client.Details{Revision: 2}, asleep},

		"without details, ready":    {client.Details{FunctionStatus: status(1, 1)}, ready},
		"without details, starting": {client.Details{FunctionStatus: status(1, 0)}, starting},
		"without details, asleep":   {client.Details{}, asleep},
	} {
		if got := state(tt.d, tt.d.Revision); got != tt.want {
			t.Errorf("%s: state = %d, want %d", name, got, tt.want)
		}
	}
}

func TestServerTimingIsReadWhoeverWroteIt(t *testing.T) {
	got := serverTiming([]string{`queue;dur=0.1, wake;dur=12;desc="x"`, "cache, db;desc=y;dur=3", ""})
	want := []step{{"queue", "0.1 ms"}, {"wake", "12 ms"}, {"db", "3 ms"}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(step{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestAnEventConcernsTheFunctionWhoseFileItIs(t *testing.T) {
	p := places{"/p/stack.yaml": "", "/p/a": "a", "/p/b": "b", "/p/b/env.yml": "b"}
	for path, want := range map[string]string{
		"/p/a/handler.go":          "a",
		"/p/a/deep/er/x.py":        "a",
		"/p/b/env.yml":             "b",
		"/p/stack.yaml":            "",
		"/p/other.txt":             "none",
		"/p/a/.git/index":          "none",
		"/p/a/__pycache__/x.pyc":   "none",
		"/p/a/handler.py.swp":      "none",
		"/p/a/handler.py~":         "none",
		"/elsewhere/a/handler.py":  "none",
		"/p/a/node_modules/x/y.js": "none",
	} {
		name, ok := p.owner(fsnotify.Event{Name: path, Op: fsnotify.Write})
		if !ok {
			name = "none"
		}
		if name != want {
			t.Errorf("owner(%s) = %q, want %q", path, name, want)
		}
	}
	if _, ok := p.owner(fsnotify.Event{Name: "/p/a/x", Op: fsnotify.Chmod}); ok {
		t.Error("a changed mode is taken for a change")
	}
}

func FuzzServerTiming(f *testing.F) {
	f.Add("queue;dur=0.1, wake;dur=12")
	f.Add(";;;,,,dur=")
	f.Fuzz(func(t *testing.T, header string) {
		for _, s := range serverTiming([]string{header}) {
			for _, r := range s.name + s.duration {
				if r < ' ' {
					t.Errorf("%q yields the control character %q", header, r)
				}
			}
		}
	})
}
