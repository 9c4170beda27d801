package conf_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

type config struct {
	Listen  string            `env:"GRAPHENE_LISTEN" envDefault:"127.0.0.1:8080" doc:"address to listen on"`
	Timeout function.Duration `env:"read_timeout" envDefault:"60s" doc:"whole request"`
	Queue   int               `env:"max_queue" envDefault:"1000" doc:"waiting requests"`
	URL     string            `env:"functions_provider_url,required" doc:"where functions live"`
}

func TestReadUsesDefaultsAndTheLaterOfTwoEntries(t *testing.T) {
	got, err := conf.Read[config]([]string{"functions_provider_url=http://a", "read_timeout=30", "functions_provider_url=http://b"})
	if err != nil {
		t.Fatal(err)
	}
	want := config{"127.0.0.1:8080", function.Duration(30 * time.Second), 1000, "http://b"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestReadReportsEveryProblemByTheVariablesName(t *testing.T) {
	_, err := conf.Read[config]([]string{"read_timeout=soon", "max_queue=lots"})
	if !errors.Is(err, fault.Invalid) {
		t.Fatalf("err = %v, want fault.Invalid", err)
	}
	for _, part := range []string{`read_timeout is "soon": want a time span`, `max_queue is "lots"`, "functions_provider_url is not set"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestAFieldKnowsItsFlag(t *testing.T) {
	fields := conf.Fields[config]()
	if got := fields[0].Flag("GRAPHENE_"); got != "listen" {
		t.Errorf("flag of %s = %q, want listen", fields[0].Env, got)
	}
	if got := fields[1].Flag("GRAPHENE_"); got != "read-timeout" {
		t.Errorf("flag of %s = %q, want read-timeout", fields[1].Env, got)
	}
}

func TestAFlagWinsAndIsNamedInErrors(t *testing.T) {
	environ := []string{"functions_provider_url=http://a", "max_queue=5"}
	got, err := conf.ReadFlags[config](environ, "GRAPHENE_", map[string]string{"max-queue": "7"})
	if err != nil || got.Queue != 7 {
		t.Errorf("queue %d, %v; want 7", got.Queue, err)
	}
	_, err = conf.ReadFlags[config](environ, "GRAPHENE_", map[string]string{"max-queue": "lots", "read-timeout": "soon"})
	for _, part := range []string{`--max-queue is "lots": want a whole number`, `--read-timeout is "soon": want a time span`} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not say %q", err, part)
		}
	}
}

func TestAnEmbeddedStructsSettingsAreTheStructsOwn(t *testing.T) {
	type Shared struct {
		Level int `env:"level" envDefault:"1" doc:"how much"`
	}
	type program struct {
		First string `env:"first" doc:"comes first"`
		Shared
		Last string `env:"last" doc:"comes last"`
	}
	var names []string
	for _, f := range conf.Fields[program]() {
		names = append(names, f.Env)
	}
	if diff := cmp.Diff([]string{"first", "level", "last"}, names); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if c, err := conf.Read[program]([]string{"level=3"}); err != nil || c.Level != 3 {
		t.Errorf("%+v, %v; want level 3", c, err)
	}
	if _, err := conf.Read[program]([]string{"level=high"}); err == nil || !strings.Contains(err.Error(), `level is "high": want a whole number`) {
		t.Errorf("error %v does not name the setting", err)
	}
}
