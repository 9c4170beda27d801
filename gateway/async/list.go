package async

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// A Filter picks calls.
type Filter struct {
	Function string // NAME.NAMESPACE; "" is any
	State    State  // "" is any
	Since    time.Time
	Until    time.Time // zero is now
	Limit    int       // 0 is 50
	// Cursor is where a page before has ended, its Next; "" begins with the
	// newest.
	Cursor string
}

func (f Filter) picks(c *Call) bool {
	return (f.Function == "" || c.Function == f.Function) &&
		(f.State == "" || c.State == f.State) &&
		!c.Submitted.Before(f.Since) &&
		(f.Until.IsZero() || !c.Submitted.After(f.Until))
}

// A Page is a part of a listing.
type Page struct {
	Calls []*Call
	// Next is the cursor of the page that follows; "" says that there is none.
	Next string
}

// Bounds of what is read for one page. A page of a filter that picks little
// may have fewer calls than its limit, or none, and still have a next one.
const (
	maxScan     = 20_000 // calls
	maxScanTime = 2 * time.Second
)

// List returns calls that f picks, those first that have changed last. What it
// reads and holds does not depend on how many calls there are. A call that
// changes between two pages can be missing in those that follow, or come
// twice; none of the others is missing, or comes twice.
func (q *Queue) List(ctx context.Context, f Filter) (Page, error) {
	if err := q.ready(); err != nil {
		return Page{}, err
	}
	f.Limit = cmp.Or(f.Limit, 50)
	running, err := q.running(ctx)
	if err != nil {
		return Page{}, err
	}
	if f.State == Running {
		return q.listRunning(ctx, f, running)
	}
	sources, err := q.sources(ctx, f)
	if err != nil {
		return Page{}, err
	}
	page := Page{}
	begun := time.Now()
	for scanned := 0; ; scanned++ {
		var newest *source
		for _, s := range sources {
			if err := s.fill(ctx); err != nil {
				return Page{}, err
			}
			if s.head != nil && (newest == nil || s.head.time.After(newest.head.time)) {
				newest = s
			}
		}
		if newest == nil || newest.head.time.Before(f.Since) {
			return page, nil // what is older was submitted earlier, too
		}
		if len(page.Calls) >= f.Limit || scanned >= maxScan || time.Since(begun) > maxScanTime {
			page.Next = cursor(sources)
			return page, nil
		}
		c, err := newest.take(ctx)
		if err != nil {
			return Page{}, err
		}
		if c == nil {
			continue
		}
		if running[c.ID] && !c.State.Ended() {
			c.State, c.Next = Running, nil
		}
		if f.picks(c) {
			page.Calls = append(page.Calls, c)
		}
	}
}

// listRunning lists the calls with these ids.
func (q *Queue) listRunning(ctx context.Context, f Filter, ids map[string]bool) (Page, error) {
	page := Page{}
	for id := range ids {
		c, _, err := q.find(ctx, id)
		if isNotFound(err) || err == nil && c.State.Ended() {
			continue
		}
		if err != nil {
			return Page{}, err
		}
		if c.State, c.Next = Running, nil; f.picks(c) {
			page.Calls = append(page.Calls, c)
		}
	}
	slices.SortFunc(page.Calls, func(a, b *Call) int {
		return cmp.Or(b.Submitted.Compare(a.Submitted), strings.Compare(b.ID, a.ID))
	})
	page.Calls = page.Calls[:min(f.Limit, len(page.Calls))]
	return page, nil
}

// running asks the workers which calls they run. Those that do not answer at
// once run none.
func (q *Queue) running(ctx context.Context) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	inbox := q.nc.NewRespInbox()
	sub, err := q.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, unavailable(err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	if err := q.nc.PublishRequest(askSubject, inbox, []byte(askForAll)); err != nil {
		return nil, unavailable(err)
	}
	ids := map[string]bool{}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil || m.Header.Get("Status") != "" { // nobody is there
			return ids, nil
		}
		for id := range strings.SplitSeq(string(m.Data), "\n") {
			if id != "" {
				ids[id] = true
			}
		}
	}
}

// A source is one stream that a listing reads, from its end to its beginning.
// What it reads next is in the newest message before below, of which it has
// taken so many calls already.
type source struct {
	q     *Queue
	name  string // of the stream
	match string // subjects
	// read returns the calls of a message, in the order they were stored; nil
	// stands for what belongs to another source.
	read func(ctx context.Context, m *message) ([]*Call, error)

	first uint64 // place of the stream's first message
	below uint64
	taken int
	ahead int    // messages that are read together
	width uint64 // places that are looked at together
	low   uint64 // all messages from here up to below are in held
	held  []message
	head  *message // the newest of them; nil if there is none
	calls []*Call  // of head, not taken yet; nil if it was not read
}

// How many messages of a source are read together, depending on the page.
const (
	leastAhead = 16
	mostAhead  = 250
)

// sources returns what f is to be looked for in, as its cursor says.
func (q *Queue) sources(ctx context.Context, f Filter) ([]*source, error) {
	name, namespace, ok := strings.Cut(f.Function, ".")
	waiting, dead := ">", ">"
	if ok {
		waiting = callsSubject + "*." + namespace + "." + name
		dead = deadSubject + namespace + "." + name + ".*"
	}
	all := []*source{
		{name: callsStream, match: waiting, read: q.readWaiting},
		{name: recordsStream, match: ">", read: readChanged},
		{name: doneStream, match: ">", read: readDone},
		{name: resultsStream, match: ">", read: readItems},
		{name: deadStream, match: dead, read: readDead},
	}
	if err := at(all, f.Cursor); err != nil {
		return nil, err
	}
	streams := []jetstream.Stream{q.calls, q.records, q.done, q.results, q.dead}
	for i, s := range all {
		info, err := streams[i].Info(ctx)
		if err != nil {
			return nil, unavailable(err)
		}
		s.q, s.first = q, max(1, info.State.FirstSeq)
		s.ahead = min(max(f.Limit, leastAhead), mostAhead)
		s.width = uint64(s.ahead)
		s.below = min(s.below, info.State.LastSeq+1)
		if !s.has(f.State) {
			s.below = 0
		}
	}
	return all, nil
}

// has reports whether the source has calls of a state, "" for any.
func (s *source) has(state State) bool {
	switch state {
	case Queued:
		return s.name == callsStream || s.name == recordsStream
	case Waiting:
		return s.name == recordsStream
	case Done:
		return s.name == doneStream || s.name == recordsStream || s.name == resultsStream
	case Failed:
		return s.name == deadStream
	case Cancelled:
		return s.name == recordsStream || s.name == resultsStream
	}
	return true
}

// cursor says where the sources are.
func cursor(all []*source) string {
	var parts []string
	for _, s := range all {
		part := strconv.FormatUint(s.below, 36)
		if s.taken > 0 {
			part += "." + strconv.Itoa(s.taken)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "-")
}

// at puts the sources where a cursor says.
func at(all []*source, cursor string) error {
	if cursor == "" {
		for _, s := range all {
			s.below = 1 << 63
		}
		return nil
	}
	bad := fault.Invalid.Errorf("cursor is %.80q, which no page has named as its next", cursor)
	parts := strings.Split(cursor, "-")
	if len(parts) != len(all) {
		return bad
	}
	for i, part := range parts {
		place, taken, more := strings.Cut(part, ".")
		var err error
		if all[i].below, err = strconv.ParseUint(place, 36, 63); err != nil {
			return bad
		}
		if !more {
			continue
		}
		if all[i].taken, err = strconv.Atoi(taken); err != nil || all[i].taken < 1 || all[i].taken > 1<<20 {
			return bad
		}
	}
	return nil
}

// fill finds the head if there is none yet.
func (s *source) fill(ctx context.Context) error {
	for s.head == nil {
		if n := len(s.held); n > 0 {
			s.head = &s.held[n-1]
			return nil
		}
		if s.low > 0 {
			s.below, s.low = s.low, 0
		}
		if s.below <= s.first {
			s.below = min(s.below, s.first)
			return nil
		}
		low := max(s.first, s.below-min(s.width, s.below))
		// One more than there can be, which tells that there are no others.
		got, more, err := s.q.ahead(ctx, s.name, s.match, low, s.ahead+1)
		if err != nil {
			return unavailable(fmt.Errorf("list calls: %w", err))
		}
		past := slices.IndexFunc(got, func(m message) bool { return m.seq >= s.below })
		switch {
		case past >= 0:
			got = got[:past]
		case more && s.below-low > 1: // there are more of them between low and below
			s.width = max(1, (s.below-low)/2)
			continue
		}
		// Work queues have long stretches without a message.
		if len(got) < s.ahead/4 && s.width < 1<<40 {
			s.width *= 4
		}
		s.held, s.low = got, low
	}
	return nil
}

// take returns the newest call of the head that is left, nil if that is of
// another source.
func (s *source) take(ctx context.Context) (*Call, error) {
	if s.calls == nil {
		calls, err := s.read(ctx, s.head)
		if err != nil {
			return nil, err
		}
		if s.below != s.head.seq+1 {
			s.taken = 0 // that was of another message, which is gone
		}
		s.calls = calls[:max(0, len(calls)-s.taken)]
	}
	var c *Call
	if n := len(s.calls); n > 0 {
		c, s.calls = s.calls[n-1], s.calls[:n-1]
		s.taken++
		s.below = s.head.seq + 1
	}
	if len(s.calls) == 0 {
		s.below, s.taken, s.calls = s.head.seq, 0, nil
		s.held, s.head = s.held[:len(s.held)-1], nil
	}
	return c, nil
}

// readWaiting reads a call that has no record.
func (q *Queue) readWaiting(ctx context.Context, m *message) ([]*Call, error) {
	j, err := decode(strings.TrimPrefix(m.subject, callsSubject), m.header, m.data, m.seq)
	if err != nil {
		return nil, nil //nolint:nilerr // no call of ours
	}
	if j.Keyed || len(j.Tries) > 0 {
		if _, err := q.records.GetLastMsgForSubject(ctx, recordsSubject+j.ID); err == nil {
			return nil, nil
		} else if !errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil, unavailable(err)
		}
	}
	return []*Call{j.call(Queued)}, nil
}

// readChanged reads the record of a call that has neither a dead letter nor a
// place among a batch's results.
func readChanged(_ context.Context, m *message) ([]*Call, error) {
	c, err := readRecord(m.header, m.seq)
	if err != nil || c.State == Failed || c.Batch != "" && c.State.Ended() {
		return nil, nil //nolint:nilerr // the caller's name for a call, for one
	}
	return []*Call{c}, nil
}

// readDone reads the calls of a bundle.
func readDone(_ context.Context, m *message) ([]*Call, error) {
	var calls []*Call
	err := eachEnding(m.data, func(record, _ []byte) bool {
		c, _ := readEnding(record) // nil is no call
		calls = append(calls, c)
		return true
	})
	return calls, err
}

// readItems reads the items of a batch that have no dead letters.
func readItems(ctx context.Context, m *message) ([]*Call, error) {
	if outcome := State(m.subject[strings.LastIndexByte(m.subject, '.')+1:]); outcome != Done && outcome != Cancelled {
		return nil, nil
	}
	return readDone(ctx, m)
}

// readDead reads a dead letter.
func readDead(_ context.Context, m *message) ([]*Call, error) {
	j, err := readDeadLetter(m.subject, m.header, m.data)
	if err != nil {
		return nil, nil //nolint:nilerr // no call of ours
	}
	return []*Call{j.failed(m.time)}, nil
}

// failed returns what the dead letter j, stored at a time, says of its call.
func (j *job) failed(at time.Time) *Call {
	c := j.call(Failed)
	c.Ended = new(at.UTC())
	if n := len(j.Tries); n > 0 {
		c.Started, c.Status = &j.Tries[n-1].Started, j.Tries[n-1].Status
	}
	return c
}

// readDeadLetter reads the call that a message of the dead stream holds.
func readDeadLetter(subject string, h nats.Header, payload []byte) (*job, error) {
	parts := strings.Split(strings.TrimPrefix(subject, deadSubject), ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("a dead letter has the subject %q", subject)
	}
	ref := function.Ref{Namespace: parts[0], Name: parts[1]}
	return decode(h.Get(headerQueue)+"."+ref.Namespace+"."+ref.Name, h, payload, 0)
}
