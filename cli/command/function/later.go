package function

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/graphene-faas/graphene/cli/command"
)

// later are the flags of calls that go through the queue.
type later struct {
	async    bool
	wait     bool
	callback string
	key      string
}

func (l *later) addFlags(flags *pflag.FlagSet) {
	flags.BoolVarP(&l.async, "async", "a", false, "put the call into the queue, and write its id")
	flags.BoolVar(&l.wait, "wait", false, "with --async: wait, and write the answer")
	flags.StringVar(&l.callback, "callback", "", "with --async: URL that the answer is sent to")
	flags.StringVar(&l.key, "key", "", "with --async or --batch: idempotency key; what is sent again under the same key runs once")
}

// check reports flags that do not go together.
func (o *invokeOptions) check() error {
	l, b := o.later, o.batch
	switch {
	case l.async && b.in != "":
		return command.Usagef("--async and --batch are two ways to call")
	case !l.async && (l.wait || l.callback != ""):
		return command.Usagef("--wait and --callback go with --async")
	case !l.async && b.in == "" && l.key != "":
		return command.Usagef("--key goes with --async or --batch")
	case (b.in == "") != (b.out == ""):
		return command.Usagef("--batch and --out go together")
	case (l.async || b.in != "") && o.method != "POST":
		return command.Usagef("calls through the queue are POST requests; --method is %s", o.method)
	case b.in != "" && o.dataSet:
		return command.Usagef("--batch says what to send; --data goes without")
	}
	return nil
}

// runLater submits a call, and with --wait waits for it.
func (o *invokeOptions) runLater(ctx context.Context, name string) error {
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
	if o.later.callback != "" {
		call.Header.Set("X-Callback-Url", o.later.callback)
	}
	if o.later.key != "" {
		call.Header.Set("Idempotency-Key", o.later.key)
	}
	c, err := o.f.Client(ctx)
	if err != nil {
		return err
	}
	submitted, err := c.InvokeLater(ctx, call)
	if err != nil {
		return fmt.Errorf("invoke %s: %w", name, err)
	}
	if !o.later.wait {
		o.f.Streams.Printf("%s\n", submitted.ID)
		return nil
	}
	o.f.Streams.Notef("call %s is in the queue\n", submitted.ID)
	ended, err := command.AwaitCall(ctx, c, submitted.ID, o.timeout)
	if err != nil {
		return err
	}
	if ended.Status != 0 {
		return o.f.WriteResult(ctx, c, submitted.ID)
	}
	return command.JudgeCall(ended)
}
