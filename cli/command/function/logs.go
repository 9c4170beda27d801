package function

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/openfaas/faas-provider/logs"
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
)

type logsOptions struct {
	f *command.Factory

	follow    bool
	lines     int
	since     time.Duration
	sinceTime string
	instance  string
	name      bool
	times     bool
	output    logFormat
}

// A logFormat is how a line of a log is written.
type logFormat string

func (f *logFormat) String() string { return string(*f) }
func (f *logFormat) Type() string   { return "plain|keyvalue|json" }
func (f *logFormat) Set(s string) error {
	switch s {
	case "plain", "keyvalue", "json":
		*f = logFormat(s)
		return nil
	}
	return errors.New("want plain, keyvalue or json")
}

func logsCommand(f *command.Factory) *cobra.Command {
	o := &logsOptions{f: f, output: "plain"}
	cmd := &cobra.Command{
		Use:        "logs NAME",
		SuggestFor: []string{"tail"},
		Short:      "Show what a function prints",
		GroupID:    "function",
		Long: `Shows what the replicas of a function have printed, and what they print from
then on, until Ctrl-C. --follow=false ends after what there is.`,
		Example: `  graphene logs wine
  graphene logs wine --follow=false --lines 20
  graphene logs wine --since 10m -o json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && f.Flags.StackFile != "" { // "logs -f NAME", as other programs have it
				return command.Usagef("name the function: -f is the stack file here, and a log is followed unless --follow=false")
			}
			return command.ExactArgs(1)(cmd, args)
		},
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
		ValidArgsFunction: f.CompleteFunctions,
	}
	flags := cmd.Flags()
	flags.BoolVar(&o.follow, "follow", true, "go on with what is printed from now on")
	flags.BoolVar(&o.follow, "tail", true, "the same, as faas-cli calls it")
	flags.IntVar(&o.lines, "lines", -1, "show at most this many lines of what there is")
	flags.DurationVar(&o.since, "since", 0, "show what is not older than this, such as 10m")
	flags.StringVar(&o.sinceTime, "since-time", "", "show what was printed after this time, such as 2006-01-02T15:04:05Z")
	flags.StringVar(&o.instance, "instance", "", "show one replica only")
	flags.BoolVar(&o.name, "name", false, "show the function's name on each line")
	flags.BoolVar(&o.times, "time", false, "show the time on each line")
	flags.VarP(&o.output, "output", "o", "format of a line")
	command.CompleteFlag(cmd, "output", command.OneOf("plain", "keyvalue", "json"))
	return cmd
}

func (o *logsOptions) run(ctx context.Context, name string) error {
	ref, err := o.f.Ref(name)
	if err != nil {
		return err
	}
	r := logs.Request{Name: ref.Name, Namespace: ref.Namespace, Instance: o.instance, Tail: o.lines, Follow: o.follow}
	if r.Since, err = o.from(time.Now()); err != nil {
		return err
	}
	c, err := o.f.Client(ctx)
	if err != nil {
		return err
	}
	for m, err := range c.Logs(ctx, r) {
		if err != nil {
			if ctx.Err() != nil && o.follow {
				return nil // Ctrl-C is how following ends
			}
			return err
		}
		line, err := o.line(m)
		if err != nil {
			return err
		}
		o.f.Streams.Printf("%s\n", line)
	}
	return nil
}

// from returns the time that the log is shown from, nil for its beginning.
func (o *logsOptions) from(now time.Time) (*time.Time, error) {
	switch {
	case o.since != 0 && o.sinceTime != "":
		return nil, command.Usagef("--since and --since-time exclude each other")
	case o.since < 0:
		return nil, command.Usagef("--since is %s, want how long ago, such as 10m", o.since)
	case o.since > 0:
		return new(now.Add(-o.since)), nil
	case o.sinceTime != "":
		t, err := time.Parse(time.RFC3339Nano, o.sinceTime)
		if err != nil {
			return nil, command.Usagef("--since-time is %q, want a time such as 2006-01-02T15:04:05Z", o.sinceTime)
		}
		return &t, nil
	}
	return nil, nil
}

func (o *logsOptions) line(m logs.Message) (string, error) {
	m.Text = strings.TrimRight(m.Text, "\n")
	switch o.output {
	case "json":
		text, err := json.Marshal(m)
		return string(text), err
	case "keyvalue":
		return fmt.Sprintf("timestamp=%s name=%s namespace=%s instance=%s text=%s",
			m.Timestamp.Format(time.RFC3339Nano), term.Clean(m.Name), term.Clean(m.Namespace), term.Clean(m.Instance), strconv.Quote(m.Text)), nil
	}
	var b strings.Builder
	if o.times {
		b.WriteString(m.Timestamp.Format(time.RFC3339Nano) + " ")
	}
	if o.name {
		b.WriteString(term.Clean(m.Name) + " ")
	}
	b.WriteString(m.Text)
	return b.String(), nil
}
