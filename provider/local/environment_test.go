package local

import (
	"net/url"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/openfaas/faas-provider/types"

	"github.com/graphene-faas/graphene/internal/function"
)

func TestTheInterpreterIsStartedWithoutDetours(t *testing.T) {
	e := newEnvironment([]string{"fprocess=python3 -m graphene_function", "PATH=/usr/bin"})
	e.useInterpreter("/opt/python/bin/python3.11")
	want := environment{"fprocess": "/opt/python/bin/python3.11 -m graphene_function", "PATH": "/opt/python/bin:/usr/bin"}
	if diff := cmp.Diff(want, e); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	e = environment{"fprocess": "./server"}
	e.useInterpreter("/opt/python/bin/python3.11")
	if e["fprocess"] != "./server" {
		t.Errorf("another program became %s", e["fprocess"])
	}
}

func TestAServerGetsAPortUnlessItHasOne(t *testing.T) {
	e := environment{"mode": "http"}
	if err := e.assignPort(); err != nil {
		t.Fatal(err)
	}
	if u, err := url.Parse(e["upstream_url"]); err != nil || u.Port() != e["PORT"] || u.Hostname() != "127.0.0.1" {
		t.Errorf("port %s, upstream %s", e["PORT"], e["upstream_url"])
	}
	for _, e := range []environment{
		{"mode": "pool"},
		{"mode": "http", "upstream_url": "http://127.0.0.1:8000"},
		{"mode": "http", "http_upstream_url": "http://127.0.0.1:8000"},
	} {
		if err := e.assignPort(); err != nil || e["PORT"] != "" {
			t.Errorf("%v, %v", e, err)
		}
	}
}

func TestWhoInsistsOnAPort(t *testing.T) {
	for _, tt := range []struct {
		env  environment
		want string
	}{
		{environment{"mode": "http", "upstream_url": "http://127.0.0.1:8000"}, "8000"},
		{environment{"mode": "http", "http_upstream_url": "http://localhost"}, "80"},
		{environment{"mode": "http", "upstream_url": "http://[::1]:5000/"}, "5000"},
		{environment{"mode": "http", "upstream_url": "http://0.0.0.0:5000/"}, "5000"},
		{environment{"mode": "http", "upstream_url": "http://10.0.0.1:5000/"}, ""},
		{environment{"mode": "http", "upstream_url": "http://%"}, ""},
		{environment{"mode": "http", "PORT": "5000"}, ""},
		{environment{"mode": "pool", "upstream_url": "http://127.0.0.1:8000"}, ""},
	} {
		if got := tt.env.fixedPort(); got != tt.want {
			t.Errorf("%v: got %q, want %q", tt.env, got, tt.want)
		}
	}
}

func TestCapacityFollowsLimits(t *testing.T) {
	python := &image{target: function.Target{Python: "cp311"}}
	for _, tt := range []struct {
		name           string
		settings       function.Settings
		cpu            string
		img            *image
		workers, slots int
	}{
		{"Go without limits", function.Settings{}, "", &image{}, 0, 0},
		{"Go with a limit of calls", function.Settings{MaxInflight: 7}, "", &image{}, 0, 7},
		{"Python with a limit of CPU", function.Settings{}, "1500m", python, 2, 2},
		{"Python with workers", function.Settings{Workers: 3}, "1", python, 3, 3},
		{"Python with a limit of calls", function.Settings{Workers: 3, MaxInflight: 5}, "", python, 3, 5},
	} {
		v := version{Spec: types.FunctionDeployment{Limits: &types.FunctionResources{CPU: tt.cpu}}}
		workers, slots := capacity(tt.settings, v, tt.img)
		if workers != tt.workers || slots != tt.slots {
			t.Errorf("%s: %d workers, %d slots; want %d and %d", tt.name, workers, slots, tt.workers, tt.slots)
		}
	}
}

func TestSettingsComeFromTheDeploymentBeforeTheImage(t *testing.T) {
	img := &image{config: v1.Config{Env: []string{"max_inflight=1", "workers=1", "threads=2"}}}
	v := version{Spec: types.FunctionDeployment{
		EnvVars:     map[string]string{"workers": "2"},
		Annotations: &map[string]string{"com.graphene.max_inflight": "3"},
	}}
	s, err := v.settings(img)
	if err != nil {
		t.Fatal(err)
	}
	if s.MaxInflight != 3 || s.Workers != 2 || s.Threads != 2 {
		t.Errorf("settings are %+v", s)
	}
}
