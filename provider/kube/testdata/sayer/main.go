// Command sayer is a function for tests: it says what it is told to, and then
// answers whatever it is asked, health checks included.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	fmt.Println(os.Getenv("say"))
	if os.Getenv("fail") != "" {
		fmt.Println("cannot go on")
		os.Exit(3)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := &http.Server{Addr: ":8080", Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, os.Getenv("say")) })}
	context.AfterFunc(ctx, func() { server.Close() })
	_ = server.ListenAndServe()
}
