package serve

import (
	"context"
	"io"
	"log/slog"
	"reflect"

	"github.com/distribution/distribution/v3/registry/api/errcode"
	"github.com/sirupsen/logrus"
)

// A logContext makes the registry's library log to logger. The library looks
// for its logger in the context, under a key that only it can make, and would
// otherwise write to standard error by a logger that all of the process
// shares; so the key is recognised by its type.
type logContext struct {
	context.Context
	logger *logrus.Entry
}

func (c logContext) Value(key any) any {
	if t := reflect.TypeOf(key); t.Name() == "loggerKey" && t.PkgPath() == "github.com/distribution/distribution/v3/internal/dcontext" {
		return c.logger
	}
	return c.Context.Value(key)
}

// bridgeLog returns a logger whose lines go to log.
func bridgeLog(ctx context.Context, log *slog.Logger) *logrus.Entry {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	logger.SetLevel(logrus.ErrorLevel)
	if log.Enabled(ctx, slog.LevelDebug) {
		logger.SetLevel(logrus.InfoLevel)
	}
	logger.AddHook(logHook{log})
	return logrus.NewEntry(logger)
}

type logHook struct{ log *slog.Logger }

func (h logHook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire passes a line on. What the library calls an error is mostly an answer
// that a client expects, such as that a layer is not there yet; only errors
// that it has no code for are somebody's problem.
func (h logHook) Fire(e *logrus.Entry) error {
	args := []any{"says", e.Message}
	// Not the address: its query holds what authorizes an upload to go on.
	for _, key := range []string{"http.request.method", "err.message", "err.detail"} {
		if v, ok := e.Data[key]; ok {
			args = append(args, key, v)
		}
	}
	if e.Data["err.code"] == errcode.ErrorCodeUnknown {
		h.log.Error("the registry failed", args...)
		return nil
	}
	h.log.Debug("registry", args...)
	return nil
}
