package function

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/openfaas/faas-provider/logs"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
	"github.com/graphene-faas/graphene/internal/function"
)

// How often a function is looked at while it starts: soon at first, since a
// function may be ready in milliseconds, then less often.
const (
	firstLook = 10 * time.Millisecond
	lastLook  = time.Second
)

// failureLines is how much of its log a function that does not start leaves on
// the screen.
const failureLines = 20

// wait returns when the newest version of a function is ready, and prints its
// address, or when it is known not to start.
func (d *deployer) wait(ctx context.Context, ref function.Ref) error {
	ctx, cancel := context.WithTimeoutCause(ctx, d.o.waitTimeout, fault.Timeout.Errorf("%s was not ready within %s; it goes on starting: see \"graphene describe %s\" and \"graphene logs %s\"", ref.Name, d.o.waitTimeout, ref.Name, ref.Name))
	defer cancel()
	pause := time.NewTimer(0)
	defer pause.Stop()
	var revision int64
	shown := ""
	for every := firstLook; ; every = min(every*3/2, lastLook) {
		select {
		case <-pause.C:
			pause.Reset(every)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		status, err := d.client.Details(ctx, ref, false)
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return fmt.Errorf("wait for %s: %w", ref.Name, err)
		}
		revision = max(revision, status.Revision)
		switch state(status, revision) {
		case ready:
			d.f.Streams.Printf("%s is ready: %s\n", ref.Name, callURL(d.client.URL(), ref))
			return nil
		case asleep:
			d.f.Streams.Printf("%s is deployed and asleep; the first call wakes it: %s\n", ref.Name, callURL(d.client.URL(), ref))
			return nil
		case failed:
			return d.explain(ctx, ref, status)
		}
		if doing := progress(status, revision); every == lastLook && doing != shown {
			d.f.Streams.Notef("waiting for %s: %s\n", ref.Name, doing)
			shown = doing
		}
	}
}

// progress says how far a function is that does not become ready at once.
func progress(s client.Details, revision int64) string {
	if s.Waiting != "" {
		return firstLine(s.Waiting)
	}
	for _, r := range s.Instances {
		if r.Revision == revision {
			return "a replica runs and is not ready yet"
		}
	}
	return "no replica runs yet; a place for one is looked for, or its image is fetched"
}

type phase int

const (
	starting phase = iota
	ready
	asleep
	failed
)

// state says where a function is on its way to the given revision.
func state(s client.Details, revision int64) phase {
	if s.Revision == 0 { // a gateway without details
		switch {
		case s.AvailableReplicas > 0:
			return ready
		case s.Replicas == 0:
			return asleep
		}
		return starting
	}
	for _, r := range s.Instances {
		if r.Revision == revision && r.Ready {
			return ready
		}
	}
	switch {
	case s.Failure != "":
		return failed
	case s.Replicas == 0:
		return asleep
	}
	return starting
}

// explain shows why a function does not start: the platform's reason and the
// last it printed.
func (d *deployer) explain(ctx context.Context, ref function.Ref, status client.Details) error {
	serving := ""
	if status.AvailableReplicas > 0 {
		serving = "; the version before it goes on serving"
	}
	var lines []string
	ctx, cancel := command.Timeout(ctx)
	defer cancel()
	for m, err := range d.client.Logs(ctx, logs.Request{Name: ref.Name, Namespace: ref.Namespace, Tail: failureLines}) {
		if err != nil {
			break // the reason is worth more than the complaint that its log is gone
		}
		lines = append(lines, "  "+term.Clean(strings.TrimRight(m.Text, "\n")))
	}
	if len(lines) > 0 {
		d.f.Streams.Notef("the last lines of %s's log:\n%s\n", ref.Name, strings.Join(lines, "\n"))
	}
	return &command.ExitError{
		Code: command.ExitNotReady,
		Err:  errors.New(ref.Name + " does not start: " + firstLine(status.Failure) + serving),
	}
}

// firstLine returns what a text of several lines begins with, such as the
// reason before the log that proves it.
func firstLine(text string) string {
	first, _, _ := strings.Cut(text, "\n")
	return term.Clean(first)
}
