package auth

import (
	"encoding/base64"
	"net/http"
)

// A Transport proves to the other parts of the platform who sends its
// requests, by user name and password.
type Transport struct {
	// Header takes the proof: Authorization, or Proxy-Authorization where the
	// request already carries its own caller's Authorization for somebody
	// further on.
	Header         string
	User, Password string
	Next           http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	out := *r // a transport must leave the request alone
	if out.Header = r.Header.Clone(); out.Header == nil {
		out.Header = http.Header{}
	}
	out.Header.Set(t.Header, "Basic "+base64.StdEncoding.EncodeToString([]byte(t.User+":"+t.Password)))
	return t.Next.RoundTrip(&out)
}
