// Package calls holds the commands about asynchronous calls: what became of
// them, their results, and what to do about those that failed.
package calls

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
)

// Command returns the command about asynchronous calls.
func Command(f *command.Factory) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "calls",
		Aliases: []string{"call"},
		Short:   "Look after asynchronous calls",
		GroupID: "function",
		Long: `Looks after calls that were submitted with "graphene invoke --async", or by a
POST to /async-function/NAME. A call is named by the id that its submission
gave, or by the X-Call-Id it was sent with.

A call that failed for good is kept as a dead letter, with its body: retry puts
it back into the queue, purge deletes it.`,
	}
	cmd.AddCommand(listCommand(f), getCommand(f), waitCommand(f), resultCommand(f), cancelCommand(f),
		dead(f, "retry", "Put calls that failed back into the queue", "back in the queue", (*client.Client).RetryCall, (*client.Client).RetryCalls),
		dead(f, "purge", "Delete calls that failed", "deleted", (*client.Client).PurgeCall, (*client.Client).PurgeCalls))
	return cmd
}

type listOptions struct {
	f            *command.Factory
	output       term.Format
	quiet        bool
	function     string
	state        string
	since, until string
	limit        int
	all          bool
}

func listCommand(f *command.Factory) *cobra.Command {
	o := &listOptions{f: f}
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List calls, newest first",
		Long: `Lists calls, those first that have changed last: those that wait, those that run,
and those that have ended, as long as their results are kept. --all lists every
one; with --quiet each id is printed as soon as it is known, however many there
are. --since and --until take a time such as 2026-01-02T15:04:05Z, or a time span
such as 90m, which is counted back from now.`,
		Example: `  graphene calls list --state failed --since 24h
  graphene calls list --function wine -o json
  graphene calls list --state failed --all --quiet | xargs graphene calls retry`,
		Args: command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.all && cmd.Flags().Changed("limit") {
				return command.Usagef("give --limit or --all, not both")
			}
			return o.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.quiet, "quiet", "q", false, "show ids only")
	flags.StringVar(&o.function, "function", "", "only calls of this function")
	flags.StringVar(&o.state, "state", "", "only calls in this state: "+strings.Join(client.CallStates(), ", "))
	flags.StringVar(&o.since, "since", "", "only calls submitted since then")
	flags.StringVar(&o.until, "until", "", "only calls submitted until then")
	flags.IntVar(&o.limit, "limit", 50, "how many calls to list")
	flags.BoolVar(&o.all, "all", false, "list every call, however many there are")
	command.OutputFlag(cmd, &o.output)
	completeFunction(f, cmd)
	command.CompleteFlag(cmd, "state", command.OneOf(client.CallStates()...))
	return cmd
}

func (o *listOptions) run(ctx context.Context) error {
	if o.limit < 1 {
		return command.Usagef("--limit is %d, want 1 or more", o.limit)
	}
	filter := client.CallFilter{State: o.state, Limit: o.limit}
	if o.all {
		filter.Limit = 0
	}
	if o.function != "" {
		ref, err := o.f.Ref(o.function)
		if err != nil {
			return err
		}
		filter.Function = ref.String()
	}
	var err error
	if filter.Since, err = parseTime("since", o.since, time.Now()); err != nil {
		return err
	}
	if filter.Until, err = parseTime("until", o.until, time.Now()); err != nil {
		return err
	}
	c, err := o.f.Client(ctx)
	if err != nil {
		return err
	}
	all := []client.LaterCall{}
	for call, err := range c.LaterCalls(ctx, filter) {
		switch {
		case err != nil:
			return err
		case o.quiet && o.output.IsTable():
			o.f.Streams.Printf("%s\n", term.Clean(call.ID))
		default:
			all = append(all, call)
		}
	}
	if o.quiet && o.output.IsTable() {
		return nil
	}
	return o.output.Write(o.f.Streams.Out, all, func(t *term.Table) {
		t.Header("ID", "FUNCTION", "STATE", "STATUS", "TRIES", "SUBMITTED")
		for _, call := range all {
			t.Row(call.ID, call.Function, call.State, status(call.Status), strconv.Itoa(len(call.Tries)), call.Submitted.Format(time.RFC3339))
		}
	})
}

// parseTime reads a time, or a time span before now.
func parseTime(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return at, command.Usagef("--%s is %q, want a time such as 2026-01-02T15:04:05Z, or a time span such as 90m", flag, text)
	}
	return at, nil
}

func status(code int) string {
	if code == 0 {
		return "-"
	}
	return strconv.Itoa(code)
}

// show writes what is known about a call.
func show(t *term.Table, call client.LaterCall) {
	t.Row("ID:", call.ID)
	if call.CallID != "" {
		t.Row("Caller's id:", call.CallID)
	}
	t.Row("Function:", call.Function)
	t.Row("Queue:", call.Queue)
	t.Row("State:", call.State)
	if call.Status != 0 {
		t.Row("Status:", status(call.Status))
	}
	t.Row("Submitted:", call.Submitted.Format(time.RFC3339Nano))
	for _, at := range []struct {
		title string
		time  *time.Time
	}{{"Started:", call.Started}, {"Next try:", call.Next}, {"Ended:", call.EndedAt}} {
		if at.time != nil {
			t.Row(at.title, at.time.Format(time.RFC3339Nano))
		}
	}
	title := "Tries:"
	for _, try := range call.Tries {
		took := time.Duration(try.Seconds * float64(time.Second)).Round(time.Microsecond)
		t.Row(title, fmt.Sprintf("%s in %s %s", status(try.Status), took, try.Reason))
		title = ""
	}
	if call.Held != "" {
		t.Row("Held:", call.Held)
	}
	if call.ResultDropped != "" {
		t.Row("Result:", "not kept: "+call.ResultDropped)
	}
	if call.CallbackFailed != "" {
		t.Row("Callback:", "given up: "+call.CallbackFailed)
	}
}

func getCommand(f *command.Factory) *cobra.Command {
	return command.Show(f, &cobra.Command{
		Use:     "get ID",
		Aliases: []string{"describe"},
		Short:   "Show a call: its state, its tries, and why they failed",
		Example: `  graphene calls get 0192b6a0-93c4-7a1e-8f30-5d0000000007`,
		Args:    command.ExactArgs(1),
	}, func(ctx context.Context, c *client.Client, args []string) (client.LaterCall, error) {
		return c.LaterCall(ctx, args[0], 0)
	}, show)
}

func waitCommand(f *command.Factory) *cobra.Command {
	var output term.Format
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:     "wait ID",
		Short:   "Wait until a call has ended, and show it",
		Example: `  graphene calls wait 0192b6a0-93c4-7a1e-8f30-5d0000000007 --timeout 1h`,
		Args:    command.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.Client(cmd.Context())
			if err != nil {
				return err
			}
			call, err := command.AwaitCall(cmd.Context(), c, args[0], timeout)
			if err != nil {
				return err
			}
			if err := output.Write(f.Streams.Out, call, func(t *term.Table) { show(t, call) }); err != nil {
				return err
			}
			return command.JudgeCall(call)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "longest time to wait (default: as long as it takes)")
	command.OutputFlag(cmd, &output)
	return cmd
}

func resultCommand(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:   "result ID",
		Short: "Write the body of the answer to a call to standard output",
		Long: `Writes the body of the function's answer to standard output. A call that has not
ended ends with exit code 5, an answer that is no success with 1.`,
		Example: `  graphene calls result 0192b6a0-93c4-7a1e-8f30-5d0000000007 > answer.json`,
		Args:    command.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := f.Client(cmd.Context())
			if err != nil {
				return err
			}
			return f.WriteResult(cmd.Context(), c, args[0])
		},
	}
}

func cancelCommand(f *command.Factory) *cobra.Command {
	return &cobra.Command{
		Use:     "cancel ID...",
		Short:   "Stop calls, whether they wait or run",
		Example: `  graphene calls cancel 0192b6a0-93c4-7a1e-8f30-5d0000000007`,
		Args:    command.MinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return each(cmd.Context(), f, args, "cancelled", (*client.Client).CancelLater)
		},
	}
}

// each does something to several calls, and goes on when one fails.
func each(ctx context.Context, f *command.Factory, ids []string, done string, do func(*client.Client, context.Context, string) error) error {
	c, err := f.Client(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, id := range ids {
		one, cancel := command.Timeout(ctx)
		err := do(c, one, id)
		cancel()
		if err != nil {
			failed = append(failed, err)
			continue
		}
		f.Streams.Printf("call %s is %s\n", id, done)
	}
	return errors.Join(failed...)
}

// dead returns a command that does something to dead letters.
func dead(f *command.Factory, verb, short, done string, one func(*client.Client, context.Context, string) error, many func(*client.Client, context.Context, string) (int, error)) *cobra.Command {
	var all bool
	var fn string
	cmd := &cobra.Command{
		Use:   verb + " [ID...]",
		Short: short,
		Long: short + `: those that are named, or with --all every one, or with --all and --function
every one of a function.`,
		Example: "  graphene calls " + verb + " 0192b6a0-93c4-7a1e-8f30-5d0000000007\n  graphene calls " + verb + " --all --function wine",
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return command.Usagef("name calls, or give --all")
			}
			if fn != "" && !all {
				return command.Usagef("--function goes with --all")
			}
			if !all {
				return each(cmd.Context(), f, args, done, one)
			}
			name := ""
			if fn != "" {
				ref, err := f.Ref(fn)
				if err != nil {
					return err
				}
				name = ref.String()
			}
			c, err := f.Client(cmd.Context())
			if err != nil {
				return err
			}
			n, err := many(c, cmd.Context(), name)
			if err != nil {
				return err
			}
			f.Streams.Printf("%s %s\n", term.Count(n, "call"), done)
			return nil
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "every call that failed")
	cmd.Flags().StringVar(&fn, "function", "", "of this function only")
	completeFunction(f, cmd)
	return cmd
}

// completeFunction proposes deployed functions for the flag of that name.
func completeFunction(f *command.Factory, cmd *cobra.Command) {
	if err := cmd.RegisterFlagCompletionFunc("function", f.CompleteFunctions); err != nil {
		panic(err) // the flag is there
	}
}
