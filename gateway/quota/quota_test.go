package quota_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/graphene-faas/graphene/gateway/quota"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/testkit"
	"github.com/graphene-faas/graphene/internal/testkit/natstest"
	"github.com/graphene-faas/graphene/internal/web"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func file(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "limits.yaml")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func open(t *testing.T, text string) *quota.Limits {
	t.Helper()
	l, err := quota.Open(quota.Options{File: file(t, text), Account: quota.NewAccount(nil, testkit.Log(t)), Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// call is a call of acme's function f from an address of documentation.
func call(caller string, last byte, roles ...string) quota.Request {
	return quota.Request{
		Address: netip.AddrFrom4([4]byte{192, 0, 2, last}), Caller: caller, Roles: roles,
		Call: true, Function: iam.Resource{Namespace: "acme", Name: "f"},
	}
}

// enters reports whether r is let in, and when it may come again if not.
func enters(t *testing.T, l *quota.Limits, r quota.Request) (bool, time.Duration) {
	t.Helper()
	leave, err := l.Enter(r)
	if err == nil {
		leave()
		return true, 0
	}
	retry, ok := errors.AsType[*web.Retry](err)
	if !ok || !errors.Is(err, fault.Busy) {
		t.Fatalf("the refusal %v does not say when to come again", err)
	}
	return false, retry.After
}

func TestARateIsForEachOfThoseWhoShareIt(t *testing.T) {
	for per, want := range map[string][]bool{
		// ann, ann, bob from the same address, nobody from it, nobody from another
		"caller":  {true, false, true, true, true},
		"address": {true, false, false, false, true},
		"all":     {true, false, false, false, false},
	} {
		t.Run(per, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := open(t, "limits: [{name: slow, per: "+per+", rate: 6/m}]")
				var got []bool
				for _, r := range []quota.Request{call("ann", 1), call("ann", 1), call("bob", 1), call("", 1), call("", 2)} {
					ok, after := enters(t, l, r)
					if !ok && after != 10*time.Second {
						t.Errorf("%+v may come again after %v, want 10s", r, after)
					}
					got = append(got, ok)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Error(diff)
				}
				time.Sleep(10 * time.Second)
				if ok, _ := enters(t, l, call("ann", 1)); !ok {
					t.Error("whoever waited as long as they were told is refused again")
				}
			})
		})
	}
}

func TestALimitIsForTheRolesCallersAndFunctionsItNames(t *testing.T) {
	for name, c := range map[string]struct {
		who   string
		bound []bool // ann with the role, bob without, somebody unknown, ann calling another function, ann managing
	}{
		"a role":            {"roles: [customers]", []bool{true, false, false, true, true}},
		"a caller":          {"callers: bob", []bool{false, true, false, false, false}},
		"a function":        {"functions: ['acme:f']", []bool{true, true, true, false, false}},
		"a role's function": {"functions: ['acme:*'], roles: customers", []bool{true, false, false, false, false}},
		"everybody":         {"per: all", []bool{true, true, true, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			other, manages := call("ann", 1, "customers"), call("ann", 1, "customers")
			other.Function = iam.Resource{Namespace: "lab", Name: "f"}
			manages.Call, manages.Function = false, iam.Resource{}
			var got []bool
			for _, r := range []quota.Request{call("ann", 1, "staff", "customers"), call("bob", 2), call("", 3), other, manages} {
				l := open(t, "limits: [{name: x, rate: 1/h, "+c.who+"}]")
				enters(t, l, r)
				again, _ := enters(t, l, r)
				got = append(got, !again)
			}
			if diff := cmp.Diff(c.bound, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCallsAtOnceAreGivenBack(t *testing.T) {
	l := open(t, "limits: [{name: two, concurrent: 2}]")
	first, err := l.Enter(call("ann", 1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Enter(call("ann", 1)); err != nil {
		t.Fatal(err)
	}
	if ok, _ := enters(t, l, call("ann", 1)); ok {
		t.Error("a third call runs beside two")
	}
	if ok, _ := enters(t, l, call("bob", 1)); !ok {
		t.Error("one caller's calls keep another out")
	}
	later := call("ann", 1)
	later.Queued = true
	if ok, _ := enters(t, l, later); !ok {
		t.Error("what is to run later counts as running")
	}
	first()
	if ok, _ := enters(t, l, call("ann", 1)); !ok {
		t.Error("a call that has ended still counts")
	}
}

func TestWhatOneLimitRefusesIsNotLentByAnother(t *testing.T) {
	l := open(t, "limits: [{name: a, concurrent: 1}, {name: b, rate: 1/h}]")
	enters(t, l, call("ann", 1))
	for range 3 {
		_, err := l.Enter(call("ann", 1))
		if err == nil || !strings.Contains(err.Error(), `limit "b"`) {
			t.Fatalf("the answer is %v: want the refusal of b, for a has nothing in flight", err)
		}
	}
}

func TestABudgetLastsForADayAndAMonthOfUTC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins on 2000-01-01
		l := open(t, "limits: [{name: plan, calls: {day: 2, month: 3}, queuedBytes: {day: 1Ki}}]")
		time.Sleep(23 * time.Hour)
		enters(t, l, call("ann", 1))
		enters(t, l, call("ann", 1))
		if ok, after := enters(t, l, call("ann", 1)); ok || after != time.Hour {
			t.Errorf("a third call that day: let in %v, may come again after %v, want one hour", ok, after)
		}
		time.Sleep(time.Hour)
		if ok, _ := enters(t, l, call("ann", 1)); !ok {
			t.Error("the next day has nothing left")
		}
		if ok, after := enters(t, l, call("ann", 1)); ok || after != 30*24*time.Hour {
			t.Errorf("a fourth call that month: let in %v, may come again after %v, want 30 days", ok, after)
		}
		later := call("bob", 1)
		later.Queued, later.Bytes = true, 1000
		if ok, _ := enters(t, l, later); !ok {
			t.Error("1000 of 1024 bytes are refused")
		}
		later.Bytes = -1 // not known before it has arrived
		if ok, _ := enters(t, l, later); !ok {
			t.Error("a body of unknown length is refused while there is room")
		}
		l.Spent(later, 24)
		time.Sleep(24 * time.Hour) // the calls of the month are not what is tried here
		later.Bytes = 1025
		if ok, _ := enters(t, l, later); ok {
			t.Error("1025 of 1024 bytes are let in")
		}
	})
}

// lines is a log that can be read line by line.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// until waits for a line that has text.
func (l lines) until(t *testing.T, text string) {
	t.Helper()
	for late := time.After(30 * time.Second); ; {
		select {
		case line := <-l:
			if strings.Contains(line, text) {
				return
			}
		case <-late:
			t.Fatalf("the log never says %q", text)
		}
	}
}

func TestAChangedFileIsInForceAndABrokenOneChangesNothing(t *testing.T) {
	name := file(t, "limits: [{name: x, rate: 1/h}]")
	log := make(lines, 100)
	l, err := quota.Open(quota.Options{File: name, Account: quota.NewAccount(nil, testkit.Log(t)), Log: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	defer func() { stop(); <-ended }()
	enters(t, l, call("ann", 1))
	for _, step := range []struct {
		text, says string
		again      bool
	}{
		{"limits: [{name: x, rate: 1}]", "limits are broken", false},
		{"limits: []", "limits read again", true},
	} {
		if err := os.WriteFile(name, []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		log.until(t, step.says)
		if ok, _ := enters(t, l, call("ann", 1)); ok != step.again {
			t.Errorf("after %q the call is let in: %v", step.text, ok)
		}
	}
}

func TestEverythingThatIsWrongWithTheLimitsIsReportedTogether(t *testing.T) {
	_, err := quota.ParseRules([]byte(`limits:
  - {rate: 5/s}
  - {name: a}
  - {name: a, concurrent: -1, per: planet}
  - {name: b, burst: 5, calls: {day: 1}}
  - {name: c, rate: 5/s, functions: ["a/b"]}
`))
	if !errors.Is(err, fault.Invalid) {
		t.Fatal(err)
	}
	for _, want := range []string{"limits[0] has no name", `limit "a" bounds nothing`, `limit "a" is there twice`, "below 0", `per "planet"`, `limit "b" has a burst without a rate`, `limit "c"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v\ndoes not say %q", err, want)
		}
	}
	for _, bad := range []string{"limit: []", "limits: [{name: a, rate: 5}]", "limits: [{name: a, rate: 0/s}]", "limits: [{name: a, rate: NaN/s}]", "a: b\n---\nc: d"} {
		if _, err := quota.ParseRules([]byte(bad)); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzRules(f *testing.F) {
	f.Add("limits: [{name: a, rate: 5/s, functions: ['a:*'], calls: {day: 1}}]")
	f.Fuzz(func(t *testing.T, text string) {
		rules, err := quota.ParseRules([]byte(text))
		if err == nil {
			for _, l := range rules.Limits {
				if l.Name == "" || l.Rate < 0 || l.Concurrent < 0 {
					t.Errorf("%q is taken as %+v", text, l)
				}
			}
		}
	})
}

// gateways returns accounts of two gateways that share a server, and stops
// them at the end.
func gateways(t *testing.T) [2]*quota.Account {
	t.Helper()
	s := natstest.Server(t)
	var all [2]*quota.Account
	for i := range all {
		nc, err := nats.Connect("", nats.InProcessServer(s))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		bucket, err := quota.NewBucket(nc, 1)
		if err != nil {
			t.Fatal(err)
		}
		all[i] = quota.NewAccount(bucket, testkit.Log(t))
		ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
		ended := make(chan error, 1)
		go func() { ended <- all[i].Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	return all
}

func TestGatewaysShareBudgetsAndReports(t *testing.T) {
	all := gateways(t)
	name := file(t, "limits: [{name: plan, calls: {day: 3}}]")
	var limits [2]*quota.Limits
	for i := range limits {
		var err error
		if limits[i], err = quota.Open(quota.Options{File: name, Account: all[i], Log: testkit.Log(t)}); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		if ok, _ := enters(t, limits[0], call("ann", 1)); !ok {
			t.Fatal("one of the three calls is refused")
		}
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if ok, _ := enters(t, limits[1], call("ann", 1)); !ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the other gateway does not hear what was used")
		}
		// What it let in meanwhile counts for both, so it ends in any case.
	}

	today := time.Now()
	day := today.UTC().Format(time.DateOnly)
	for i, a := range all {
		a.Add(quota.Key{Period: day, Caller: "ann", Function: "acme:f"}, quota.Counts{Calls: int64(i + 1), BytesIn: 10, BusyMillis: 5})
		a.Add(quota.Key{Period: day, Caller: "bob", Function: "acme:g"}, quota.Counts{Calls: 1, Errors: 1})
		a.Add(quota.Key{Period: day, Function: "acme:g"}, quota.Counts{Refused: 1})
	}
	var got []quota.Line
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		var err error
		if got, err = all[0].Report(t.Context(), today, today, []string{"caller", "function", "day"}); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(got) == fmt.Sprint([]quota.Line{
			{Day: day, Caller: "(anonymous)", Function: "acme:g", Counts: quota.Counts{Refused: 2}},
			{Day: day, Caller: "ann", Function: "acme:f", Counts: quota.Counts{Calls: 3, BytesIn: 20, BusyMillis: 10}},
			{Day: day, Caller: "bob", Function: "acme:g", Counts: quota.Counts{Calls: 2, Errors: 2}},
		}) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the report is %+v", got)
		}
	}
	if got, err := all[1].Report(t.Context(), today, today, nil); err != nil || len(got) != 1 || got[0].Calls != 5 {
		t.Errorf("the sum of all is %+v, %v", got, err)
	}
	if got, err := all[1].Report(t.Context(), today.AddDate(0, 0, -9), today.AddDate(0, 0, -2), nil); err != nil || len(got) != 0 {
		t.Errorf("last week is %+v, %v", got, err)
	}
}

// A gateway is one of several with the same limits.
type gateway struct {
	*quota.Limits
	stop func() // as if it had died: what it lends is not given back
}

// sharing returns a gateway with the limits of a file, over a server of its own
// or another's.
func sharing(t *testing.T, s *server.Server, file string) gateway {
	t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	l, err := quota.Open(quota.Options{File: file, Account: quota.NewAccount(nil, testkit.Log(t)), Conn: nc, Log: testkit.Log(t)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return gateway{l, stop}
}

const shared = `limits:
  - {name: slow, callers: [ann, bob], rate: 1/h, burst: 5}
  - {name: few, concurrent: 2}
`

// lend begins calls of somebody that last.
func (g gateway) lend(t *testing.T, caller string, n int) (leave func()) {
	t.Helper()
	var all []func()
	for range n {
		back, err := g.Enter(call(caller, 1))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, back)
	}
	return func() {
		for _, back := range all {
			back()
		}
	}
}

// hears waits until g has heard of everything that the other gateway has let
// through. Messages come in order, and in them limits do.
func (g gateway) hears(t *testing.T, other gateway, marker string) {
	t.Helper()
	leave := other.lend(t, marker, 2)
	defer leave()
	testkit.Eventually(t, "the other gateway's calls are known", func() bool {
		ok, _ := enters(t, g.Limits, call(marker, 1))
		return !ok
	})
}

func TestGatewaysShareARate(t *testing.T) {
	s, name := natstest.Server(t), file(t, shared)
	one, two := sharing(t, s, name), sharing(t, s, name)
	one.hears(t, two, "first")
	two.hears(t, one, "second")
	for range 5 {
		if ok, _ := enters(t, one.Limits, call("ann", 1)); !ok {
			t.Fatal("one of the burst is refused")
		}
	}
	two.hears(t, one, "third")
	if ok, wait := enters(t, two.Limits, call("ann", 1)); ok || wait > time.Hour {
		t.Errorf("what another gateway has let through does not count: %t, wait %v", ok, wait)
	}
	// What two let through at the same time is made up for.
	through := 0
	for range 5 {
		for _, g := range []gateway{one, two} {
			if ok, _ := enters(t, g.Limits, call("bob", 1)); ok {
				through++
			}
		}
	}
	one.hears(t, two, "fourth")
	beyond := time.Duration(through-5) * time.Hour
	if ok, wait := enters(t, one.Limits, call("bob", 1)); ok || wait <= beyond {
		t.Errorf("of a burst of 5, %d were let through, and the next is let through (%t) or waits %v, want more than %v", through, ok, wait, beyond)
	}
}

func TestGatewaysShareCallsAtOnceUntilOneDies(t *testing.T) {
	s, name := natstest.Server(t), file(t, shared)
	one, two := sharing(t, s, name), sharing(t, s, name)
	two.hears(t, one, "first")
	full := func(g gateway, caller string) func() bool {
		return func() bool {
			ok, _ := enters(t, g.Limits, call(caller, 1))
			return !ok
		}
	}
	free := func(g gateway, caller string) func() bool { return func() bool { return !full(g, caller)() } }

	leave := one.lend(t, "carl", 1)
	two.hears(t, one, "second")
	mine := two.lend(t, "carl", 1)
	testkit.Eventually(t, "the first knows of the second's call", full(one, "carl"))
	leave()
	testkit.Eventually(t, "what is given back to the first is free at the second", free(two, "carl"))
	mine()

	one.lend(t, "dora", 2)
	testkit.Eventually(t, "calls of a gateway that lives count", full(two, "dora"))
	three := sharing(t, s, name)
	testkit.Eventually(t, "one that starts hears of calls that last", full(three, "dora"))
	one.stop()
	for _, g := range []gateway{two, three} {
		testkit.Eventually(t, "calls of a gateway that died count no more", free(g, "dora"))
	}
	// Without the way to others each goes by itself.
	s.Shutdown()
	two.lend(t, "emil", 2)
	if ok, _ := enters(t, two.Limits, call("emil", 1)); ok {
		t.Error("without NATS a gateway lets more through than it may itself")
	}
	if ok, _ := enters(t, three.Limits, call("emil", 1)); !ok {
		t.Error("without NATS a gateway lets nothing through")
	}
}

func TestAReportThatMakesNoSenseIsRefused(t *testing.T) {
	a := gateways(t)[0]
	now := time.Now()
	for name, ask := range map[string]func() error{
		"a column nobody knows": func() error { _, err := a.Report(t.Context(), now, now, []string{"colour"}); return err },
		"the end first":         func() error { _, err := a.Report(t.Context(), now, now.AddDate(0, 0, -1), nil); return err },
		"half a life":           func() error { _, err := a.Report(t.Context(), now.AddDate(-40, 0, 0), now, nil); return err },
	} {
		if err := ask(); !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
