// Command bench measures what the platform's hot paths cost, and prints a
// table in Markdown. Every figure is the processor time of one process for one
// request, beside that of a peer measured in the same run under the same load:
// on a machine that does other work too, such ratios hold where rates do not.
//
//	go run ./test/bench gateway
//
// compares the gateway's whole request path with a bare httputil.ReverseProxy
// over http.Transport. Both forward to the same Go server on a Unix socket.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) > 0 && args[0] == "serve" { // the copy of this program that plays one role
		if err := serve(args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}
	if len(args) == 0 || args[0] != "gateway" {
		fmt.Fprintln(os.Stderr, "usage: bench gateway [flags]")
		return 2
	}
	flags := flag.NewFlagSet("bench gateway", flag.ContinueOnError)
	var o gatewayOptions
	flags.IntVar(&o.rounds, "rounds", 3, "measurements of each proxy; the median counts")
	flags.IntVar(&o.connections, "connections", 16, "connections of the load generator")
	flags.DurationVar(&o.duration, "duration", 5*time.Second, "length of one measurement")
	flags.Float64Var(&o.limit, "limit", 0.95, "ratio above which the exit status is 1; 0 accepts any")
	if err := flags.Parse(args[1:]); err != nil {
		return 2
	}
	if err := benchGateway(os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}
