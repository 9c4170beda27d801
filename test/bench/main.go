// Command bench measures the platform and prints tables in Markdown. Figures
// of speed stand beside those of a peer that was measured in the same run
// under the same load, since on a machine that does other work too such ratios
// hold where rates do not.
//
//	go run ./test/bench -graphene bin/graphene            # everything
//	go run ./test/bench gateway                           # one section
//	go run ./test/bench -out docs/reference/performance.md
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

func main() { os.Exit(run(os.Args[1:])) }

// options are what the sections can be told.
type options struct {
	graphene    string        // the program, for sections that start a platform
	fwatchdog   string        // the program, for sections about functions
	python      string        // the interpreter to make the virtual environment of such sections with
	rounds      int           // measurements of each peer; the median counts
	connections int           // of the load generator
	body        int           // bytes to POST; 0 is GET
	duration    time.Duration // of one measurement
	repeats     int           // starts, wakes and the like
}

// A section measures one thing and prints a table. It returns an error if a
// figure misses its bound, after it has printed it.
type section struct {
	name, title string
	run         func(out io.Writer, o options) error
}

var sections = []section{
	{"gateway", "The gateway's request path", benchGateway},
	{"identity", "Who calls", benchIdentity},
	{"embedded", "The embedded platform", benchEmbedded},
	{"queue", "Asynchronous calls", benchQueue},
	{"python", "Functions in Python", benchPython},
	{"go", "Functions in Go", benchGo},
	{"fork", "One more worker", benchFork},
	{"batch", "Batches", benchBatch},
	{"fwatchdog", "The watchdog itself", benchWatchdog},
}

func run(args []string) int {
	if len(args) > 0 && args[0] == "serve" { // the copy of this program that plays one role
		if err := serve(args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	var o options
	flags.StringVar(&o.graphene, "graphene", "bin/graphene", "the program, for sections that start a platform")
	flags.StringVar(&o.fwatchdog, "fwatchdog", "bin/fwatchdog", "the program, for sections about functions")
	flags.StringVar(&o.python, "python", "python3", "the interpreter of Python functions")
	flags.IntVar(&o.rounds, "rounds", 3, "measurements of each peer; the median counts")
	flags.IntVar(&o.connections, "connections", 16, "connections of the load generator")
	flags.IntVar(&o.body, "body", 0, "bytes to POST; 0 sends GET")
	flags.DurationVar(&o.duration, "duration", 5*time.Second, "length of one measurement")
	flags.IntVar(&o.repeats, "repeats", 20, "how often to start and to wake")
	file := flags.String("out", "", "also write the tables to this file")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	var page bytes.Buffer
	out := io.MultiWriter(os.Stdout, &page)
	err := measureAll(out, o, flags.Args())
	if *file != "" {
		// Also when a bound was missed: the page shows figures beside bounds.
		err = errors.Join(err, os.WriteFile(*file, page.Bytes(), 0o644))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

// measureAll prints the page with the sections that names lists, or all. What
// misses its bound is reported at the end, when everything was measured.
func measureAll(out io.Writer, o options, names []string) error {
	for _, n := range names {
		if !slices.ContainsFunc(sections, func(s section) bool { return s.name == n }) {
			return fmt.Errorf("there is no section %q", n)
		}
	}
	fmt.Fprintf(out, "# Performance\n\nWritten by `make bench`, on %s.\n", machine())
	var missed []error
	for _, s := range sections {
		if len(names) > 0 && !slices.Contains(names, s.name) {
			continue
		}
		fmt.Fprintf(out, "\n## %s\n\n", s.title)
		if err := s.run(out, o); err != nil {
			fmt.Fprintf(out, "\nMissed: %s.\n", strings.ReplaceAll(err.Error(), "\n", "; "))
			missed = append(missed, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(missed...)
}

// machine describes where the figures are from.
func machine() string {
	model := runtime.GOARCH
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	kernel, err := exec.Command("uname", "-sr").Output()
	if err != nil {
		kernel = []byte(runtime.GOOS)
	}
	return fmt.Sprintf("%s, %d × %s, %s, %s", time.Now().Format(time.DateOnly), runtime.NumCPU(), model, strings.TrimSpace(string(kernel)), runtime.Version())
}
