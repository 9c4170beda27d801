package function

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/web"
)

type invokeOptions struct {
	f *command.Factory

	method      string
	path        string
	query       []string
	header      []string
	contentType string
	data        string
	dataSet     bool
	verbose     bool
	timeout     time.Duration

	later later
	batch batch
}

// methods are those that a function can be called with.
var methods = [...]string{"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"}

func invokeCommand(f *command.Factory) *cobra.Command {
	o := &invokeOptions{f: f}
	cmd := &cobra.Command{
		Use:        "invoke NAME",
		SuggestFor: []string{"run", "curl"},
		Short:      "Call a function",
		GroupID:    "function",
		Long: `Sends standard input to a function, or what --data says, and writes the body of
its answer to standard output as it comes.

An answer that is no success ends with exit code 1, or, where the platform and
not the function gave it, with the code of that error. --verbose shows status,
headers and where the time went on standard error.

With --async the call is put into the queue, and its id is written instead of an
answer: "graphene calls" looks after it. --wait then waits for the answer.

With --batch each line of a file is a call, or each row if its name ends in
.csv, and --out gets one line for each, in order. Calls that fail are tried again
meanwhile; if one has failed for good, the exit code is 1. Interrupted, by Ctrl-C
or because the gateway went away, the same command goes on where it was.`,
		Example: `  echo -n hello | graphene invoke echo
  graphene invoke wine --data @sample.json --content-type application/json --verbose
  graphene invoke echo --method GET --query id=3 --path /items </dev/null
  graphene invoke wine --async --wait --data @sample.json
  graphene invoke wine --batch samples.jsonl --out answers.jsonl`,
		Args: command.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.dataSet = cmd.Flags().Changed("data")
			if err := o.check(); err != nil {
				return err
			}
			switch {
			case o.batch.in != "":
				return o.runBatch(cmd.Context(), args[0])
			case o.later.async:
				return o.runLater(cmd.Context(), args[0])
			}
			return o.run(cmd.Context(), args[0])
		},
		ValidArgsFunction: f.CompleteFunctions,
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.method, "method", "m", "POST", "method of the request")
	flags.StringVar(&o.path, "path", "", "path behind the function's name")
	flags.StringArrayVar(&o.query, "query", nil, "NAME=VALUE in the query; may be repeated")
	flags.StringArrayVarP(&o.header, "header", "H", nil, "NAME: VALUE or NAME=VALUE header; may be repeated")
	flags.StringVar(&o.contentType, "content-type", "text/plain", "type of the body")
	flags.StringVarP(&o.data, "data", "d", "", "body, or @FILE to read it from, instead of standard input")
	flags.BoolVarP(&o.verbose, "verbose", "v", false, "show status, headers and times on standard error")
	flags.DurationVar(&o.timeout, "timeout", 0, "longest time the call may take (default: the function's own)")
	o.later.addFlags(flags)
	o.batch.addFlags(flags)
	command.CompleteFlag(cmd, "method", command.OneOf(methods[:]...))
	return cmd
}

func (o *invokeOptions) run(ctx context.Context, name string) error {
	call, err := o.call(name)
	if err != nil {
		return err
	}
	body, err := o.body()
	if err != nil {
		return err
	}
	defer body.Close()
	call.Body = body

	c, err := o.f.Client(ctx)
	if err != nil {
		return err
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	start := time.Now()
	resp, err := c.Invoke(ctx, call)
	if err != nil {
		return fmt.Errorf("invoke %s: %w", name, err)
	}
	defer resp.Body.Close()
	if o.verbose {
		o.showHead(resp)
	}
	if _, err := io.Copy(o.f.Streams.Out, resp.Body); err != nil {
		return fmt.Errorf("invoke %s: read the answer: %w", name, err)
	}
	if o.verbose {
		o.f.Streams.Notef("%s in all\n", time.Since(start).Round(10*time.Microsecond))
	}
	return judge(name, resp)
}

// call returns the call that the flags describe, without its body.
func (o *invokeOptions) call(name string) (client.Call, error) {
	ref, err := o.f.Ref(name)
	if err != nil {
		return client.Call{}, err
	}
	method := strings.ToUpper(o.method)
	if !slices.Contains(methods[:], method) {
		return client.Call{}, command.Usagef("--method is %q, want one of %s", o.method, strings.Join(methods[:], ", "))
	}
	query, err := keyValues("query", o.query)
	if err != nil {
		return client.Call{}, err
	}
	values := url.Values{}
	for k, v := range query {
		values.Set(k, v)
	}
	header := http.Header{"Content-Type": {o.contentType}}
	for _, h := range o.header {
		// Of "a=b: c" it is the first of the two signs that counts.
		i := strings.IndexAny(h, ":=")
		if i <= 0 {
			return client.Call{}, command.Usagef("--header is %q, want NAME: VALUE", h)
		}
		header.Add(strings.TrimSpace(h[:i]), strings.TrimSpace(h[i+1:]))
	}
	path := o.path
	if path != "" && !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return client.Call{Function: ref, Method: method, Path: path, Query: values.Encode(), Header: header}, nil
}

// body returns what to send. The caller closes it.
func (o *invokeOptions) body() (io.ReadCloser, error) {
	if !o.dataSet {
		if o.f.Streams.InTTY {
			o.f.Streams.Notef("reading the body from standard input; Ctrl-D ends it\n")
		}
		return io.NopCloser(o.f.Streams.In), nil
	}
	name, isFile := strings.CutPrefix(o.data, "@")
	if !isFile {
		return io.NopCloser(strings.NewReader(o.data)), nil
	}
	file, err := os.Open(o.f.Path(name))
	if err != nil {
		return nil, command.NotFoundError(err, "--data @FILE names a file; without @ it is the body itself")
	}
	return file, nil
}

// showHead shows what came before the body.
func (o *invokeOptions) showHead(resp *http.Response) {
	s := o.f.Streams
	s.Notef("%s %s\n", resp.Proto, resp.Status)
	for _, name := range slices.Sorted(maps.Keys(resp.Header)) {
		for _, v := range resp.Header[name] {
			s.Notef("%s: %s\n", name, term.Clean(v))
		}
	}
	for _, step := range serverTiming(resp.Header.Values("Server-Timing")) {
		s.Notef("  %-8s %s\n", step.name, step.duration)
	}
}

// A step is a part of the time that a call took.
type step struct{ name, duration string }

// serverTiming reads Server-Timing headers: "queue;dur=0.1, handler;dur=3".
func serverTiming(headers []string) []step {
	var steps []step
	for _, h := range headers {
		for metric := range strings.SplitSeq(h, ",") {
			name, params, _ := strings.Cut(strings.TrimSpace(metric), ";")
			for p := range strings.SplitSeq(params, ";") {
				if ms, ok := strings.CutPrefix(strings.TrimSpace(p), "dur="); ok {
					steps = append(steps, step{term.Clean(name), term.Clean(ms) + " ms"})
				}
			}
		}
	}
	return steps
}

// judge turns an answer that is no success into an error. What the platform
// said has the kind of its status; what the function said is its own affair.
func judge(name string, resp *http.Response) error {
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return nil
	}
	if resp.StatusCode == http.StatusNotFound && resp.Header.Get(web.HeaderStartTime) == "" || resp.Header.Get(web.HeaderInternal) != "" {
		return web.Kind(resp.StatusCode).Errorf("%s could not be called: the platform answered %s", name, resp.Status)
	}
	return fmt.Errorf("%s answered %s", name, resp.Status)
}
