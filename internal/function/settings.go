package function

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
)

// annotationPrefix begins the annotations that carry the settings OpenFaaS
// does not have, so that any OpenFaaS client can send them.
const annotationPrefix = "com.graphene."

// Settings are the typed settings of one function. Each is read from the
// annotation com.graphene.NAME, or else from the function's environment
// variable NAME, where NAME is the json tag of the field; they are given to
// the watchdog as environment variables of the same names.
type Settings struct {
	// ExecTimeout bounds one call, from the gateway to the handler.
	ExecTimeout Duration `json:"exec_timeout,omitzero" default:"60s" doc:"longest time one call may take; also the grace period when a replica stops"`
	// LoadTimeout bounds the start of a replica, model included.
	LoadTimeout Duration `json:"load_timeout,omitzero" default:"10m" doc:"longest time a replica may take to start and load its model"`
	// WakeTimeout bounds the wait of a call for the function's first replica; 0
	// is what the installation says.
	WakeTimeout Duration `json:"wake_timeout,omitzero" default:"0s" doc:"longest time a call waits for the first replica; 0: the installation's, which is load_timeout unless changed"`
	// MaxWaiting bounds the calls that wait at each gateway, for a free slot or
	// for the first replica; 0 is what the installation says.
	MaxWaiting int `json:"max_waiting,omitzero" default:"0" doc:"calls that may wait at each gateway for a free slot or for the first replica, more get 429; 0: the installation's, which is 1000 unless changed"`
	// KeepFrozen and KeepZygote are for how long the last replica of a function
	// that was scaled to zero by itself stays in each of these tiers.
	KeepFrozen Span `json:"keep_frozen,omitzero" default:"" doc:"with com.openfaas.scale.zero, embedded: how long the last replica stays in memory, frozen, after the function was put to sleep; 0: not at all; unset: the installation's, which is 10m unless changed"`
	KeepZygote Span `json:"keep_zygote,omitzero" default:"" doc:"with com.openfaas.scale.zero, embedded: how long a Python function's loaded model stays in memory after that, without workers; 0: not at all; unset: the installation's, which is 1h unless changed"`
	// MaxInflight bounds the calls one replica handles at once; 0 is as many as
	// the workers take for Python and unlimited for others.
	MaxInflight int `json:"max_inflight,omitzero" default:"0" doc:"calls one replica handles at once; 0: as many as its workers take in pool mode, else unlimited"`
	// Workers is the largest number of worker processes of a pool; 0 is one
	// for each CPU the function may use.
	Workers int `json:"workers,omitzero" default:"0" doc:"largest number of worker processes of a Python pool; 0: one per CPU"`
	// WorkersMin is the number of workers kept while idle.
	WorkersMin int `json:"workers_min,omitzero" default:"1" doc:"worker processes kept while idle"`
	// Threads is what numeric libraries may use in one worker. Above 1 the
	// workers cannot share one loaded model.
	Threads int `json:"threads,omitzero" default:"1" doc:"threads of numeric libraries in one worker; above 1 every worker loads for itself"`
	// WorkerThreads is how many calls one worker answers at a time, each in a
	// thread of its own, or of an async handler how many batches.
	WorkerThreads int `json:"worker_threads,omitzero" default:"1" doc:"calls that one worker answers at once, each in a Python thread; with an async handle_batch, batches at once"`
	// MaxRequests recycles a worker after that many calls; 0 is never.
	MaxRequests int `json:"max_requests,omitzero" default:"0" doc:"calls after which a worker is replaced; 0: never"`
	// MaxMemory recycles a worker whose resident memory exceeds it; 0 is never.
	MaxMemory Bytes `json:"max_memory,omitzero" default:"0" doc:"resident memory at which a worker is replaced; at twice as much it is killed; 0: never"`
	// MaxGrowth recycles a worker that has grown by as much since its first
	// calls; 0 is never.
	MaxGrowth Bytes `json:"max_growth,omitzero" default:"0" doc:"growth since its first calls at which a worker is replaced; 0: never"`
	// MaxAge recycles a worker that is as old; 0 is never.
	MaxAge Duration `json:"max_age,omitzero" default:"0s" doc:"age at which a worker is replaced; 0: never"`
	// MaxProcesses bounds the processes and threads of one worker and of all
	// that it has started; 0 is no limit.
	MaxProcesses int `json:"max_processes,omitzero" default:"512" doc:"processes and threads of a worker, with all that it has started, beyond which it is killed with all of them; 0: no limit"`
	// BatchMax bounds what handle_batch is given at a time.
	BatchMax int `json:"batch_max,omitzero" default:"32" doc:"calls that a Python function's handle_batch is given together; 1: none"`
	// BatchLatency is what a call of a function with handle_batch should take,
	// waiting included; calls that would take longer are refused. 0 is no target.
	BatchLatency Duration `json:"batch_latency,omitzero" default:"0s" doc:"what a call of a function with handle_batch should take; smaller batches and 429 keep it; 0: no target"`
}

// A Setting describes one field of Settings for people.
type Setting struct {
	Name       string // key in stack.yaml, and the watchdog's environment variable
	Annotation string // how other OpenFaaS clients send it
	Type       string // duration, number or bytes
	Default    string // empty: the installation's
	Doc        string
}

// ListSettings describes every setting, in the order of the struct.
func ListSettings() []Setting {
	var all []Setting
	for f := range fields() {
		all = append(all, Setting{
			Name:       f.name,
			Annotation: annotationPrefix + f.name,
			Type:       f.kind,
			Default:    f.fallback,
			Doc:        f.doc,
		})
	}
	return all
}

// IsSetting reports whether name is the name of a setting.
func IsSetting(name string) bool {
	return slices.ContainsFunc(ListSettings(), func(s Setting) bool { return s.Name == name })
}

// Annotation returns the annotation that carries the setting called name.
func Annotation(name string) string { return annotationPrefix + name }

// ReadSettings reads a function's settings from its annotations and, for
// those not set there, from its environment. What is set in neither has its
// default. All problems are reported together, as fault.Invalid, each with
// the setting's name, its value and what would be right.
func ReadSettings(annotations, env map[string]string) (Settings, error) {
	var s Settings
	var problems []string
	v := reflect.ValueOf(&s).Elem()
	for f := range fields() {
		raw, key := f.fallback, "the default"
		if e := env[f.name]; e != "" {
			raw, key = e, "environment variable "+f.name
		}
		if a := annotations[annotationPrefix+f.name]; a != "" {
			raw, key = a, "annotation "+annotationPrefix+f.name
		}
		if err := set(v.Field(f.index), raw); err != nil {
			problems = append(problems, fmt.Sprintf("%s is %q: %v", key, raw, err))
		}
	}
	if s.Workers > 0 && s.WorkersMin > s.Workers {
		problems = append(problems, fmt.Sprintf("workers_min is %d, which is more than workers, %d", s.WorkersMin, s.Workers))
	}
	if len(problems) > 0 {
		return Settings{}, fault.Invalid.Errorf("%s", strings.Join(problems, "; "))
	}
	return s, nil
}

// Environ returns the settings as the watchdog reads them, NAME=VALUE, in a
// fixed order.
func (s Settings) Environ() []string {
	var env []string
	v := reflect.ValueOf(s)
	for f := range fields() {
		env = append(env, fmt.Sprintf("%s=%v", f.name, v.Field(f.index).Interface()))
	}
	return env
}

type field struct {
	index                     int
	name, kind, fallback, doc string
}

func fields() func(yield func(field) bool) {
	return func(yield func(field) bool) {
		t := reflect.TypeFor[Settings]()
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			kind := "number"
			switch f.Type {
			case reflect.TypeFor[Duration](), reflect.TypeFor[Span]():
				kind = "duration"
			case reflect.TypeFor[Bytes]():
				kind = "bytes"
			}
			if !yield(field{i, name, kind, f.Tag.Get("default"), f.Tag.Get("doc")}) {
				return
			}
		}
	}
}

func set(v reflect.Value, raw string) error {
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		return u.UnmarshalText([]byte(raw))
	}
	n, err := strconv.Atoi(raw)
	if err != nil || n < 0 {
		return errors.New("want a whole number, 0 or more")
	}
	v.SetInt(int64(n))
	return nil
}

// A Duration is a time span that OpenFaaS clients write as whole seconds
// ("60") as well as in Go's notation ("1m"). Both are read; only the second
// is written.
type Duration time.Duration

// Std returns d as the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

// String returns Go's notation.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads whole seconds or Go's notation. Negative spans are
// refused.
func (d *Duration) UnmarshalText(text []byte) error {
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		if n < 0 || n > math.MaxInt64/int64(time.Second) {
			return errors.New("want a time span such as 30s, 2m or 45 (seconds)")
		}
		*d = Duration(time.Duration(n) * time.Second)
		return nil
	}
	parsed, err := time.ParseDuration(string(text))
	if err != nil || parsed < 0 {
		return errors.New("want a time span such as 30s, 2m or 45 (seconds)")
	}
	*d = Duration(parsed)
	return nil
}

// A Span is a time span that may be left unsaid, which is another thing than
// none.
type Span struct {
	Length Duration
	Said   bool
}

// Or returns the span, or d if nothing was said.
func (s Span) Or(d time.Duration) time.Duration {
	if s.Said {
		return s.Length.Std()
	}
	return d
}

// String returns Go's notation, or nothing if nothing was said.
func (s Span) String() string {
	if !s.Said {
		return ""
	}
	return s.Length.String()
}

// MarshalText writes what String returns.
func (s Span) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a span as [Duration] does, and nothing as unsaid.
func (s *Span) UnmarshalText(text []byte) error {
	*s = Span{Said: len(text) > 0}
	if !s.Said {
		return nil
	}
	return s.Length.UnmarshalText(text)
}

// Bytes is an amount of memory, written as Kubernetes writes quantities:
// 500M, 64Mi, 2Gi or plain bytes.
type Bytes int64

// String returns the shortest quantity that is read back as b.
func (b Bytes) String() string {
	for _, u := range slices.Backward(memoryUnits[:4]) {
		if b != 0 && int64(b)%u.factor == 0 {
			return strconv.FormatInt(int64(b)/u.factor, 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText writes what String returns.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads a Kubernetes quantity of memory. Negative and fractional
// amounts are refused.
func (b *Bytes) UnmarshalText(text []byte) error {
	const want = "want an amount of memory such as 500M, 64Mi or 2Gi"
	s := string(text)
	unit := int64(1)
	for _, u := range memoryUnits {
		if rest, ok := strings.CutSuffix(s, u.suffix); ok {
			s, unit = rest, u.factor
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return errors.New(want)
	}
	*b = Bytes(n * unit)
	return nil
}

// memoryUnits are tried in order, so the two-letter suffixes come first.
var memoryUnits = []struct {
	suffix string
	factor int64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40},
	{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12},
}

// A MilliCPU is an amount of processor time in thousandths of a core, written
// as Kubernetes writes it: 500m, 0.5 or 2.
type MilliCPU int64

// UnmarshalText reads a Kubernetes quantity of CPU.
func (m *MilliCPU) UnmarshalText(text []byte) error {
	const want = "want an amount of CPU such as 500m, 0.5 or 2"
	if rest, ok := strings.CutSuffix(string(text), "m"); ok {
		n, err := strconv.ParseInt(rest, 10, 64)
		if err != nil || n < 0 {
			return errors.New(want)
		}
		*m = MilliCPU(n)
		return nil
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(f >= 0 && f <= 1e6) {
		return errors.New(want)
	}
	*m = MilliCPU(math.Round(f * 1000))
	return nil
}
