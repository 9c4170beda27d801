//go:build !linux

package watchdog

import (
	"errors"
	"net"
)

const peerCredentials = false

func peerUID(*net.UnixConn) (int, error) { return -1, errors.ErrUnsupported }
