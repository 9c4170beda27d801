package invoke

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// heap is what is in use, stacks included, once all garbage is gone.
func heap() int64 {
	runtime.GC()
	runtime.GC() // what pools have let go
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

func TestAThousandRequestsThatWaitTakeLittleMemory(t *testing.T) {
	const many, announced, sent, bound = 1000, 10 << 20, 16 << 10, 48 << 10
	in := startInstance(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	}))
	table := startTable(t, TableOptions{})
	table.Set(endpoints())
	u, err := url.Parse(startProxy(t, table))
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	callers := make([]net.Conn, many)
	for i := range callers {
		if callers[i], err = (&net.Dialer{}).DialContext(t.Context(), "tcp", u.Host); err != nil {
			t.Fatal(err)
		}
		defer callers[i].Close()
		// A caller that sends at once what the connection takes.
		if _, err := fmt.Fprintf(callers[i], "POST /function/echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", announced, strings.Repeat("x", sent)); err != nil {
			t.Fatal(err)
		}
	}
	for table.Waiting(echo) < many {
		if t.Context().Err() != nil {
			t.Fatalf("%d of %d requests wait", table.Waiting(echo), many)
		}
		time.Sleep(time.Millisecond)
	}
	each := (heap() - before) / many
	t.Logf("a request that waits takes %d bytes", each)
	if each > bound {
		t.Errorf("a request that waits takes %d bytes, want at most %d", each, bound)
	}

	// They are still whole: the first ones get their answers.
	table.Set(endpoints(in))
	var all sync.WaitGroup
	for _, c := range callers[:3] {
		all.Go(func() {
			rest := announced - sent
			go func() { _, _ = io.CopyN(c, zeros{}, int64(rest)) }() // ends with the connection
			answer := make([]byte, 4096)
			n, err := c.Read(answer)
			if err != nil || !strings.Contains(string(answer[:n]), "200 OK") || !strings.Contains(string(answer[:n]), fmt.Sprint(announced)) {
				t.Errorf("%q, %v", answer[:n], err)
			}
		})
	}
	all.Wait()
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
