package conf_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/internal/conf"
	"github.com/graphene-faas/graphene/internal/fault"
)

func TestAProgramSaysWhatItIsAndHowItEnded(t *testing.T) {
	type config struct {
		conf.Log
		Listen string `env:"listen" envDefault:":1" doc:"address to serve on"`
	}
	for _, test := range []struct {
		args           []string
		err            error
		code           int
		stdout, stderr string
	}{
		{args: []string{"-version"}, stdout: "prog 1.2 unknown\n", err: errors.New("must not be served")},
		{args: []string{"-help"}, stderr: `address to serve on (default ":1")`, err: errors.New("must not be served")},
		{args: []string{"-nosuch"}, code: 2, stderr: "-nosuch", err: errors.New("must not be served")},
		{},
		{err: errors.New("it broke"), code: 1, stderr: "prog: it broke\n"},
	} {
		var stdout, stderr bytes.Buffer
		code := conf.Main[config](conf.Program{Name: "prog", Version: "1.2"}, test.args, &stdout, &stderr, func() error { return test.err })
		if code != test.code || stdout.String() != test.stdout || !strings.Contains(stderr.String(), test.stderr) || strings.Contains(stderr.String(), "must not") {
			t.Errorf("%q: exit %d, %q, %q", test.args, code, &stdout, &stderr)
		}
	}
}

func TestALogIsAsItsSettingsSay(t *testing.T) {
	var out bytes.Buffer
	log, err := conf.Log{Debug: true, LogLevel: slog.LevelWarn, LogFormat: "json"}.Logger(&out)
	if err != nil {
		t.Fatal(err)
	}
	if log.Debug("seen"); !strings.HasPrefix(out.String(), "{") {
		t.Errorf("logged %q", &out)
	}
	if _, err := (conf.Log{LogFormat: "xml"}).Logger(&out); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "log_format") {
		t.Errorf("an unknown format: %v", err)
	}
}
