// Package quota bounds what callers take of the platform and keeps account of
// what they took.
//
// [Limits] are rules from a file: how fast, how many at once, how much in a day
// or a month, for each caller, each address, or for a group of callers
// together. An [Account] counts what was used, by caller, function and day; it
// is shared by all gateways through a [Store], so that budgets hold for all of
// them and reports are whole. Rates and calls at once hold for all of them too:
// gateways tell each other what they let through, a moment later.
//
// Start with [Open] and let every request that counts go through
// [Limits.Enter].
package quota

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
	"github.com/graphene-faas/graphene/internal/iam"
)

// Rules are a file of limits.
type Rules struct {
	Limits []Limit `yaml:"limits"`
}

// A Limit bounds what some callers take. A request must be within every limit
// that it falls under.
type Limit struct {
	Name string `yaml:"name"` // as refusals name it

	// Roles and Callers say whom it is for: callers with one of the roles, or
	// of one of the names. Without either it is for everybody, also for those
	// nobody knows.
	Roles   iam.List `yaml:"roles"`
	Callers iam.List `yaml:"callers"`
	// Functions says what for, as resources of policies do; none is
	// everything, the management API included.
	Functions iam.List `yaml:"functions"`

	// Per says who shares what the limit allows.
	Per Per `yaml:"per"`

	// Rate is how many requests may come, on average; Burst is how many may
	// come at once, by default those of one second.
	Rate  Rate `yaml:"rate"`
	Burst int  `yaml:"burst"`
	// Concurrent is how many calls may be answered at once.
	Concurrent int `yaml:"concurrent"`
	// Calls is how many calls may be made, QueuedBytes how much may be handed
	// over for asynchronous calls, in a day and in a month of UTC.
	Calls       Budget        `yaml:"calls"`
	QueuedBytes BudgetOfBytes `yaml:"queuedBytes"`

	covers *iam.Rights // nil is everything
}

// Per says who shares what a limit allows.
type Per string

// The values of Per.
const (
	PerCaller  Per = "caller"  // each caller has it for themselves; those nobody knows, each address
	PerAddress Per = "address" // each address has it for itself
	PerAll     Per = "all"     // all whom the limit is for have it together
)

// A Budget is an amount for a day and for a month; 0 is no bound.
type Budget struct {
	Day   int64 `yaml:"day"`
	Month int64 `yaml:"month"`
}

// BudgetOfBytes is a [Budget] that is written as amounts of memory are.
type BudgetOfBytes struct {
	Day   function.Bytes `yaml:"day"`
	Month function.Bytes `yaml:"month"`
}

// A Rate is requests per second; 0 is no bound. It is written as "50/s",
// "600/m" or "1000/h".
type Rate float64

// UnmarshalYAML implements the interface of package yaml.
func (r *Rate) UnmarshalYAML(n *yaml.Node) error {
	count, unit, ok := strings.Cut(n.Value, "/")
	seconds := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	number, err := strconv.ParseFloat(count, 64)
	if !ok || seconds == 0 || err != nil || !(number > 0 && number <= 1e9) {
		return fmt.Errorf("line %d: %q is no rate, want one such as 50/s, 600/m or 1000/h", n.Line, n.Value)
	}
	*r = Rate(number / seconds)
	return nil
}

// maxRules bounds a file of limits, in bytes.
const maxRules = 1 << 20

// ParseRules reads a file of limits. Everything that is wrong with it is
// reported together, as fault.Invalid.
func ParseRules(text []byte) (*Rules, error) {
	if len(text) > maxRules {
		return nil, fault.Invalid.Errorf("the limits have %d bytes, at most %d are read", len(text), maxRules)
	}
	rules := new(Rules)
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(rules); err != nil && !errors.Is(err, io.EOF) {
		return nil, fault.Invalid.Errorf("read the limits: %w", err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fault.Invalid.Errorf("read the limits: there is more than one document")
	}
	var problems []string
	for i := range rules.Limits {
		l := &rules.Limits[i]
		where := fmt.Sprintf("limits[%d]", i)
		if l.Name == "" {
			problems = append(problems, where+" has no name")
		} else {
			where = fmt.Sprintf("limit %q", l.Name)
			if slices.ContainsFunc(rules.Limits[:i], func(o Limit) bool { return o.Name == l.Name }) {
				problems = append(problems, where+" is there twice")
			}
		}
		for _, p := range l.check() {
			problems = append(problems, where+" "+p)
		}
	}
	if len(problems) > 0 {
		return nil, fault.Invalid.Errorf("%s", strings.Join(problems, "; "))
	}
	return rules, nil
}

// check completes l, and says what is wrong with it.
func (l *Limit) check() (problems []string) {
	switch l.Per {
	case "":
		l.Per = PerCaller
	case PerCaller, PerAddress, PerAll:
	default:
		problems = append(problems, fmt.Sprintf("is per %q, want caller, address or all", l.Per))
	}
	for _, n := range []int64{int64(l.Burst), int64(l.Concurrent), l.Calls.Day, l.Calls.Month, int64(l.QueuedBytes.Day), int64(l.QueuedBytes.Month)} {
		if n < 0 {
			problems = append(problems, "has a number below 0")
			break
		}
	}
	switch {
	case l.Rate == 0 && l.Burst != 0:
		problems = append(problems, "has a burst without a rate")
	case l.Rate == 0 && l.Concurrent == 0 && l.Calls == Budget{} && l.QueuedBytes == BudgetOfBytes{}:
		problems = append(problems, "bounds nothing: give it a rate, concurrent, calls or queuedBytes")
	}
	if l.Rate != 0 && l.Burst == 0 {
		l.Burst = max(1, int(l.Rate))
	}
	if len(l.Functions) > 0 {
		// Resources are those of policies, and so is what they mean.
		s := iam.Statement{Effect: "Allow", Action: iam.List{"Function:Invoke"}, Resource: l.Functions}
		problems = append(problems, s.Check()...)
		l.covers = iam.Grant(s, l.Name)
	}
	return problems
}

// applies reports whether r falls under l.
func (l *Limit) applies(r Request) bool {
	if l.covers != nil {
		if !r.Call {
			return false
		}
		if _, ok := l.covers.Allows(iam.FunctionInvoke, r.Function); !ok {
			return false
		}
	}
	if len(l.Roles) == 0 && len(l.Callers) == 0 {
		return true
	}
	return slices.Contains(l.Callers, r.Caller) && r.Caller != "" ||
		slices.ContainsFunc(r.Roles, func(role string) bool { return slices.Contains(l.Roles, role) })
}

// who names who shares with r what l allows.
func (l *Limit) who(r Request) string {
	switch {
	case l.Per == PerAll:
		return ""
	case l.Per == PerCaller && r.Caller != "":
		return r.Caller
	}
	return r.Address.String()
}

// periods returns the day and the month of t, as accounts name them.
func periods(t time.Time) (day, month string) {
	t = t.UTC()
	return t.Format(time.DateOnly), t.Format("2006-01")
}

// rest returns how long the day and the month of t still last.
func rest(t time.Time) (day, month time.Duration) {
	t = t.UTC()
	y, m, d := t.Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC).Sub(t), time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC).Sub(t)
}
