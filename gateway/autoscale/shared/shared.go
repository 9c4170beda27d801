// Package shared lets several gateways scale as one. Each sees only the calls
// that come to it, so all tell each other over NATS what they count, and one of
// them decides: the one that holds a lease.
//
// What gateways tell each other goes over plain subjects and is kept nowhere:
// a sample that got lost is replaced by the next one, and one that is not
// renewed ceases to count. The lease is a key in a bucket of JetStream that its
// server forgets unless it is renewed; no clock of one gateway is compared with
// that of another.
//
// A gateway that cannot reach the lease for longer than that takes cannot know
// whether anybody decides. It then decides for itself, by what it sees itself,
// and says that others are missing, for which the autoscaler takes no replica
// away.
//
// Start with [New] and keep [Group.Run] running.
package shared

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/graphene-faas/graphene/gateway/autoscale"
	"github.com/graphene-faas/graphene/internal/function"
)

// Options configure a Group. Conn is required.
type Options struct {
	// Conn is a connection to NATS, which may be lost and come back. Its owner
	// closes it after Run has returned.
	Conn *nats.Conn
	// Name is shown where people read who leads.
	Name string
	// Replicas is how many servers of NATS keep the lease; 0 is 1.
	Replicas int
	Log      *slog.Logger // nil logs nothing
}

// Subjects of messages between gateways.
const (
	subjectLoads     = "graphene.gateways.loads"
	subjectDecisions = "graphene.gateways.decisions"
)

const (
	// beat is the longest time between two messages of a gateway.
	beat = time.Second
	// gather is how long what is to be told is gathered, so that a gateway with
	// many busy functions sends few messages.
	gather = 10 * time.Millisecond
	// fresh is for how long a sample counts, and a gateway that is silent is
	// taken for there.
	fresh = 2500 * time.Millisecond
	// missed is for how long a gateway that ceased to be heard of, without a
	// word, is missed. Then it is taken for gone.
	missed = 30 * time.Second
	// perMessage bounds how many functions one message is about.
	perMessage = 500
)

// A Group is this gateway among all. Its methods are safe for concurrent use.
type Group struct {
	o     Options
	id    string // of this process; a gateway that starts again is another one
	lease *lease
	poke  chan struct{} // says that there is something to tell; holds one

	mu     sync.Mutex // guards what follows
	loads  map[function.Ref]autoscale.Load
	told   map[function.Ref]autoscale.Decision
	others map[string]*other // by id
	heard  time.Time         // when our own messages last came back
	since  time.Time         // for how long they have done so without a gap
}

// An other is another gateway.
type other struct {
	heard   time.Time
	missing bool // the log has said so
	samples map[function.Ref]sample
}

type sample struct {
	at   time.Time
	load autoscale.Load
}

// A message is what one gateway tells the others, and itself: what comes back
// is how it knows that the others hear it. Either part may be missing.
type message struct {
	From      string     `json:"from"`
	Leaving   bool       `json:"leaving,omitempty"`
	Loads     []loadOf   `json:"loads,omitempty"`
	Decisions []decision `json:"decisions,omitempty"`
}

type loadOf struct {
	function.Ref
	autoscale.Load
}

type decision struct {
	function.Ref
	Decision autoscale.Decision `json:"decision"`
}

// New returns a Group. It tells nobody anything before Run.
func New(o Options) *Group {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	id := o.Name + "/" + rand.Text()[:8]
	return &Group{
		o:      o,
		id:     id,
		lease:  newLease(o, id),
		poke:   make(chan struct{}, 1),
		loads:  map[function.Ref]autoscale.Load{},
		told:   map[function.Ref]autoscale.Decision{},
		others: map[string]*other{},
	}
}

// Leading reports whether this gateway decides: it holds the lease, or nobody
// can tell who does.
func (g *Group) Leading() bool { return g.lease.leading(time.Now()) }

// Publish tells the others what this gateway saw of a function.
func (g *Group) Publish(ref function.Ref, l autoscale.Load) {
	g.mu.Lock()
	g.loads[ref] = l
	g.mu.Unlock()
	g.nudge()
}

// Announce tells the others what was decided about a function.
func (g *Group) Announce(ref function.Ref, d autoscale.Decision) {
	g.mu.Lock()
	g.told[ref] = d
	g.mu.Unlock()
	g.nudge()
}

func (g *Group) nudge() {
	select {
	case g.poke <- struct{}{}:
	default: // it will be told with the rest
	}
}

// Others returns what the others saw lately, together. It reports false while
// something is missing in it: a gateway that was there a moment ago and has not
// said that it leaves, or the way to all of them, or the time to hear of them
// at first.
func (g *Group) Others(ref function.Ref) (sum autoscale.Load, complete bool) {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	complete = now.Sub(g.heard) <= fresh && now.Sub(g.since) > fresh
	for _, o := range g.others {
		if now.Sub(o.heard) > fresh {
			complete = false
			continue
		}
		if s, ok := o.samples[ref]; ok && now.Sub(s.at) <= fresh {
			sum = sum.Plus(s.load)
		}
	}
	return sum, complete
}

// Run takes part until ctx ends, and then tells the others that this gateway
// leaves. What others tell it passes on to l, from one goroutine. It returns an error if the connection cannot be used at all.
func (g *Group) Run(ctx context.Context, l autoscale.Listener) error {
	messages := make(chan *nats.Msg, 1024)
	var subscriptions []*nats.Subscription
	for _, subject := range []string{subjectLoads, subjectDecisions} {
		s, err := g.o.Conn.ChanSubscribe(subject, messages)
		if err != nil {
			return fmt.Errorf("hear other gateways: %w", err)
		}
		subscriptions = append(subscriptions, s)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.hear(ctx, messages, l) })
	group.Go(func() error { return g.tell(ctx) })
	group.Go(func() error { return g.lease.run(ctx) })
	err := group.Wait()
	for _, s := range subscriptions {
		_ = s.Unsubscribe() // the connection is its owner's to close
	}
	g.send(subjectLoads, message{Leaving: true})
	_ = g.o.Conn.FlushTimeout(flushLimit) // or they notice by its silence
	return err
}

// flushLimit bounds how long the last message may take to leave.
const flushLimit = 500 * time.Millisecond

// tell sends what there is to tell: soon after there is something, and now and
// then in any case.
func (g *Group) tell(ctx context.Context) error {
	again := time.NewTicker(beat)
	defer again.Stop()
	for {
		g.sendAll()
		select {
		case <-ctx.Done():
			return nil
		case <-again.C:
		case <-g.poke:
			select {
			case <-time.After(gather):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func (g *Group) sendAll() {
	g.mu.Lock()
	loads, told := g.loads, g.told
	g.loads, g.told = map[function.Ref]autoscale.Load{}, map[function.Ref]autoscale.Decision{}
	g.mu.Unlock()

	var m message
	for ref, d := range told {
		if m.Decisions = append(m.Decisions, decision{ref, d}); len(m.Decisions) == perMessage {
			g.send(subjectDecisions, m)
			m = message{}
		}
	}
	if len(m.Decisions) > 0 {
		g.send(subjectDecisions, m)
	}
	m = message{}
	for ref, l := range loads {
		if m.Loads = append(m.Loads, loadOf{ref, l}); len(m.Loads) == perMessage {
			g.send(subjectLoads, m)
			m = message{}
		}
	}
	g.send(subjectLoads, m) // even if it is empty: it says that we are there
}

func (g *Group) send(subject string, m message) {
	if !g.o.Conn.IsConnected() {
		return // what is old when the connection is back is of no use
	}
	m.From = g.id
	text, err := json.Marshal(m)
	if err != nil {
		g.o.Log.Error("counters cannot be told", "err", err) // unreachable: they are numbers
		return
	}
	if err := g.o.Conn.Publish(subject, text); err != nil {
		g.o.Log.Debug("counters were not told to other gateways", "err", err)
	}
}

// hear takes in what gateways tell.
func (g *Group) hear(ctx context.Context, messages <-chan *nats.Msg, l autoscale.Listener) error {
	look := time.NewTicker(beat)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-look.C:
			g.miss(time.Now())
		case raw := <-messages:
			var m message
			if err := json.Unmarshal(raw.Data, &m); err != nil || m.From == "" {
				g.o.Log.Debug("a message of another gateway cannot be read", "err", err)
				continue
			}
			for _, ref := range g.take(m, time.Now()) {
				l.Poke(ref)
			}
			if m.From != g.id {
				for _, d := range m.Decisions {
					l.Learn(d.Ref, d.Decision)
				}
			}
		}
	}
}

// take notes what a message says and returns the functions that it makes more
// urgent.
func (g *Group) take(m message, now time.Time) (more []function.Ref) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if m.From == g.id {
		if now.Sub(g.heard) > fresh {
			g.since = now
		}
		g.heard = now
		return nil
	}
	if m.Leaving {
		delete(g.others, m.From)
		g.lease.retry() // it may have been the one that led
		return nil
	}
	o, known := g.others[m.From]
	if !known || o.missing {
		g.o.Log.Info("there is another gateway", "gateway", m.From)
	}
	if !known {
		o = &other{samples: map[function.Ref]sample{}}
		g.others[m.From] = o
	}
	o.heard, o.missing = now, false
	for _, l := range m.Loads {
		before := o.samples[l.Ref]
		o.samples[l.Ref] = sample{now, l.Load}
		if now.Sub(before.at) > fresh || l.Calls() > before.load.Calls() || l.Floor > before.load.Floor {
			more = append(more, l.Ref)
		}
	}
	return more
}

// miss forgets what is old.
func (g *Group) miss(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	alone := now.Sub(g.heard) > fresh // then it is not for the others that nothing is heard
	for id, o := range g.others {
		maps.DeleteFunc(o.samples, func(_ function.Ref, s sample) bool { return now.Sub(s.at) > fresh })
		switch silent := now.Sub(o.heard); {
		case silent > missed && !alone:
			delete(g.others, id)
			g.o.Log.Info("a gateway is taken for gone", "gateway", id)
		case silent > fresh && !o.missing && !alone:
			o.missing = true
			g.o.Log.Warn("a gateway is not heard of; no replica is taken away meanwhile", "gateway", id, "at_most", missed)
		}
	}
}
