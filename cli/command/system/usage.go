package system

import (
	"context"
	"encoding/csv"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
)

// UsageCommand returns the command usage.
func UsageCommand(f *command.Factory) *cobra.Command {
	var output term.Format
	var from, to string
	var by []string
	var table bool
	cmd := &cobra.Command{
		Use:     "usage",
		Short:   "Report who used what",
		GroupID: "platform",
		Long: `Reports what callers used of functions: calls, errors, refusals, bytes, and the
time that calls took. Days are of UTC. It is counted where callers are known,
on platforms with an auth_config or a limits_config, and may be some seconds
late.

With --csv it is a table for a spreadsheet, or for bills.`,
		Example: `  graphene usage
  graphene usage --from 2026-10-01 --to 2026-10-31 --by caller --csv > october.csv
  graphene usage --by day,function -o json`,
		Args: command.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if table && cmd.Flags().Changed("output") {
				return fault.Invalid.Errorf("--csv and --output are two formats: choose one")
			}
			return f.Ask(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				lines, err := c.Usage(ctx, from, to, by)
				if err != nil {
					return err
				}
				if table {
					return writeUsage(f.Streams.Out, lines, by)
				}
				return output.Write(f.Streams.Out, lines, func(t *term.Table) {
					head := make([]string, 0, len(by)+7)
					for _, column := range by {
						head = append(head, strings.ToUpper(column))
					}
					t.Header(append(head, "CALLS", "ERRORS", "REFUSED", "QUEUED", "IN", "OUT", "TIME")...)
					for _, l := range lines {
						t.Row(append(named(l, by), strconv.FormatInt(l.Calls, 10), strconv.FormatInt(l.Errors, 10), strconv.FormatInt(l.Refused, 10),
							strconv.FormatInt(l.Queued, 10), term.Size(l.BytesIn+l.QueuedBytes), term.Size(l.BytesOut),
							(time.Duration(l.BusyMillis) * time.Millisecond).String())...)
					}
				})
			})
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "first day, such as 2026-11-01 (default: the first of this month)")
	cmd.Flags().StringVar(&to, "to", "", "last day (default: today)")
	cmd.Flags().StringSliceVar(&by, "by", []string{"caller", "function"}, "what is kept apart: day, caller, function")
	cmd.Flags().BoolVar(&table, "csv", false, "write comma-separated values")
	command.OutputFlag(cmd, &output)
	return cmd
}

// named returns what l is about.
func named(l client.Usage, by []string) []string {
	row := make([]string, 0, len(by)+8)
	for _, column := range by {
		row = append(row, map[string]string{"day": l.Day, "caller": l.Caller, "function": l.Function}[column])
	}
	return row
}

// writeUsage writes a report for a spreadsheet.
func writeUsage(w io.Writer, lines []client.Usage, by []string) error {
	out := csv.NewWriter(w)
	rows := [][]string{append(slices.Clone(by), "calls", "errors", "refused", "queued", "queued_bytes", "bytes_in", "bytes_out", "busy_ms")}
	for _, l := range lines {
		row := named(l, by)
		for i, text := range row {
			row[i] = harmless(text)
		}
		for _, n := range []int64{l.Calls, l.Errors, l.Refused, l.Queued, l.QueuedBytes, l.BytesIn, l.BytesOut, l.BusyMillis} {
			row = append(row, strconv.FormatInt(n, 10))
		}
		rows = append(rows, row)
	}
	return out.WriteAll(rows)
}

// harmless keeps a caller's name from being a formula.
func harmless(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r", rune(text[0])) {
		return "'" + text
	}
	return text
}
