package async

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/graphene-faas/graphene/internal/fault"
)

// Login says how a program proves to NATS who it is, and how it knows NATS. It
// is for embedding into a program's configuration. Secrets are files, and are
// read for each connection, so that they can change.
type Login struct {
	NatsUser     string `env:"nats_user" doc:"user name for NATS"`
	NatsPassword string `env:"nats_password_file" doc:"file with the password of nats_user"`
	NatsToken    string `env:"nats_token_file" doc:"file with a token for NATS"`
	NatsCreds    string `env:"nats_creds_file" doc:"credentials file for NATS: a user's JWT and seed"`
	NatsCA       string `env:"nats_ca_file" doc:"file with the certificates that NATS is trusted by, besides the system's; connections then use TLS"`
}

// options returns what l means to a connection.
func (l Login) options() ([]nats.Option, error) {
	ways := 0
	for _, way := range []string{l.NatsUser, l.NatsToken, l.NatsCreds} {
		if way != "" {
			ways++
		}
	}
	switch {
	case ways > 1:
		return nil, fault.Invalid.Errorf("give one of nats_user, nats_token_file and nats_creds_file")
	case (l.NatsUser == "") != (l.NatsPassword == ""):
		return nil, fault.Invalid.Errorf("nats_user and nats_password_file go together")
	}
	for _, file := range []string{l.NatsPassword, l.NatsToken, l.NatsCreds, l.NatsCA} {
		if file == "" {
			continue
		}
		if _, err := os.Stat(file); err != nil {
			return nil, fault.Invalid.Errorf("log in to NATS: %w", err)
		}
	}
	var all []nats.Option
	if l.NatsUser != "" {
		all = append(all, nats.UserInfoHandler(func() (string, string) { return l.NatsUser, secret(l.NatsPassword) }))
	}
	if l.NatsToken != "" {
		all = append(all, nats.TokenHandler(func() string { return secret(l.NatsToken) }))
	}
	if l.NatsCreds != "" {
		all = append(all, nats.UserCredentials(l.NatsCreds))
	}
	if l.NatsCA != "" {
		all = append(all, nats.RootCAs(l.NatsCA))
	}
	return all, nil
}

// secret returns what a file holds, without the white space around it; nothing
// if it cannot be read, which NATS then refuses.
func secret(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(text))
}

// ConnectOptions say how to reach NATS.
type ConnectOptions struct {
	// URL is where NATS answers; several servers of one cluster are separated
	// by commas.
	URL   string
	Name  string // of the program, as NATS shows it
	Login Login
	// Reconnected is called each time a lost connection was made again; nil is
	// nobody.
	Reconnected func()
	Log         *slog.Logger // nil logs nothing
}

const (
	reconnectWait = 250 * time.Millisecond
	// complainEvery is how often the log says that NATS cannot be reached.
	complainEvery = 30 * time.Second
)

// Connect returns a connection that is made as soon as NATS answers, and made
// again whenever it was lost, until its owner closes it. It does not wait for
// NATS; its error is of options that cannot be right.
func Connect(o ConnectOptions) (*nats.Conn, error) {
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	options, err := o.Login.options()
	if err != nil {
		return nil, err
	}
	// NATS calls these one after the other.
	var complained time.Time
	unreachable := func(err error) {
		if now := time.Now(); now.Sub(complained) >= complainEvery {
			complained = now
			log.Warn("NATS cannot be reached; trying again", "url", redacted(o.URL), "err", err)
		}
	}
	reached := func(nc *nats.Conn) {
		complained = time.Time{}
		log.Info("connected to NATS", "server", nc.ConnectedServerName(), "url", nc.ConnectedUrlRedacted())
	}
	options = append(options,
		nats.Name(o.Name),
		nats.MaxReconnects(-1),
		nats.ReconnectWait(reconnectWait),
		nats.RetryOnFailedConnect(true),
		nats.IgnoreAuthErrorAbort(), // credentials may be put right while we wait
		nats.ConnectHandler(reached),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { unreachable(err) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("lost NATS", "err", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) {
			reached(nc)
			if o.Reconnected != nil {
				o.Reconnected()
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrPermissionViolation) {
				log.Error("NATS refuses", "err", err)
				return
			}
			log.Debug("NATS reports", "err", err)
		}),
	)
	nc, err := nats.Connect(o.URL, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS at %s: %w", redacted(o.URL), err)
	}
	return nc, nil
}

// redacted returns url without user names and passwords.
func redacted(url string) string {
	all := strings.Split(url, ",")
	for i, one := range all {
		scheme, rest, ok := strings.Cut(one, "://")
		if !ok {
			scheme, rest = "nats", one
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = rest[at+1:]
		}
		all[i] = scheme + "://" + rest
	}
	return strings.Join(all, ",")
}
