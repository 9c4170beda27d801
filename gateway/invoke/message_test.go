package invoke

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/fault"
)

func TestAMessageIsReadBackAsTheSameRequest(t *testing.T) {
	req := &http.Request{
		Method: "POST",
		URL:    &url.URL{Path: "/a/b c", RawPath: "/a%2Fb%20c", RawQuery: "x=1;2&y"},
		Host:   "example.com:8080",
		Header: http.Header{
			"Accept":         {"a", "b"},
			"X-Empty":        {""},
			"User-Agent":     {""},
			"Content-Length": {"999"},
			"Host":           {"other"},
		},
		Body:          io.NopCloser(strings.NewReader("hello")),
		ContentLength: 5,
	}
	m, err := newMessage(nil, req)
	if err != nil {
		t.Fatal(err)
	}
	rest := bufio.NewReader(bytes.NewReader(m.start))
	got, err := http.ReadRequest(rest)
	if err != nil {
		t.Fatalf("%v in %q", err, m.start)
	}
	body, err := io.ReadAll(got.Body)
	if err != nil || string(body) != "hello" {
		t.Errorf("body = %q, %v", body, err)
	}
	if got.RequestURI != "/a%2Fb%20c?x=1;2&y" || got.Host != "example.com:8080" {
		t.Errorf("uri = %q, host = %q", got.RequestURI, got.Host)
	}
	want := http.Header{"Accept": {"a", "b"}, "X-Empty": {""}, "Content-Length": {"5"}}
	if diff := cmp.Diff(want, got.Header); diff != "" {
		t.Errorf("headers (-want +got)\n%s", diff)
	}
}

func FuzzAMessageIsOneRequestOrNone(f *testing.F) {
	f.Add("GET", "/a", "b=c", "example.com", "X-Name", "value")
	f.Add("GET", "/a", "b c\r\nX: y", "example.com", "X-Name", "value")
	f.Add("GE T", "/", "", "a b", "X Name", "value")
	f.Add("POST", "/%", "", "h", "X-Name", "v\r\n\r\nGET / HTTP/1.1\r\n")
	f.Add("POST", "", "", "", "Transfer-Encoding", "chunked")
	f.Fuzz(func(t *testing.T, method, path, query, host, name, value string) {
		req := &http.Request{
			Method: method,
			URL:    &url.URL{Path: path, RawQuery: query},
			Host:   host,
			Header: http.Header{name: {value}},
		}
		m, err := newMessage(nil, req)
		if err != nil {
			if !errors.Is(err, fault.Invalid) {
				t.Errorf("err = %v, want fault.Invalid", err)
			}
			return
		}
		rest := bufio.NewReader(bytes.NewReader(m.start))
		got, err := http.ReadRequest(rest)
		if err != nil {
			return // a reader stricter than we are; nothing was smuggled
		}
		if n := rest.Buffered(); n > 0 {
			t.Errorf("%d bytes follow the request in %q", n, m.start)
		}
		if got.Method != method || len(got.Header) > 2 || got.URL.RawQuery != query {
			t.Errorf("%q is read as %q with headers %v and query %q", m.start, got.Method, got.Header, got.URL.RawQuery)
		}
	})
}
