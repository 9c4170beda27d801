package gateway

import (
	"net"
	"testing"
	"time"
)

func TestAConnectionToTheProviderIsTriedAgainWhereNobodyListens(t *testing.T) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := first.Addr().String()
	first.Close()
	dialled := make(chan error, 1)
	go func() {
		conn, err := redial(&net.Dialer{})(t.Context(), "tcp", address)
		if err == nil {
			conn.Close()
		}
		dialled <- err
	}()
	time.Sleep(2 * refusedPause)
	second, err := net.Listen("tcp", address)
	if err != nil {
		t.Skipf("SKIPPED: another program has taken the port meanwhile: %v", err)
	}
	defer second.Close()
	if err := <-dialled; err != nil {
		t.Error(err)
	}
}
