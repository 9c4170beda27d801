package quota

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/iam"
	"github.com/graphene-faas/graphene/internal/web"
)

// A Request is what limits are about.
type Request struct {
	Address netip.Addr
	Caller  string // "" is nobody we know
	Roles   []string
	// Call says that it is a call of Function, now or later, and not a request
	// to the management API.
	Call     bool
	Function iam.Resource
	// Queued says that the call is to run later, with a body of Bytes; -1 is
	// not known yet.
	Queued bool
	Bytes  int64
}

// Limits are the rules that are in force. They are safe for concurrent use.
type Limits struct {
	file    string
	account *Account
	others  *others // nil is none
	log     *slog.Logger
	now     atomic.Pointer[table]
}

// A table is one reading of the file, with what its limits have seen.
type table struct {
	text   []byte
	limits []*limit
}

type limit struct {
	Limit
	shared bool // others are told

	mu     sync.Mutex // guards what follows
	shares map[string]*share
	noted  []string // whose shares others may have to be told of
}

// A share is what a limit allows to one of those it is for.
type share struct {
	bucket *rate.Limiter // nil if there is no rate
	calls  int           // being answered

	others map[string]elsewhere // by gateway
	// What others know of it: taken are requests that they do not know of, told
	// are the calls that they do.
	taken, told int
	toldAt      time.Time
	noted       bool // it is among those that others may have to be told of
}

// maxShares bounds how many callers or addresses a limit keeps apart; those
// that have used nothing for a while go first.
const maxShares = 100_000

// reloadPause is how often the file is looked at.
const reloadPause = 3 * time.Second

// Options configure Limits. All but Conn are required.
type Options struct {
	File    string   // with the rules
	Account *Account // where budgets are kept
	// Conn is a connection to NATS over which gateways share rates and calls at
	// once; it may be lost and come back, and each goes by itself meanwhile. Nil
	// is no other gateway. Its owner closes it after Run has returned.
	Conn *nats.Conn
	Log  *slog.Logger
}

// Open reads the limits, and again whenever the file changes while [Limits.Run]
// runs. A file that is wrong is an error of kind fault.Invalid now; later it is
// logged and changes nothing.
func Open(o Options) (*Limits, error) {
	l := &Limits{file: o.File, account: o.Account, log: o.Log}
	if o.Conn != nil {
		l.others = newOthers(o.Conn)
	}
	if err := l.read(); err != nil {
		return nil, fault.Invalid.Errorf("%w", err)
	}
	return l, nil
}

// Run follows the file, and shares what is let through with other gateways,
// until ctx ends, and returns nil then. It returns an error if the connection
// cannot be used at all.
func (l *Limits) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.follow(ctx) })
	if l.others != nil {
		group.Go(func() error { return l.share(ctx) })
	}
	return group.Wait()
}

func (l *Limits) follow(ctx context.Context) error {
	tick := time.NewTicker(reloadPause)
	defer tick.Stop()
	complained := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		switch err := l.read(); {
		case err == nil:
			complained = ""
		case err.Error() != complained:
			complained = err.Error()
			l.log.Error("limits are broken; the ones before stay in force", "file", l.file, "err", err)
		}
	}
}

func (l *Limits) read() error {
	text, err := os.ReadFile(l.file)
	if err != nil {
		return fmt.Errorf("read the limits: %w", err)
	}
	before := l.now.Load()
	if before != nil && bytes.Equal(before.text, text) {
		return nil
	}
	rules, err := ParseRules(text)
	if err != nil {
		return err
	}
	next := &table{text: text}
	for _, r := range rules.Limits {
		next.limits = append(next.limits, &limit{Limit: r, shared: l.others != nil && (r.Rate > 0 || r.Concurrent > 0), shares: map[string]*share{}})
	}
	l.now.Store(next)
	if before != nil {
		l.log.Info("limits read again", "file", l.file, "limits", len(next.limits))
	}
	return nil
}

// Enter takes what r needs of every limit it falls under, and returns what
// gives back the part that is only lent, when the request is over. A request
// that is beyond a limit gets an error of kind fault.Busy that wraps a
// [*web.Retry]; it spends nothing of any budget. A nil Limits allows
// everything.
func (l *Limits) Enter(r Request) (leave func(), err error) {
	if l == nil {
		return func() {}, nil
	}
	now := time.Now()
	var lent []func()
	leave = func() {
		for _, back := range lent {
			back()
		}
	}
	var spend []func()
	for _, limit := range l.now.Load().limits {
		if !limit.applies(r) {
			continue
		}
		back, err := limit.enter(r, now)
		if err == nil {
			lent = append(lent, back)
			err = l.afford(&limit.Limit, r, now, &spend)
		}
		if err != nil {
			leave()
			return nil, err
		}
	}
	for _, do := range spend {
		do()
	}
	return leave, nil
}

// enter takes what r needs of rate and of calls at once.
func (l *limit) enter(r Request, now time.Time) (back func(), err error) {
	who := l.who(r)
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.of(who, now)
	if l.Concurrent > 0 && r.Call && !r.Queued && s.calls+s.elsewhere(now) >= l.Concurrent {
		return nil, l.refuse(time.Second, "at most %d calls at once", l.Concurrent)
	}
	if s.bucket != nil {
		taken := s.bucket.ReserveN(now, 1)
		if wait := taken.DelayFrom(now); wait > 0 {
			taken.CancelAt(now)
			return nil, l.refuse(wait, "at most %s requests a second", decimal(float64(l.Rate)))
		}
	}
	if l.shared {
		s.taken++
		l.note(who, s)
	}
	if l.Concurrent == 0 || !r.Call || r.Queued {
		return func() {}, nil
	}
	s.calls++
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		s.calls--
	}, nil
}

// of returns the share of somebody. The caller holds l.mu.
func (l *limit) of(who string, now time.Time) *share {
	s := l.shares[who]
	if s == nil {
		if len(l.shares) >= maxShares {
			l.forget(now)
		}
		s = new(share)
		if l.Rate > 0 {
			s.bucket = rate.NewLimiter(rate.Limit(l.Rate), l.Burst)
		}
		l.shares[who] = s
	}
	return s
}

// forget drops the shares of those who have used nothing for a while, and any
// others if those are too few. The caller holds l.mu.
func (l *limit) forget(now time.Time) {
	for who, s := range l.shares {
		if s.calls == 0 && s.elsewhere(now) == 0 && (s.bucket == nil || s.bucket.TokensAt(now) >= float64(l.Burst)) {
			delete(l.shares, who)
		}
	}
	for who, s := range l.shares {
		if len(l.shares) < maxShares/2 {
			return
		}
		if s.calls == 0 {
			delete(l.shares, who)
		}
	}
}

// afford checks the budgets of a call, and appends to spend what takes its
// part of them.
func (l *Limits) afford(limit *Limit, r Request, now time.Time, spend *[]func()) error {
	if !r.Call {
		return nil
	}
	day, month := periods(now)
	dayLeft, monthLeft := rest(now)
	for _, b := range []struct {
		period string
		left   time.Duration
		calls  int64
		bytes  int64
	}{
		{day, dayLeft, limit.Calls.Day, int64(limit.QueuedBytes.Day)},
		{month, monthLeft, limit.Calls.Month, int64(limit.QueuedBytes.Month)},
	} {
		if b.calls == 0 && (b.bytes == 0 || !r.Queued) {
			continue
		}
		key := Key{Period: b.period, Limit: limit.Name, Caller: limit.who(r)}
		used := l.account.Total(key)
		switch {
		case b.calls > 0 && used.Calls >= b.calls:
			return limit.refuse(b.left, "%d calls in %s", b.calls, b.period)
		case b.bytes > 0 && r.Queued && used.QueuedBytes+max(r.Bytes, 1) > b.bytes:
			return limit.refuse(b.left, "%d bytes of asynchronous calls in %s", b.bytes, b.period)
		}
		*spend = append(*spend, func() {
			c := Counts{Calls: 1}
			if r.Queued {
				c.QueuedBytes = max(r.Bytes, 0)
			}
			l.account.Add(key, c)
		})
	}
	return nil
}

// Spent adds to the budgets of r what was not known when it entered: the
// length of its body.
func (l *Limits) Spent(r Request, bytes int64) {
	if l == nil || !r.Queued || bytes == 0 {
		return
	}
	day, month := periods(time.Now())
	for _, limit := range l.now.Load().limits {
		if !limit.applies(r) {
			continue
		}
		if limit.QueuedBytes.Day > 0 {
			l.account.Add(Key{Period: day, Limit: limit.Name, Caller: limit.who(r)}, Counts{QueuedBytes: bytes})
		}
		if limit.QueuedBytes.Month > 0 {
			l.account.Add(Key{Period: month, Limit: limit.Name, Caller: limit.who(r)}, Counts{QueuedBytes: bytes})
		}
	}
}

// refuse says what the limit is, and when to come again.
func (l *Limit) refuse(after time.Duration, format string, args ...any) error {
	whose := map[Per]string{PerCaller: "for each caller", PerAddress: "for each address", PerAll: "for all together"}[l.Per]
	text := fmt.Sprintf(format, args...)
	return &web.Retry{After: after, Err: fault.Busy.Errorf("limit %q is reached: %s, %s", l.Name, text, whose)}
}

// decimal writes x as people do.
func decimal(x float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.3f", x), "0"), ".")
}
