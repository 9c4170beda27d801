package watchdog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
)

// listen opens where calls come in. A socket file left by a process that was
// killed is replaced.
func listen(o *Options) (net.Listener, error) {
	l := o.Listener
	if l == nil {
		network, address, _ := strings.Cut(o.Listen, ":")
		if network == "unix" {
			if err := os.Remove(address); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("listen: %w", err)
			}
		}
		var err error
		if l, err = net.Listen(network, address); err != nil {
			return nil, err // says "listen" and the address already
		}
	}
	if o.PeerUID == nil {
		return patientListener{l}, nil
	}
	unix, ok := l.(*net.UnixListener)
	if !ok || !peerCredentials {
		l.Close()
		return nil, fmt.Errorf("listen_peer_uid=%d: the user at the other end of a connection is only known on Unix sockets, and on Linux", *o.PeerUID)
	}
	return patientListener{&guarded{unix, []int{*o.PeerUID, 0, os.Getuid()}, o.Log}}, nil
}

// guarded accepts connections of some users only.
type guarded struct {
	*net.UnixListener
	allowed []int
	log     *slog.Logger
}

func (g *guarded) Accept() (net.Conn, error) {
	for {
		conn, err := g.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && slices.Contains(g.allowed, uid) {
			return conn, nil
		}
		g.log.Warn("connection refused", "uid", uid, "err", err)
		conn.Close()
	}
}

// dial connects to where a watchdog with these options listens, whatever the
// address asked for.
func (o *Options) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	network, address, _ := strings.Cut(o.Listen, ":")
	return new(net.Dialer).DialContext(ctx, network, address)
}
