package invoke

import (
	"cmp"
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/graphene-faas/graphene/internal/function"
)

// A replica is one running instance of a function. Its route's mutex guards
// the fields that are not atomic.
type replica struct {
	function.Replica
	transport *transport
	// http2 speaks HTTP/2 to the replica, for gRPC. Few functions need it.
	http2 func() *http.Transport

	slots    atomic.Int64 // 0 is unlimited
	capacity int          // how many slots it says it has, if it was asked and did; else 0
	inflight atomic.Int64 // slots taken
	full     atomic.Bool  // it turned a request away, and gets none for a moment
	closed   atomic.Bool  // it is not usable; see parted
	turned   atomic.Int64 // requests it has turned away in a row
	pace     pace
	asked    atomic.Uint64 // when it was last asked whether it is still there; see suspect

	learned  time.Time // when the table got its address, or lost touch with it, or heard that it is hot again
	listened time.Time // when it first answered a probe in whatever way since

	probed  bool // answered a probe
	probing bool // somebody is probing it
	refused bool // could not be reached, and has not answered a probe since
	served  bool // was usable once
	kept    bool // was not hot before it was learned of
	removed bool // not the provider's any more
}

func newReplica(r function.Replica, dial func(ctx context.Context, network, address string) (net.Conn, error)) *replica {
	network, address, _ := strings.Cut(r.Address, ":")
	rep := &replica{Replica: r, learned: time.Now()}
	connect := func(ctx context.Context) (net.Conn, error) { return dial(ctx, network, address) }
	rep.transport = &transport{dial: connect}
	rep.http2 = sync.OnceValue(func() *http.Transport {
		var protocols http.Protocols
		protocols.SetUnencryptedHTTP2(true)
		t := &http.Transport{
			DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return connect(ctx) },
			Protocols:          &protocols,
			DisableCompression: true,
			IdleConnTimeout:    idleTimeout,
		}
		rep.transport.onClose(t.CloseIdleConnections)
		return t
	})
	return rep
}

// usable reports whether requests may go to the replica. The caller holds the
// route's mutex.
func (rep *replica) usable() bool {
	return !rep.refused && rep.Tier == function.Hot && (rep.Ready || rep.probed)
}

// count sets the number of slots: what is said about the replica, or what it
// says itself where that is a guess. The caller holds the route's mutex.
func (rep *replica) count(maxInflight int) {
	slots := cmp.Or(rep.Slots, maxInflight)
	if rep.Guessed {
		slots = cmp.Or(rep.capacity, slots)
	}
	rep.slots.Store(int64(slots))
}

// take takes a slot, if one is free. A slot is for deep requests: more than one
// lets them wait behind one another.
func (rep *replica) take(deep int64) bool {
	if rep.full.Load() || !rep.enter(deep) {
		return false
	}
	// A request may have found the replica in a view that is replaced by now.
	if rep.closed.Load() {
		rep.inflight.Add(-1)
		return false
	}
	return true
}

// enter counts one more request, if there is a slot for it.
func (rep *replica) enter(deep int64) bool {
	slots := deep * rep.slots.Load()
	if slots == 0 {
		rep.inflight.Add(1)
		return true
	}
	for {
		n := rep.inflight.Load()
		if n >= slots {
			return false
		}
		if rep.inflight.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// parted reports whether no request is or will be sent to the replica until it
// is usable again. Whoever takes a slot counts first and looks at closed then;
// parted looks in the other order, so one of the two sees the other.
func (rep *replica) parted() bool { return rep.closed.Load() && rep.inflight.Load() == 0 }

// probeTimeout is how long a replica may take to say whether it is ready. One
// that is busy loading may be slow to say so.
const probeTimeout = time.Second

// A probeAnswer is what a probe has found out.
type probeAnswer struct {
	listens  bool // it answered at all
	ready    bool
	capacity int // how many slots it says it has; 0 if it does not say
}

// answers asks the replica whether it is ready. One that listens but has no
// such route is taken for ready.
func (rep *replica) answers(ctx context.Context) probeAnswer {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://replica/_/ready", nil)
	if err != nil {
		return probeAnswer{} // unreachable: the request is a constant
	}
	res, err := rep.transport.RoundTrip(req)
	if err != nil {
		return probeAnswer{}
	}
	res.Body.Close()
	a := probeAnswer{listens: true, ready: res.StatusCode == http.StatusOK || res.StatusCode == http.StatusNotFound}
	if n, err := strconv.Atoi(res.Header.Get(function.HeaderCapacity)); err == nil && n > 0 {
		a.capacity = n
	}
	return a
}
