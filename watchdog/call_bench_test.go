package watchdog

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"
)

// BenchmarkCall is what the watchdog adds to a call of a Go handler, beside
// the same handler alone.
func BenchmarkCall(b *testing.B) {
	h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if _, err := io.WriteString(w, "hello\n"); err != nil {
			b.Error(err)
		}
	})
	b.Run("bare", func(b *testing.B) { benchmarkHandler(b, h) })
	b.Run("watchdog", func(b *testing.B) {
		out, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer out.Close()
		wd, err := New(Options{Mode: InProcess, Handler: h, ExecTimeout: time.Minute, ReadTimeout: time.Minute, Stderr: out})
		if err != nil {
			b.Fatal(err)
		}
		close(wd.ready)
		benchmarkHandler(b, wd.routes(false))
	})
}

func benchmarkHandler(b *testing.B, h http.Handler) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	var serving sync.WaitGroup
	defer serving.Wait()
	serving.Go(func() { _ = srv.Serve(ln) })
	defer srv.Close()
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	request := []byte("GET /function/echo HTTP/1.1\r\nHost: function\r\n\r\n")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := conn.Write(request); err != nil {
			b.Fatal(err)
		}
		for line := "head"; line != "\r\n"; {
			text, err := r.ReadSlice('\n')
			if err != nil {
				b.Fatal(err)
			}
			line = string(text)
		}
		if _, err := r.Discard(len("hello\n")); err != nil {
			b.Fatal(err)
		}
	}
}
