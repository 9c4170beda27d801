package function

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/graphene-faas/graphene/cli/command"
	"github.com/graphene-faas/graphene/cli/term"
	"github.com/graphene-faas/graphene/gateway/client"
	"github.com/graphene-faas/graphene/internal/fault"
)

// batch are the flags of a call for each line of a file.
type batch struct{ in, out string }

func (b *batch) addFlags(flags *pflag.FlagSet) {
	flags.StringVar(&b.in, "batch", "", "file with a JSON document on each line, or .csv with a header: one call for each")
	flags.StringVar(&b.out, "out", "", "with --batch: file that gets one line for each call, in order")
}

// A progressFile stands beside --out while a batch is under way, so that the
// same command continues it. It is gone when the batch is done.
type progressFile struct {
	Key      string `json:"key"` // under which the batch is sent
	Gateway  string `json:"gateway"`
	Function string `json:"function"`
	Input    string `json:"input"`
	ID       string `json:"id,omitempty"` // once it is known
}

// Pauses between looks at a batch, and after the gateway could not be reached.
const (
	batchLook     = 100 * time.Millisecond
	batchLookMost = 2 * time.Second
	batchPause    = time.Second
	batchPatience = 10 * time.Minute // for a gateway that cannot be reached
)

// runBatch sends the file and collects the answers.
func (o *invokeOptions) runBatch(ctx context.Context, name string) error {
	call, err := o.call(name)
	if err != nil {
		return err
	}
	call.Header.Set("Content-Type", "application/x-ndjson")
	if strings.HasSuffix(strings.ToLower(o.batch.in), ".csv") {
		call.Header.Set("Content-Type", "text/csv")
	}
	c, err := o.f.Client(ctx)
	if err != nil {
		return err
	}
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	r := &batchRun{
		o: o, c: c, call: call, state: o.f.Path(o.batch.out) + ".progress",
		want: progressFile{Key: o.later.key, Gateway: c.URL(), Function: call.Function.String(), Input: o.f.Path(o.batch.in)},
	}
	if _, err := os.Stat(r.want.Input); err != nil {
		return command.NotFoundError(err, "--batch names a file")
	}
	if err := r.begin(); err != nil {
		return err
	}
	b, err := r.send(ctx)
	if err != nil {
		return r.unsent(err)
	}
	if b, err = r.collect(ctx, b); err != nil {
		return r.explain(err)
	}
	if err := os.Remove(r.state); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("end the batch: %w", err)
	}
	o.f.Streams.Notef("%s: %d done, %d failed; answers in %s\n", term.Count(b.Accepted, "call"), b.Done, b.Failed+b.Cancelled, o.batch.out)
	if b.Failed+b.Cancelled > 0 {
		return fmt.Errorf("%d of %d calls failed", b.Failed+b.Cancelled, b.Accepted)
	}
	return nil
}

// A batchRun is one run of the command, of perhaps several for the batch.
type batchRun struct {
	o     *invokeOptions
	c     *client.Client
	call  client.Call
	state string // path of the progress file
	want  progressFile
	lines int // of the result that --out holds
}

// begin finds out whether this run continues another.
func (r *batchRun) begin() error {
	text, err := os.ReadFile(r.state)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if r.want.Key == "" {
			r.want.Key = rand.Text()
		}
		// Before anything is sent: that the answers will have a place.
		out, err := os.OpenFile(r.o.f.Path(r.o.batch.out), os.O_WRONLY|os.O_CREATE, 0o666)
		if err != nil {
			return fmt.Errorf("begin the batch: %w", err)
		}
		if err := out.Close(); err != nil {
			return fmt.Errorf("begin the batch: %w", err)
		}
		return r.save()
	case err != nil:
		return fmt.Errorf("continue the batch: %w", err)
	}
	var had progressFile
	if err := json.Unmarshal(text, &had); err != nil {
		return fault.Invalid.Errorf("%s cannot be read: %w; remove it to begin anew", r.state, err)
	}
	if had.Gateway != r.want.Gateway || had.Function != r.want.Function || had.Input != r.want.Input || r.want.Key != "" && r.want.Key != had.Key {
		return fault.Invalid.Errorf("%s is of another batch, of %s for %s: choose another --out, or remove it", r.o.f.Rel(r.state), r.o.f.Rel(had.Input), had.Function)
	}
	r.want = had
	if r.want.ID != "" { // before, --out may still hold what it held: see send
		if r.lines, err = wholeLines(r.o.f.Path(r.o.batch.out)); err != nil {
			return err
		}
	}
	r.o.f.Streams.Notef("going on with the batch of %s, with %s\n", r.o.batch.in, term.Count(r.lines, "answer"))
	return nil
}

func (r *batchRun) save() error {
	text, err := json.Marshal(r.want)
	if err != nil {
		return fmt.Errorf("keep the progress of the batch: %w", err)
	}
	if err := os.WriteFile(r.state, append(text, '\n'), 0o666); err != nil {
		return fmt.Errorf("keep the progress of the batch: %w", err)
	}
	return nil
}

// wholeLines counts the lines of a file, and cuts off what follows the last.
func wholeLines(path string) (int, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return 0, fmt.Errorf("continue the batch: %w", err)
	}
	defer file.Close()
	in := bufio.NewReaderSize(file, 1<<20)
	lines, size := 0, int64(0)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case err == nil:
			lines++
			size += int64(len(line))
		case errors.Is(err, bufio.ErrBufferFull):
			rest, err := in.ReadBytes('\n')
			if err != nil {
				return lines, cut(file, size)
			}
			lines++
			size += int64(len(line) + len(rest))
		case errors.Is(err, io.EOF):
			return lines, cut(file, size)
		default:
			return 0, fmt.Errorf("continue the batch: %w", err)
		}
	}
}

func cut(file *os.File, size int64) error {
	if err := file.Truncate(size); err != nil {
		return fmt.Errorf("continue the batch: %w", err)
	}
	return nil
}

// patient calls do until it succeeds, or fails for another reason than that
// the gateway cannot be reached for now.
func (r *batchRun) patient(ctx context.Context, do func() error) error {
	told := false
	for began := time.Now(); ; {
		err := do()
		if !errors.Is(err, fault.Unavailable) || command.IsUntrusted(err) || time.Since(began) > batchPatience {
			return err
		}
		if !told {
			r.o.f.Streams.Notef("trying again: %v\n", err)
			told = true
		}
		select {
		case <-time.After(batchPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// send sends what the gateway does not have yet.
func (r *batchRun) send(ctx context.Context) (client.Batch, error) {
	var b client.Batch
	progress := term.NewProgress(r.o.f.Streams, "sent", 0, time.Now())
	defer progress.Done()
	r.call.Header.Set("Idempotency-Key", r.want.Key)
	err := r.patient(ctx, func() error {
		if r.want.ID != "" {
			var err error
			if b, err = r.c.Batch(ctx, r.want.ID); err != nil || b.Complete {
				return err
			}
		}
		file, err := os.Open(r.want.Input)
		if err != nil {
			return command.NotFoundError(err, "--batch names a file")
		}
		defer file.Close()
		in, from := bufio.NewReader(file), 0
		if r.call.Header.Get("Content-Type") != "text/csv" {
			if from, err = skipDocuments(in, b.Accepted); err != nil {
				return fmt.Errorf("read %s: %w", r.o.batch.in, err)
			}
		}
		call := r.call
		call.Body = &counting{r: in, each: func(lines int) { progress.Update(from+lines, 0, time.Now()) }}
		b, err = r.c.SendBatch(ctx, call, from)
		return err
	})
	if err != nil {
		return b, err
	}
	if r.want.ID == "" {
		// Only now, so that a command that asks for the wrong thing does not
		// cost the answers of the one before.
		if err := os.Truncate(r.o.f.Path(r.o.batch.out), 0); err != nil {
			return b, fmt.Errorf("begin the batch: %w", err)
		}
	}
	r.want.ID = b.ID
	return b, r.save()
}

// skipDocuments reads past n lines that are not empty, and returns how many
// there were.
func skipDocuments(in *bufio.Reader, n int) (int, error) {
	for skipped := 0; ; {
		if skipped == n {
			return n, nil
		}
		line, err := in.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			skipped++
		}
		if errors.Is(err, io.EOF) {
			return skipped, nil
		}
		if err != nil {
			return skipped, err
		}
	}
}

// counting counts the lines that are read through it.
type counting struct {
	r     io.Reader
	lines int
	each  func(int)
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.lines += bytes.Count(p[:n], []byte{'\n'})
	c.each(c.lines)
	return n, err
}

// collect appends answers to --out until all are there.
func (r *batchRun) collect(ctx context.Context, b client.Batch) (client.Batch, error) {
	file, err := os.OpenFile(r.o.f.Path(r.o.batch.out), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o666)
	if err != nil {
		return b, fmt.Errorf("write the answers: %w", err)
	}
	defer file.Close()
	out := bufio.NewWriter(file)
	progress := term.NewProgress(r.o.f.Streams, "answers", r.lines, time.Now())
	defer progress.Done()
	for pause := batchLook; ; {
		before := r.lines
		err := r.patient(ctx, func() error {
			n, err := r.c.BatchResult(ctx, b.ID, r.lines, func(line []byte) error {
				_, err := out.Write(append(line, '\n'))
				return err
			})
			r.lines += n
			if flushed := out.Flush(); flushed != nil {
				return fmt.Errorf("write the answers: %w", flushed)
			}
			if err != nil {
				return err
			}
			b, err = r.c.Batch(ctx, b.ID)
			return err
		})
		if err != nil {
			return b, err
		}
		progress.Update(max(r.lines, b.Done+b.Failed+b.Cancelled), b.Accepted, time.Now())
		if r.lines >= b.Accepted && b.Ended() {
			return b, file.Close()
		}
		if pause = min(2*pause, batchLookMost); r.lines > before {
			pause = batchLook
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return b, ctx.Err()
		}
	}
}

// unsent says how to go on after an error of send.
func (r *batchRun) unsent(err error) error {
	switch {
	case errors.Is(err, fault.NotFound) && r.want.ID == "": // the function: nothing was accepted, so nothing is to be continued
		return errors.Join(err, os.Remove(r.state))
	case errors.Is(err, fault.NotFound):
		r.o.f.Streams.Notef("the gateway has forgotten the batch; remove %s to begin anew\n", r.o.f.Rel(r.state))
		return err
	case errors.Is(err, fault.Invalid) || errors.Is(err, fault.TooLarge):
		r.o.f.Streams.Notef("what comes before it is sent; correct %s and give the same command again for the rest\n", r.o.batch.in)
		return err
	}
	return r.explain(err)
}

// explain says, with an error that leaves the batch unfinished, how to go on.
func (r *batchRun) explain(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fault.Unavailable) {
		r.o.f.Streams.Notef("the batch goes on without this command; the same command collects its answers\n")
	}
	return err
}
