package quota

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// usesSubject is where gateways tell each other what they let through.
const usesSubject = "graphene.gateways.limits"

const (
	// usesGather is how long uses are gathered before others are told: what all
	// gateways let through in that time can be beyond a limit.
	usesGather = 100 * time.Millisecond
	// usesBeat is the longest time between two messages of a gateway, and between
	// two in which it names calls that last.
	usesBeat = time.Second
	// usesFresh is for how long others count that are silent, and their calls.
	usesFresh = 3 * time.Second
	// maxUses bounds a message; the rest is in the next one.
	maxUses = 1000
	// maxTaken bounds, in bursts, what another gateway can have let through
	// since its last message.
	maxTaken = 1000
)

// A uses message is what one gateway tells the others. It is lost now and then,
// and nothing is kept of it: rates forgive that, and calls are named again.
type usesMessage struct {
	From string `json:"from"` // of this process; a gateway that starts again is another one
	Uses []use  `json:"uses,omitempty"`
}

// A use is what a gateway has lent somebody of a limit.
type use struct {
	Limit string `json:"limit"`
	Who   string `json:"who,omitempty"`
	Taken int    `json:"taken,omitempty"` // requests that were let through since this was told last
	Calls int    `json:"calls,omitempty"` // being answered
}

// elsewhere is what another gateway said of a share.
type elsewhere struct {
	calls int
	at    time.Time
}

// others are the gateways that the limits are shared with.
type others struct {
	conn *nats.Conn
	id   string

	mu    sync.Mutex
	heard time.Time // when another one was heard of last
}

func newOthers(conn *nats.Conn) *others { return &others{conn: conn, id: rand.Text()} }

// there reports whether somebody would hear what is told.
func (o *others) there(now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return now.Sub(o.heard) <= usesFresh
}

// share tells other gateways what is let through here, and heeds what they
// tell, until ctx ends.
func (l *Limits) share(ctx context.Context) error {
	messages := make(chan *nats.Msg, 1024)
	s, err := l.others.conn.ChanSubscribe(usesSubject, messages)
	if err != nil {
		return fmt.Errorf("hear what other gateways let through: %w", err)
	}
	defer func() { _ = s.Unsubscribe() }() // the connection is its owner's to close
	tick := time.NewTicker(usesGather)
	defer tick.Stop()
	var told time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case raw := <-messages:
			l.heed(raw.Data)
		case now := <-tick.C:
			uses := l.gather(now)
			if !l.others.there(now) {
				uses = nil
			}
			if len(uses) == 0 && now.Sub(told) < usesBeat {
				continue
			}
			if l.tell(uses) {
				told = now
			}
		}
	}
}

// gather returns what others do not know yet, and what they have to be
// reminded of.
func (l *Limits) gather(now time.Time) (uses []use) {
	for _, limit := range l.now.Load().limits {
		uses = append(uses, limit.gather(now, maxUses-len(uses))...)
	}
	return uses
}

// tell reports whether the message is on its way.
func (l *Limits) tell(uses []use) bool {
	if !l.others.conn.IsConnected() {
		return false // what is old when the connection is back is of no use
	}
	text, err := json.Marshal(usesMessage{From: l.others.id, Uses: uses})
	if err == nil {
		err = l.others.conn.Publish(usesSubject, text)
	}
	if err != nil {
		l.log.Debug("other gateways were not told what was let through", "err", err)
	}
	return err == nil
}

// heed takes in what another gateway tells.
func (l *Limits) heed(text []byte) {
	var m usesMessage
	if err := json.Unmarshal(text, &m); err != nil || m.From == "" {
		l.log.Debug("a message of another gateway cannot be read", "err", err)
		return
	}
	if m.From == l.others.id {
		return
	}
	now := time.Now()
	l.others.mu.Lock()
	l.others.heard = now
	l.others.mu.Unlock()
	limits := map[string]*limit{}
	for _, limit := range l.now.Load().limits {
		limits[limit.Name] = limit
	}
	for _, u := range m.Uses {
		if limit := limits[u.Limit]; limit != nil {
			limit.heed(m.From, u, now)
		}
	}
}

// note has others told of a share. The caller holds l.mu.
func (l *limit) note(who string, s *share) {
	if !s.noted {
		s.noted = true
		l.noted = append(l.noted, who)
	}
}

// gather returns what others have to be told of at most n shares.
func (l *limit) gather(now time.Time, n int) (uses []use) {
	l.mu.Lock()
	defer l.mu.Unlock()
	later := l.noted[:0]
	for _, who := range l.noted {
		s := l.shares[who]
		switch news := s != nil && (s.taken > 0 || s.calls != s.told || now.Sub(s.toldAt) >= usesBeat); {
		case s == nil: // forgotten
			continue
		case news && len(uses) < n:
			uses = append(uses, use{Limit: l.Name, Who: who, Taken: s.taken, Calls: s.calls})
			s.taken, s.told, s.toldAt = 0, s.calls, now
		}
		if s.noted = s.taken > 0 || s.calls > 0 || s.told > 0; s.noted {
			later = append(later, who)
		}
	}
	clear(l.noted[len(later):])
	l.noted = later
	return uses
}

// heed takes in what another gateway has lent.
func (l *limit) heed(from string, u use, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.of(u.Who, now)
	if s.bucket != nil {
		// The bucket may owe: then nothing is let through until it does not.
		for n := min(u.Taken, maxTaken*l.Burst); n > 0; n -= l.Burst {
			s.bucket.ReserveN(now, min(n, l.Burst))
		}
	}
	if l.Concurrent == 0 {
		return
	}
	if s.others == nil {
		s.others = map[string]elsewhere{}
	}
	if s.others[from] = (elsewhere{u.Calls, now}); u.Calls <= 0 {
		delete(s.others, from)
	}
}

// elsewhere returns how many calls other gateways answer now.
func (s *share) elsewhere(now time.Time) (calls int) {
	for from, e := range s.others {
		if now.Sub(e.at) > usesFresh {
			delete(s.others, from) // it would have said it again
			continue
		}
		calls += e.calls
	}
	return calls
}
