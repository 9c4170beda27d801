package function_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

func TestParseRef(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want function.Ref
	}{
		{"echo", function.Ref{Name: "echo", Namespace: "fn"}},
		{"echo.other", function.Ref{Name: "echo", Namespace: "other"}},
	} {
		got, err := function.ParseRef(tt.in, "fn")
		if err != nil || got != tt.want {
			t.Errorf("ParseRef(%q) = %v, %v; want %v", tt.in, got, err, tt.want)
		}
	}
	for _, in := range []string{"", ".", "a.", ".b", "a.b.c", "Echo", "a_b", "-a", "a-", "ü", "a/b", strings.Repeat("a", 64)} {
		if got, err := function.ParseRef(in, "fn"); !errors.Is(err, fault.Invalid) {
			t.Errorf("ParseRef(%q) = %v, %v; want fault.Invalid", in, got, err)
		}
	}
}

func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"echo", "echo.fn", "a.b.c", "..", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := function.ParseRef(s, "fn")
		if err != nil {
			return
		}
		again, err := function.ParseRef(ref.String(), "other")
		if err != nil || again != ref {
			t.Errorf("ParseRef(%q) = %v, but its String parses as %v, %v", s, ref, again, err)
		}
	})
}

func TestAnnotationsOverrideEnvironmentOverridesDefaults(t *testing.T) {
	got, err := function.ReadSettings(
		map[string]string{"com.graphene.workers": "4", "com.graphene.max_memory": "64Mi"},
		map[string]string{"workers": "2", "exec_timeout": "90"},
	)
	if err != nil {
		t.Fatal(err)
	}
	want := function.Settings{
		ExecTimeout: function.Duration(90 * time.Second),
		LoadTimeout: function.Duration(10 * time.Minute),
		Workers:     4,
		WorkersMin:  1,
		Threads:     1, WorkerThreads: 1,
		MaxMemory:    64 << 20,
		BatchMax:     32,
		MaxProcesses: 512,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestEveryBadSettingIsReported(t *testing.T) {
	_, err := function.ReadSettings(
		map[string]string{"com.graphene.workers": "many", "com.graphene.max_memory": "1.5Gi"},
		map[string]string{"exec_timeout": "soon"},
	)
	if !errors.Is(err, fault.Invalid) {
		t.Fatalf("err = %v, want fault.Invalid", err)
	}
	for _, part := range []string{`annotation com.graphene.workers is "many"`, `annotation com.graphene.max_memory is "1.5Gi"`, `environment variable exec_timeout is "soon"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

func TestEnvironIsReadBackAsTheSameSettings(t *testing.T) {
	want, err := function.ReadSettings(map[string]string{"com.graphene.exec_timeout": "1500ms", "com.graphene.max_memory": "1G"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, kv := range want.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	got, err := function.ReadSettings(nil, env)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func FuzzQuantities(f *testing.F) {
	for _, s := range []string{"1", "64Mi", "500m", "0.5", "-1", "9223372036854775807Ti", "1e300", "NaN", "1h", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var b function.Bytes
		if b.UnmarshalText([]byte(s)) == nil && b < 0 {
			t.Errorf("Bytes(%q) = %d", s, b)
		}
		var m function.MilliCPU
		if m.UnmarshalText([]byte(s)) == nil && m < 0 {
			t.Errorf("MilliCPU(%q) = %d", s, m)
		}
		var d function.Duration
		if d.UnmarshalText([]byte(s)) == nil && d < 0 {
			t.Errorf("Duration(%q) = %v", s, d)
		}
	})
}

func TestATargetIsReadBackAndComparedByWhatItNeeds(t *testing.T) {
	host := function.Target{OS: "linux", Arch: "amd64", Python: "cp311", Libc: "glibc"}
	got, err := function.ParseTarget(host.String())
	if err != nil || got != host {
		t.Fatalf("ParseTarget(%q) = %v, %v", host, got, err)
	}
	if err := host.Runs(function.Target{OS: "linux", Arch: "amd64"}); err != nil {
		t.Errorf("a static binary is refused: %v", err)
	}
	other := function.Target{OS: "linux", Arch: "amd64", Python: "cp312", Libc: "glibc"}
	if err := host.Runs(other); !errors.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "--target linux/amd64/cp311/glibc") {
		t.Errorf("Runs(%v) = %v, want fault.Invalid with the remedy", other, err)
	}
	for _, bad := range []string{"", "linux", "linux/", "a/b/c", "a/b/c/d/e"} {
		if _, err := function.ParseTarget(bad); err == nil {
			t.Errorf("ParseTarget(%q) succeeds", bad)
		}
	}
}
