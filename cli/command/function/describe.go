package function

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/openfaas/faas-provider/types"
	"github.com/spf13/cobra"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/function"
)

type describeOptions struct {
	f *command.Factory

	output  term.Format
	verbose bool
	why     bool
}

func describeCommand(f *command.Factory) *cobra.Command {
	o := &describeOptions{f: f}
	cmd := &cobra.Command{
		Use:     "describe NAME",
		Short:   "Show everything about a function, and whether it can be called",
		GroupID: "function",
		Long: `Shows a function: where it is called, its replicas, its settings, and, if it
does not start, why. The last line says whether it can be called now.

--verbose shows all settings, those at their defaults too. --why shows how the
number of replicas was decided: by what, with which numbers, and what bounded
it, and the last changes with their reasons.`,
		Example: `  graphene describe wine
  graphene describe wine --why
  graphene describe wine.lab -o json`,
		Args:              command.ExactArgs(1),
		RunE:              func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0]) },
		ValidArgsFunction: f.CompleteFunctions,
	}
	command.OutputFlag(cmd, &o.output)
	cmd.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "show all settings")
	cmd.Flags().BoolVar(&o.why, "why", false, "show how the number of replicas was decided")
	return cmd
}

// description is what describe writes for programs.
type description struct {
	client.Details
	URL       string `json:"url"`
	Callable  bool   `json:"callable"`
	Condition string `json:"condition"` // why it can be called, or why not

	Scaling *client.Scaling `json:"scaling,omitempty"` // with --why
}

func (o *describeOptions) run(ctx context.Context, name string) error {
	ref, err := o.f.Ref(name)
	if err != nil {
		return err
	}
	c, err := o.f.Client(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := command.Timeout(ctx)
	defer cancel()
	details, err := c.Details(ctx, ref, true)
	if err != nil {
		return err
	}
	// Only the listing counts calls.
	if all, err := c.Functions(ctx, ref.Namespace); err == nil {
		for _, s := range all {
			if s.Name == ref.Name {
				details.InvocationCount = s.InvocationCount
			}
		}
	}
	d := description{Details: details, URL: callURL(c.URL(), ref)}
	d.Callable, d.Condition = callable(details)
	if o.why {
		scaling, err := c.Scaling(ctx, ref)
		if err != nil {
			return err
		}
		d.Scaling = &scaling
	}
	return o.output.Write(o.f.Streams.Out, d, func(t *term.Table) { o.table(t, d) })
}

// callable says whether a call would be answered now, and why.
func callable(d client.Details) (ok bool, why string) {
	serving := d.AvailableReplicas > 0
	switch {
	case serving && d.Failure != "":
		return true, "yes, by the version before the latest, which does not start: " + firstLine(d.Failure)
	case serving:
		return true, "yes"
	case d.Failure != "":
		return false, "no: it does not start: " + firstLine(d.Failure)
	case d.Replicas == 0:
		return true, "yes; it sleeps, and the first call wakes it"
	}
	if d.Waiting != "" {
		return false, "not yet: " + firstLine(d.Waiting) + "; calls wait for it"
	}
	return false, "not yet: it is starting; calls wait for it"
}

func (o *describeOptions) table(t *term.Table, d description) {
	row := func(name, value string) {
		if value != "" {
			t.Row(name+":", value)
		}
	}
	row("Name", d.Name)
	row("Namespace", d.Namespace)
	row("URL", d.URL)
	row("Image", d.Image)
	row("Process", d.EnvProcess)
	row("Created", d.CreatedAt.Format(time.RFC3339))
	if d.Revision > 0 {
		row("Revision", fmt.Sprint(d.Revision))
	}
	row("Invocations", fmt.Sprint(d.InvocationCount))
	row("Tier", tier(d.Details))
	row("Replicas", fmt.Sprintf("%d ready of %d", d.AvailableReplicas, d.Replicas))
	for _, r := range d.Instances {
		row("  "+r.ID, instance(r))
	}
	if u := d.Usage; u != nil && len(d.Instances) > 0 {
		row("Usage", fmt.Sprintf("%.0fm CPU, %s memory", u.CPU, term.Size(int64(u.TotalMemoryBytes))))
	}
	row("Limits", amounts(d.Limits))
	row("Requests", amounts(d.Requests))
	if d.ReadOnlyRootFilesystem {
		row("File system", "read-only")
	}
	row("Secrets", strings.Join(d.Secrets, ", "))
	row("Constraints", strings.Join(d.Constraints, ", "))
	rows := func(title string, m map[string]string) {
		for i, k := range slices.Sorted(maps.Keys(m)) {
			t.Row(first(i, title+":"), k+"="+m[k])
		}
	}
	rows("Environment", d.EnvVars)
	rows("Labels", deref(d.Labels))
	rows("Annotations", deref(d.Annotations))
	rows("Settings", o.settings(d))
	if d.Failure != "" {
		for i, line := range strings.Split(d.Failure, "\n") {
			t.Row(first(i, "Failure:"), line)
		}
	}
	row("Waiting", d.Waiting)
	row("Note", d.Note)
	why(t, d.Scaling, time.Now())
	row("Callable", d.Condition)
}

func first(i int, title string) string {
	if i == 0 {
		return title
	}
	return ""
}

func deref(m *map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	return *m
}

func instance(r function.Replica) string {
	state := "starting"
	switch {
	case r.Ready:
		state = "ready"
	case r.Tier != function.Hot:
		state = r.Tier.String()
	}
	return fmt.Sprintf("%s, revision %d, at %s", state, r.Revision, r.Address)
}

// tier says how warm the function is and, if it sleeps, why so.
func tier(d client.Details) string {
	if d.Rest == nil || d.Rest.Why == "" {
		return d.Tier
	}
	return fmt.Sprintf("%s since %s: %s", d.Tier, d.Rest.Since.Local().Format(time.DateTime), d.Rest.Why)
}

func amounts(r *types.FunctionResources) string {
	if r == nil {
		return ""
	}
	var parts []string
	for _, p := range []struct{ value, of string }{{r.CPU, "CPU"}, {r.Memory, "memory"}, {r.NvidiaGPU, "nvidia.com/gpu"}, {r.AmdGPU, "amd.com/gpu"}, {r.IntelGPU, "intel.com/gpu"}} {
		if p.value != "" {
			parts = append(parts, p.value+" "+p.of)
		}
	}
	return strings.Join(parts, ", ")
}

// settings returns the settings that differ from their defaults, or all.
func (o *describeOptions) settings(d description) map[string]string {
	if d.Revision == 0 {
		return nil // a gateway without details
	}
	defaults, err := function.ReadSettings(nil, nil)
	if err != nil {
		return nil // the defaults are always good
	}
	usual := defaults.Environ()
	m := map[string]string{}
	for i, kv := range d.Settings.Environ() {
		if o.verbose || kv != usual[i] {
			k, v, _ := strings.Cut(kv, "=")
			m[k] = v
		}
	}
	return m
}
