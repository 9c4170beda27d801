package local_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestAFunctionMayBeAProgramThatRunsForEachCall(t *testing.T) {
	for _, mode := range []string{"streaming", "serializing", "classic"} {
		t.Run(mode, func(t *testing.T) {
			f := start(t, options(t))
			spec := f.spec("echo")
			spec.EnvProcess = "cat"
			spec.EnvVars = map[string]string{"mode": mode}
			ref := f.deploy(spec)
			address := strings.TrimPrefix(f.until(ref, "ready replica", ready(1)).Replicas[0].Address, "unix:")
			transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", address)
			}}
			defer transport.CloseIdleConnections()
			res, err := (&http.Client{Transport: transport}).Post("http://function/", "text/plain", strings.NewReader("given\n"))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil || res.StatusCode != http.StatusOK || string(body) != "given\n" {
				t.Errorf("%d %q, %v", res.StatusCode, body, err)
			}
		})
	}
}
