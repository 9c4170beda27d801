package web_test

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/graphene-faas/graphene/internal/web"
)

// seen is what a handler learns of a request.
type seen struct {
	From, Scheme, Prefix, Path, For string
	IP                              string
}

func through(p web.Proxies, r *http.Request) (got seen) {
	p.Behind(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = seen{From: r.RemoteAddr, Scheme: web.Scheme(r), Prefix: web.Prefix(r), Path: r.URL.EscapedPath(), For: r.Header.Get("X-Forwarded-For")}
		if a := web.ClientIP(r); a.IsValid() {
			got.IP = a.String()
		}
	})).ServeHTTP(httptest.NewRecorder(), r)
	return got
}

func networks(t testing.TB, text string) []netip.Prefix {
	t.Helper()
	all, err := web.ParsePrefixes(text)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestOnlyTrustedProxiesSayWhoCalls(t *testing.T) {
	trusted := networks(t, "127.0.0.0/8, ::1,10.1.0.0/16")
	for _, c := range []struct {
		name   string
		from   string
		header http.Header
		want   seen
	}{
		{
			"a caller who comes directly is who it is",
			"192.0.2.7:4711", nil,
			seen{From: "192.0.2.7:4711", Scheme: "http", Path: "/x", IP: "192.0.2.7"},
		},
		{
			"a caller cannot pretend to be another",
			"192.0.2.7:4711", http.Header{"X-Forwarded-For": {"127.0.0.1"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Prefix": {"/evil"}, "Forwarded": {"for=1.1.1.1"}},
			seen{From: "192.0.2.7:4711", Scheme: "http", Path: "/x", IP: "192.0.2.7"},
		},
		{
			"a proxy says who called it, and how",
			"127.0.0.1:99", http.Header{"X-Forwarded-For": {"192.0.2.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Prefix": {"/functions"}},
			seen{From: "192.0.2.7", Scheme: "https", Prefix: "/functions", Path: "/x", For: "192.0.2.7", IP: "192.0.2.7"},
		},
		{
			"what a stranger told the proxy is not believed",
			"[::1]:99", http.Header{"X-Forwarded-For": {"127.0.0.1, 198.51.100.1, 192.0.2.7, 10.1.2.3"}},
			seen{From: "192.0.2.7", Scheme: "http", Path: "/x", For: "127.0.0.1, 198.51.100.1, 192.0.2.7, 10.1.2.3", IP: "192.0.2.7"},
		},
		{
			"several lines are one list",
			"127.0.0.1:99", http.Header{"X-Forwarded-For": {"198.51.100.1", "192.0.2.7:80, 10.1.2.3"}},
			seen{From: "192.0.2.7:80", Scheme: "http", Path: "/x", For: "198.51.100.1", IP: "192.0.2.7"},
		},
		{
			"a list of proxies alone names the first",
			"127.0.0.1:99", http.Header{"X-Forwarded-For": {"10.1.0.9, 10.1.2.3"}},
			seen{From: "10.1.0.9", Scheme: "http", Path: "/x", For: "10.1.0.9, 10.1.2.3", IP: "10.1.0.9"},
		},
		{
			"nonsense ends the list",
			"127.0.0.1:99", http.Header{"X-Forwarded-For": {"192.0.2.7, unknown, 10.1.2.3"}},
			seen{From: "10.1.2.3", Scheme: "http", Path: "/x", For: "192.0.2.7, unknown, 10.1.2.3", IP: "10.1.2.3"},
		},
		{
			"an address of the new kind",
			"127.0.0.1:99", http.Header{"X-Forwarded-For": {"[2001:db8::1]:443"}},
			seen{From: "[2001:db8::1]:443", Scheme: "http", Path: "/x", For: "[2001:db8::1]:443", IP: "2001:db8::1"},
		},
		{
			"a proxy's mistakes are not passed on",
			"127.0.0.1:99", http.Header{"X-Forwarded-Proto": {"javascript"}, "X-Forwarded-Prefix": {"//evil.example.com"}},
			seen{From: "127.0.0.1:99", Scheme: "http", Path: "/x", IP: "127.0.0.1"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/x", nil)
			r.RemoteAddr = c.from
			maps.Copy(r.Header, c.header)
			if diff := cmp.Diff(c.want, through(web.Proxies{Trusted: trusted}, r)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestThePlatformsOwnPartsMaySayWhoCalled(t *testing.T) {
	p := web.Proxies{Vouched: func(r *http.Request) bool { return r.Header.Get("Proof") == "yes" }}
	for proof, want := range map[string]string{"yes": "192.0.2.9:1", "no": ""} {
		r := httptest.NewRequest("GET", "/x", nil)
		r.RemoteAddr = "192.0.2.7:4711"
		r.Header = http.Header{"Proof": {proof}, "X-Forwarded-For": {"192.0.2.9:1"}}
		if got := through(p, r); got.For != want || got.From != "192.0.2.7:4711" {
			t.Errorf("with the proof %q it is %+v", proof, got)
		}
	}
}

func TestAPrefixIsTakenFromPathsThatHaveIt(t *testing.T) {
	p := web.Proxies{Prefix: "/functions"}
	for path, want := range map[string]seen{
		"/functions":             {Path: "/", Prefix: "/functions"},
		"/functions/":            {Path: "/", Prefix: "/functions"},
		"/functions/a%2Fb//c":    {Path: "/a%2Fb//c", Prefix: "/functions"},
		"/functionsx/a":          {Path: "/functionsx/a"},
		"/a/functions/b":         {Path: "/a/functions/b"},
		"/%66unctions/a%2Fb":     {Path: "/%66unctions/a%2Fb"},
		"/functions/functions/a": {Path: "/functions/a", Prefix: "/functions"},
	} {
		r := httptest.NewRequest("GET", path, nil)
		r.RemoteAddr = "192.0.2.7:4711"
		got := through(p, r)
		if got.Path != want.Path || got.Prefix != want.Prefix {
			t.Errorf("%s is seen as %s below %q, want %s below %q", path, got.Path, got.Prefix, want.Path, want.Prefix)
		}
	}
}

func TestWhatIsNoNetworkOrPrefixIsRefused(t *testing.T) {
	for _, bad := range []string{"10.0.0.0/33", "proxy.example.com", "10.0.0"} {
		if got, err := web.ParsePrefixes(bad); err == nil {
			t.Errorf("%q is read as %v", bad, got)
		}
	}
	for _, bad := range []string{"functions", "//evil", "/a/../b", "/a?b", "/%2e", "/a b", "/a\\b"} {
		if got, err := web.ParsePathPrefix(bad); err == nil {
			t.Errorf("%q is read as %q", bad, got)
		}
	}
}

func FuzzForwardedFor(f *testing.F) {
	f.Add("1.2.3.4, [::1]:80,,x")
	trusted := networks(f, "127.0.0.0/8")
	f.Fuzz(func(t *testing.T, list string) {
		r := httptest.NewRequest("GET", "/x", nil)
		r.RemoteAddr = "127.0.0.1:99"
		r.Header["X-Forwarded-For"] = []string{list}
		if got := through(web.Proxies{Trusted: trusted}, r); got.IP == "" {
			t.Errorf("%q leaves the caller without an address: %+v", list, got)
		}
	})
}
