// Command misbehave is what the watchdog's tests run as a function: a server
// ("misbehave serve", mode http) or a process for one call ("misbehave WHAT",
// the modes that fork) that does everything a function should not.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	what := "nothing"
	if len(os.Args) > 1 {
		what = os.Args[1]
	}
	if err := run(what); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(what string) error {
	switch what {
	case "serve":
		return serve()
	case "cat":
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	case "arguments":
		return json.NewEncoder(os.Stdout).Encode(os.Args[2:])
	case "environment":
		for _, kv := range os.Environ() {
			fmt.Println(kv)
		}
		return nil
	case "fail":
		fmt.Println("this much was done")
		return errors.New("and then it failed")
	case "fail-in-silence":
		os.Exit(3)
	case "hang":
		fmt.Println(os.Getpid()) // for the test to look for
		select {}
	case "deaf":
		signal.Ignore(syscall.SIGTERM, os.Interrupt)
		select {}
	case "endless":
		return endless(os.Stdout)
	case "no-newline":
		fmt.Print("answer")
		fmt.Fprint(os.Stderr, "last words")
		return nil
	case "orphan":
		fmt.Println("answer")
		return orphan()
	}
	return fmt.Errorf("misbehave does not know how to %s", what)
}

// orphan leaves a process behind that holds this one's output open, in a
// session of its own.
func orphan() error {
	cmd := exec.Command("sleep", "60")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd.Start()
}

func endless(w io.Writer) error {
	line := []byte(strings.Repeat("and so on ", 100) + "\n")
	for {
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
}

func serve() error {
	if text := os.Getenv("SLOW"); text != "" { // to listen
		d, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		time.Sleep(d)
	}
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Getenv("PORT"))
	if err != nil {
		return err
	}
	server := &http.Server{Handler: routes(listener)}
	go server.Serve(listener)
	for range told {
		fmt.Println("told to stop")
		if os.Getenv("DEAF") == "" {
			return server.Close()
		}
	}
	return nil
}

// seen is how a request looked from here.
type seen struct {
	Method, URI, Host string
	Header            http.Header
	Length            int64
	Body              string
}

func routes(listener net.Listener) http.Handler {
	// No ServeMux, which would redirect paths that the test wants to see.
	mux := map[string]http.HandlerFunc{}
	echo := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("X-Openfaas-Internal", "me")
		json.NewEncoder(w).Encode(seen{r.Method, r.RequestURI, r.Host, r.Header, r.ContentLength, string(body)})
	}
	mux["/teapot"] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }
	mux["/hang"] = func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	mux["/exit0"] = func(http.ResponseWriter, *http.Request) { os.Exit(0) }
	mux["/exit1"] = func(http.ResponseWriter, *http.Request) { os.Exit(1) }
	mux["/endless"] = func(w http.ResponseWriter, _ *http.Request) { endless(w) }
	mux["/orphan-and-exit"] = func(http.ResponseWriter, *http.Request) {
		orphan()
		os.Exit(0)
	}
	mux["/print"] = func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("a line")
		fmt.Fprintln(os.Stderr, "another line")
		fmt.Print(strings.Repeat("x", 300), "\n", "no newline")
	}
	mux["/slow"] = func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		d, _ := time.ParseDuration(r.URL.RawQuery)
		time.Sleep(d)
		io.WriteString(w, "done")
	}
	mux["/events"] = func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: 1\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}
	mux["/close-port"] = func(w http.ResponseWriter, _ *http.Request) {
		listener.Close()
		w.Header().Set("Connection", "close")
	}
	for path, text := range map[string]string{
		"/garbage":      "this is not what was asked for\r\n\r\n",
		"/nothing":      "",
		"/half-a-head":  "HTTP/1.1 200 OK\r\nContent-Ty",
		"/half-a-body":  "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
		"/half-a-chunk": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nonly this",
		"/huge-header":  "HTTP/1.1 200 OK\r\nX-Huge: " + strings.Repeat("x", 12<<20) + "\r\nContent-Length: 0\r\n\r\n",
	} {
		mux[path] = func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			defer conn.Close()
			io.WriteString(conn, text)
		}
	}
	mux["/upgrade"] = func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintf(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", r.Header.Get("Upgrade"))
		rw.Flush()
		io.Copy(conn, rw)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := mux[r.URL.Path]; h != nil {
			h(w, r)
			return
		}
		echo(w, r)
	})
}
