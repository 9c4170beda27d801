package conf

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/graphene-faas/graphene/internal/fault"
)

// A Program is a server that its environment configures. Its arguments only
// ask what it is.
type Program struct {
	Name    string
	Version string
	Commit  string // "" if it is not known
}

// Main runs serve, or answers -help with the settings of T and -version with
// those of p. It returns the exit status: 0, 1 if serve failed, which it says
// on stderr, or 2 for arguments that do not exist.
func Main[T any](p Program, args []string, stdout, stderr io.Writer, serve func() error) int {
	flags := flag.NewFlagSet(p.Name, flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintf(stderr, "%s takes its settings from the environment:\n", p.Name)
		for _, f := range Fields[T]() {
			fmt.Fprintf(stderr, "  %-26s %s (default %q)\n", f.Env, f.Doc, f.Default)
		}
	}
	version := flags.Bool("version", false, "print the version and exit")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	if *version {
		fmt.Fprintln(stdout, p.Name, p.Version, cmp.Or(p.Commit, "unknown"))
		return 0
	}
	if err := serve(); err != nil {
		fmt.Fprintf(stderr, "%s: %v\n", p.Name, err)
		return 1
	}
	return 0
}

// Log is the part of a configuration that says what is logged; it is embedded.
type Log struct {
	Debug     bool       `env:"debug" envDefault:"false" doc:"log more: the same as log_level=debug"`
	LogLevel  slog.Level `env:"log_level" envDefault:"info" doc:"debug, info, warn or error"`
	LogFormat string     `env:"log_format" envDefault:"json" doc:"json or text"`
}

// Logger returns a logger to w as l asks for it, or fault.Invalid.
func (l Log) Logger(w io.Writer) (*slog.Logger, error) {
	options := &slog.HandlerOptions{Level: l.LogLevel}
	if l.Debug {
		options.Level = slog.LevelDebug
	}
	switch l.LogFormat {
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	}
	return nil, fault.Invalid.Errorf("log_format is %q, want json or text", l.LogFormat)
}
