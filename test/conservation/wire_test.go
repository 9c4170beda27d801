package conservation

import (
	"net"
	"sync"
	"time"
)

// A wire carries connections to a server until it is cut.
type wire struct {
	ln net.Listener
	to string

	mu     sync.Mutex
	joined *sync.Cond // on mu: frozen or cut has changed
	frozen bool       // bytes wait
	cut    bool       // connections are refused
	open   map[net.Conn]bool
	ended  sync.WaitGroup
}

// newWire returns a wire to the server at to.
func newWire(to string) (*wire, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	w := &wire{ln: ln, to: to, open: map[net.Conn]bool{}}
	w.joined = sync.NewCond(&w.mu)
	w.ended.Go(w.accept)
	return w, nil
}

func (w *wire) addr() string { return w.ln.Addr().String() }

func (w *wire) accept() {
	for {
		client, err := w.ln.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", w.to)
		if err != nil || !w.add(client, server) {
			client.Close()
			if server != nil {
				server.Close()
			}
			continue
		}
		for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
			w.ended.Go(func() { w.carry(way[0], way[1]) })
		}
	}
}

// add notes the two ends of a connection, unless the wire is cut.
func (w *wire) add(ends ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut {
		return false
	}
	for _, c := range ends {
		w.open[c] = true
	}
	return true
}

// carry copies from one end to the other until either ends.
func (w *wire) carry(from, to net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		for w.frozen {
			w.joined.Wait()
		}
		w.mu.Unlock()
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			break
		}
	}
	from.Close()
	to.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, from)
	delete(w.open, to)
}

// cutFor ends all connections, and refuses new ones for d.
func (w *wire) cutFor(d time.Duration) {
	w.set(false, true)
	time.Sleep(d)
	w.set(false, false)
}

// freezeFor lets every byte wait for d: the other side is there and silent.
func (w *wire) freezeFor(d time.Duration) {
	w.set(true, false)
	time.Sleep(d)
	w.set(false, false)
}

func (w *wire) set(frozen, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frozen, w.cut = frozen, cut
	if cut {
		for c := range w.open {
			c.Close()
		}
	}
	w.joined.Broadcast()
}

// close ends the wire for good.
func (w *wire) close() {
	w.ln.Close()
	w.set(false, true)
	w.ended.Wait()
}
