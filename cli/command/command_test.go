package command_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/stack"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// factory returns the world of a command in an empty directory.
func factory(t *testing.T, environ ...string) *command.Factory {
	return &command.Factory{
		Streams: term.New(strings.NewReader(""), io.Discard, t.Output()),
		Environ: environ,
		Dir:     t.TempDir(),
		Flags:   command.Flags{EnvSubst: true},
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEveryKindOfErrorHasAnExitCode(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{fault.Unsupported.Errorf("x"), 1},
		{command.Usagef("x"), 2},
		{fault.Invalid.Errorf("x"), 2},
		{fault.NotFound.Errorf("x"), 3},
		{fault.Gone.Errorf("x"), 3},
		{fmt.Errorf("wrapped: %w", fault.Unauthenticated.Errorf("x")), 4},
		{fault.Denied.Errorf("x"), 4},
		{fault.Busy.Errorf("x"), 5},
		{fault.Timeout.Errorf("x"), 5},
		{fault.Storage.Errorf("x"), 5},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), 5},
		{fault.Exists.Errorf("x"), 6},
		{errors.Join(fault.NotFound.Errorf("x"), &command.ExitError{Code: 7}), 7},
		{fmt.Errorf("x: %w", context.Canceled), 130},
	} {
		if got := command.ExitCode(tt.err); got != tt.want {
			t.Errorf("ExitCode(%v) = %d, want %d", tt.err, got, tt.want)
		}
	}
	seen := map[fault.Kind]int{}
	for _, o := range command.Outcomes() {
		for _, k := range o.Kinds {
			if other, ok := seen[k]; ok {
				t.Errorf("%s ends with both %d and %d", k, other, o.Code)
			}
			seen[k] = o.Code
		}
	}
}

func TestAMessageIsIndentedAndHasOneHint(t *testing.T) {
	err := errors.Join(errors.New("one"), fault.Unauthenticated.Errorf("two"))
	want := "one\n  two\n  log in with \"graphene login --gateway http://a\", or give --token"
	if got := command.Message(err, "http://a"); got != want {
		t.Errorf("Message = %q, want %q", got, want)
	}
	if got := command.Message(fault.Unauthenticated.Errorf("use \"graphene login\""), "http://a"); got != "use \"graphene login\"" {
		t.Errorf("Message = %q", got)
	}
	if got := command.Message(&command.ExitError{Code: 1}, ""); got != "" {
		t.Errorf("Message = %q, want nothing", got)
	}
	untrusted := &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
	if got := command.Message(fault.Unavailable.Errorf("ask: %w", untrusted), "https://a"); !strings.Contains(got, "\n  have this machine trust its authority") {
		t.Errorf("Message = %q, want what to do", got)
	}
	if got := command.Message(fmt.Errorf("wait: %w", context.Canceled), ""); got != "interrupted" {
		t.Errorf("Message = %q, want no more than that it was interrupted", got)
	}
}

func TestTheGatewayIsTheFlagsThenTheFilesThenTheEnvironments(t *testing.T) {
	const file, env, flag = "http://file:1", "http://env:2", "HTTP://Flag:3/"
	for _, tt := range []struct {
		file, env, flag, want string
	}{
		{"", "", "", "http://127.0.0.1:8080"},
		{"", env, "", env},
		{file, env, "", file},
		{"http://127.0.0.1:8080/", env, "", env}, // which every file has
		{file, env, flag, "http://flag:3"},
	} {
		f := factory(t, "OPENFAAS_URL="+tt.env)
		f.Flags.Gateway = tt.flag
		got, err := f.GatewayOf(command.StackFile{Stack: &stack.Stack{Provider: stack.Provider{Gateway: tt.file}}})
		if err != nil || got != tt.want {
			t.Errorf("GatewayOf(%+v) = %q, %v", tt, got, err)
		}
	}
	f := factory(t, "OPENFAAS_URL=localhost")
	if _, err := f.GatewayOf(command.StackFile{}); !command.IsUsage(err) || !strings.Contains(err.Error(), "OPENFAAS_URL") {
		t.Errorf("GatewayOf = %v, want an error that names the variable", err)
	}
}

func TestPathsOfAStackFileAreRelativeToItAndThenToTheDirectory(t *testing.T) {
	f := factory(t)
	write(t, filepath.Join(f.Dir, "sub/stack.yaml"), "functions: {a: {image: a}}")
	write(t, filepath.Join(f.Dir, "sub/both/x"), "")
	write(t, filepath.Join(f.Dir, "both/x"), "")
	write(t, filepath.Join(f.Dir, "here/x"), "")
	f.Flags.StackFile = "sub/stack.yaml"
	file, err := f.Stack(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"both": "sub/both", "./here": "here", "none": "sub/none"} {
		if got := file.Path(f, name); got != filepath.Join(f.Dir, want) {
			t.Errorf("Path(%q) = %q, want %q", name, got, want)
		}
	}
	if got := file.Path(f, "/abs"); got != "/abs" {
		t.Errorf("Path(/abs) = %q", got)
	}
}

func TestAFileOfAFunctionsNameStandsForTheFunction(t *testing.T) {
	f := factory(t)
	write(t, filepath.Join(f.Dir, "stack.yml"), "functions: {a: {image: a}, b: {image: b}}")
	f.Flags.StackFile = "b.yml"
	file, functions, err := f.Selected(t.Context(), nil)
	if err != nil || file.Name != "stack.yml" || len(functions) != 1 || functions[0].Name != "b" {
		t.Errorf("Selected = %q, %v, %v", file.Name, functions, err)
	}
	for _, name := range []string{"c.yml", "b.json", "other/b.yml"} {
		f.Flags.StackFile = name
		if _, err := f.Stack(t.Context()); !errors.Is(err, fault.NotFound) || !strings.Contains(err.Error(), name) {
			t.Errorf("Stack with %s: %v, want fault.NotFound that names it", name, err)
		}
	}
}

func TestAnEnormousStackFileIsRefused(t *testing.T) {
	f := factory(t)
	write(t, filepath.Join(f.Dir, "stack.yaml"), strings.Repeat("# much\n", 1<<18))
	if _, err := f.Stack(t.Context()); !errors.Is(err, fault.Invalid) {
		t.Errorf("Stack = %v, want fault.Invalid", err)
	}
}

func TestOfTwoVariablesWithOneNameTheLaterWins(t *testing.T) {
	f := factory(t, "A=1", "AB=2", "A=3")
	if got := f.Getenv("A"); got != "3" {
		t.Errorf("Getenv = %q", got)
	}
}
