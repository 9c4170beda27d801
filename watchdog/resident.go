package watchdog

import (
	"context"
	"io"
	"net/http"
)

// resident is the mode of a handler in this process: a Go function's own, or
// the file server of mode [Static]. It is ready at once and never ends by itself.
type resident struct{ http.Handler }

func (resident) run(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	return nil
}

func (resident) note() string { return "" }

func (resident) writeMetrics(io.Writer) {}
