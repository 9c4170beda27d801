package quota

import (
	"cmp"
	"context"
	"crypto/rand"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/graphene-faas/graphene/internal/fault"
)

// A Key names one line of an account.
type Key struct {
	// Period is a day of UTC such as 2026-11-23, or a month such as 2026-11.
	Period string `json:"period"`
	// Limit is the name of the limit whose budget this is; "" is a line of the
	// report, of what Caller used of Function in a day.
	Limit    string `json:"limit,omitempty"`
	Caller   string `json:"caller,omitempty"`
	Function string `json:"function,omitempty"` // NAMESPACE:NAME, as in policies; "" is none that exists
}

// Counts are what was used.
type Counts struct {
	Calls       int64 `json:"calls"`       // answered, or accepted to run later
	Errors      int64 `json:"errors"`      // of these, with a status from 500
	Refused     int64 `json:"refused"`     // answered 401, 403 or 429 by the gateway
	Queued      int64 `json:"queued"`      // of Calls, those accepted to run later
	QueuedBytes int64 `json:"queuedBytes"` // their bodies
	BytesIn     int64 `json:"bytesIn"`     // bodies of calls
	BytesOut    int64 `json:"bytesOut"`    // bodies of answers
	BusyMillis  int64 `json:"busyMillis"`  // from the arrival of calls to the end of their answers
}

func (c *Counts) add(d Counts) {
	c.Calls += d.Calls
	c.Errors += d.Errors
	c.Refused += d.Refused
	c.Queued += d.Queued
	c.QueuedBytes += d.QueuedBytes
	c.BytesIn += d.BytesIn
	c.BytesOut += d.BytesOut
	c.BusyMillis += d.BusyMillis
}

// An Entry is what one life of one gateway counted under a key. A later entry
// of the same Writer and Key replaces it.
type Entry struct {
	Writer string `json:"writer"`
	Key
	Counts
}

// A Store keeps entries, and shows those of all gateways. Errors are of kind
// fault.Unavailable.
type Store interface {
	Put(ctx context.Context, e Entry) error
	// Budgets calls seen with every entry of a budget of these periods, and
	// with every change, until ctx ends.
	Budgets(ctx context.Context, periods []string, seen func(Entry)) error
	// Report calls seen with every entry of a day's report.
	Report(ctx context.Context, day string, seen func(Entry)) error
}

const (
	// flushPause is how often what was counted is stored: a gateway that dies
	// forgets that much.
	flushPause = 5 * time.Second
	// maxLines bounds how many lines a gateway keeps; callers beyond are
	// counted together.
	maxLines = 100_000
	// everybodyElse stands for them.
	everybodyElse = "(others)"
)

// An Account counts what callers use. It is safe for concurrent use.
type Account struct {
	store  Store
	writer string
	log    *slog.Logger

	mu     sync.Mutex
	own    map[Key]*line
	others map[Key]map[string]Counts // by writer
}

type line struct {
	Counts
	stored Counts // as the store has it
}

// NewAccount returns an empty account. Without a store it lasts as long as the
// process, and knows only its own gateway.
func NewAccount(store Store, log *slog.Logger) *Account {
	return &Account{store: store, writer: rand.Text(), log: log, own: map[Key]*line{}, others: map[Key]map[string]Counts{}}
}

// Add counts c under k.
func (a *Account) Add(k Key, c Counts) {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.own[k]
	if l == nil {
		if len(a.own) >= maxLines && k.Limit == "" {
			k.Caller = everybodyElse
		}
		if l = a.own[k]; l == nil {
			l = new(line)
			a.own[k] = l
		}
	}
	l.add(c)
}

// Total returns what all gateways counted under the key of a budget, as far as
// is known here.
func (a *Account) Total(k Key) Counts {
	a.mu.Lock()
	defer a.mu.Unlock()
	var sum Counts
	if l := a.own[k]; l != nil {
		sum = l.Counts
	}
	for _, c := range a.others[k] {
		sum.add(c)
	}
	return sum
}

// Run stores what is counted, and learns what other gateways count, until ctx
// ends; then it stores what is left and returns nil.
func (a *Account) Run(ctx context.Context) error {
	if a.store == nil {
		return a.forgetting(ctx)
	}
	learned := make(chan struct{})
	go func() {
		defer close(learned)
		a.learn(ctx)
	}()
	tick := time.NewTicker(flushPause)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushPause)
		if err := a.flush(rest); err != nil {
			a.log.Warn("usage is not stored yet", "err", err)
		}
		cancel()
		a.forget(time.Now())
	}
	<-learned
	return nil
}

func (a *Account) forgetting(ctx context.Context) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			a.forget(time.Now())
		case <-ctx.Done():
			return nil
		}
	}
}

// learn follows the budgets of this day and this month.
func (a *Account) learn(ctx context.Context) {
	for ctx.Err() == nil {
		now := time.Now()
		day, month := periods(now)
		left, _ := rest(now)
		today, cancel := context.WithTimeout(ctx, left)
		err := a.store.Budgets(today, []string{day, month}, func(e Entry) {
			if e.Writer == a.writer {
				return
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.others[e.Key] == nil {
				a.others[e.Key] = map[string]Counts{}
			}
			a.others[e.Key][e.Writer] = e.Counts
		})
		if err != nil && today.Err() == nil {
			a.log.Warn("budgets of other gateways are not known", "err", err)
			select {
			case <-time.After(flushPause):
			case <-ctx.Done():
			}
		}
		cancel()
	}
}

// flush stores the lines that have changed.
func (a *Account) flush(ctx context.Context) error {
	a.mu.Lock()
	var changed []Entry
	for k, l := range a.own {
		if l.Counts != l.stored {
			changed = append(changed, Entry{Writer: a.writer, Key: k, Counts: l.Counts})
		}
	}
	a.mu.Unlock()
	for _, e := range changed {
		if err := a.store.Put(ctx, e); err != nil {
			return err
		}
		a.mu.Lock()
		if l := a.own[e.Key]; l != nil {
			l.stored = e.Counts
		}
		a.mu.Unlock()
	}
	return nil
}

// forget drops lines of periods that are over: what is stored is read from the
// store, and budgets of the past bound nothing.
func (a *Account) forget(now time.Time) {
	day, month := periods(now)
	over := func(k Key) bool { return k.Period != day && k.Period != month }
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.own, func(k Key, l *line) bool { return over(k) && (a.store == nil || l.Counts == l.stored) })
	maps.DeleteFunc(a.others, func(k Key, _ map[string]Counts) bool { return over(k) })
}

// Line is a line of a report.
type Line struct {
	Day      string `json:"day,omitempty"`
	Caller   string `json:"caller,omitempty"`
	Function string `json:"function,omitempty"`
	Counts
}

// maxDays bounds a report.
const maxDays = 400

// Report returns what was used from the one day to the other, both included,
// added up over what is not in by: "day", "caller", "function". It is in the
// order of these. Errors are of kind fault.Invalid, fault.Unsupported for an
// account without a store, and fault.Unavailable.
func (a *Account) Report(ctx context.Context, from, to time.Time, by []string) ([]Line, error) {
	for _, column := range by {
		if !slices.Contains([]string{"day", "caller", "function"}, column) {
			return nil, fault.Invalid.Errorf("a report is by day, caller or function, not by %q", column)
		}
	}
	if to.Before(from) || to.Sub(from) > maxDays*24*time.Hour {
		return nil, fault.Invalid.Errorf("a report is of 1 to %d days, and the first is not after the last", maxDays)
	}
	if a.store == nil {
		return nil, fault.Unsupported.Errorf("usage is kept where there is a queue, and this gateway has none")
	}
	if err := a.flush(ctx); err != nil {
		return nil, err
	}
	sums := map[Line]*Counts{}
	for day := from.UTC(); !day.After(to.UTC()); day = day.AddDate(0, 0, 1) {
		err := a.store.Report(ctx, day.Format(time.DateOnly), func(e Entry) {
			var k Line
			for _, column := range by {
				switch column {
				case "day":
					k.Day = e.Period
				case "caller":
					k.Caller = cmp.Or(e.Caller, "(anonymous)")
				case "function":
					k.Function = cmp.Or(e.Function, "(none)")
				}
			}
			if sums[k] == nil {
				sums[k] = new(Counts)
			}
			sums[k].add(e.Counts)
		})
		if err != nil {
			return nil, err
		}
	}
	lines := make([]Line, 0, len(sums))
	for k, c := range sums {
		k.Counts = *c
		lines = append(lines, k)
	}
	slices.SortFunc(lines, func(x, y Line) int {
		return cmp.Or(cmp.Compare(x.Day, y.Day), cmp.Compare(x.Caller, y.Caller), cmp.Compare(x.Function, y.Function))
	})
	return lines, nil
}
