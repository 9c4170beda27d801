package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
)

// Times of waiting for a call.
const (
	waitOnce  = 30 * time.Second // for which one request waits
	waitAgain = 500 * time.Millisecond
)

// AwaitCall returns a call once it has ended, also across restarts of the gateway.
// A timeout of 0 is none.
func AwaitCall(ctx context.Context, c *client.Client, id string, timeout time.Duration) (client.LaterCall, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	for {
		call, err := c.LaterCall(ctx, id, waitOnce)
		switch {
		case ctx.Err() != nil:
			return call, fmt.Errorf("wait for call %s: %w", id, ctx.Err())
		case err != nil && !errors.Is(err, fault.Unavailable):
			return call, err
		case err == nil && call.Ended():
			return call, nil
		}
		select {
		case <-time.After(waitAgain):
		case <-ctx.Done():
		}
	}
}

// JudgeCall turns a call that did not succeed into an error.
func JudgeCall(call client.LaterCall) error {
	switch {
	case call.State == client.CallCancelled:
		return fmt.Errorf("call %s was cancelled", call.ID)
	case call.State == client.CallFailed:
		return fmt.Errorf("call %s failed after %d tries", call.ID, len(call.Tries))
	case call.Status >= 300:
		return fmt.Errorf("%s answered %d", call.Function, call.Status)
	}
	return nil
}

// WriteResult writes the answer to a call that has ended to standard output.
func (f *Factory) WriteResult(ctx context.Context, c *client.Client, id string) error {
	resp, err := c.LaterResult(ctx, id)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(f.Streams.Out, resp.Body); err != nil {
		return fmt.Errorf("read the result of call %s: %w", id, err)
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s answered %s", resp.Header.Get("X-Function-Name"), resp.Status)
	}
	return nil
}
