package invoke

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheFunctionSeesThePathAfterItsName(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want target
	}{
		{"/function/echo", target{name: "echo", path: "/"}},
		{"/function/echo/", target{name: "echo", path: "/"}},
		{"/function/echo.ns/a/b", target{name: "echo.ns", path: "/a/b"}},
		{"/function/echo//a///b/", target{name: "echo", path: "//a///b/"}},
		{"/function/echo/../../system", target{name: "echo", path: "/../../system"}},
		{"/function/echo/a%2Fb", target{name: "echo", path: "/a/b", rawPath: "/a%2Fb"}},
		{"/function/echo/a%20b", target{name: "echo", path: "/a b"}},
		{"/function/echo/%41", target{name: "echo", path: "/A", rawPath: "/%41"}},
		{"/function/%65cho/x%2f", target{name: "echo", path: "/x/", rawPath: "/x%2f"}},
		{"/function/echo%2Fx/y", target{name: "echo/x", path: "/y", rawPath: "/y"}},
	} {
		u, err := url.ParseRequestURI(tt.in)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := split(u)
		if !ok {
			t.Errorf("split(%q) says that it is no function's", tt.in)
		}
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(target{})); diff != "" {
			t.Errorf("split(%q) (-want +got)\n%s", tt.in, diff)
		}
	}
	for _, in := range []string{"/", "/function", "/function/", "/function//x", "/functions/echo", "/%66unction/echo%2F"} {
		u, err := url.ParseRequestURI(in)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := split(u); ok {
			t.Errorf("split(%q) = %+v, want none", in, got)
		}
	}
}

func FuzzSplitLosesNothingOfThePath(f *testing.F) {
	for _, s := range []string{"/function/echo", "/function/echo//%2F/..;a=b", "/function/%65.ns/\xff", "/function/a%2Fb/c%20d", "/function/a b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		u, err := url.ParseRequestURI(in)
		if err != nil || !strings.HasPrefix(in, "/") {
			return
		}
		got, ok := split(u)
		if !ok {
			return
		}
		if got.path == "" || got.path[0] != '/' {
			t.Errorf("split(%q).path = %q, which does not begin with a slash", in, got.path)
		}
		// What the function gets is what followed the name, byte for byte.
		sent := (&url.URL{Path: got.path, RawPath: got.rawPath}).EscapedPath()
		asked := u.EscapedPath()
		if sent != "/" && !strings.HasSuffix(asked, sent) {
			t.Errorf("split(%q) sends %q, which is not how %q ends", in, sent, asked)
		}
	})
}
