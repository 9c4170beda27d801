package session

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// browserHost returns the host that a browser on https://here.example goes to
// for a Location, read as the URL standard has browsers read it: without tabs
// and line breaks, with "\" for "/".
func browserHost(location string) string {
	clean := strings.NewReplacer("\t", "", "\n", "", "\r", "", "\\", "/").Replace(strings.Trim(location, "\x00\x01\x02\x03\x04\x05\x06\x07\x08\t\n\v\f\r\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f "))
	if rest, ok := strings.CutPrefix(clean, "//"); ok {
		return "elsewhere: " + rest
	}
	if !strings.HasPrefix(clean, "/") {
		if u, err := url.Parse(clean); err != nil || u.Scheme != "" {
			return "elsewhere: " + clean
		}
	}
	return "here.example"
}

func FuzzReturnTo(f *testing.F) {
	for _, seed := range []string{
		"", "/", "/ui/", "/ui?a=b#c", "//evil.example", "/\\evil.example", "\\\\evil.example", "https://evil.example", "/\t/evil.example",
		"/\n/evil.example", "javascript:alert(1)", "/%2f/evil.example", "/..//evil.example", "/.//evil.example", "///evil.example", "/a\r\nSet-Cookie: x=y", " //evil.example",
	} {
		f.Add(seed)
	}
	s := New(Options{Secrets: func() ([][]byte, error) { return [][]byte{make([]byte, 32)}, nil }})
	f.Fuzz(func(t *testing.T, asked string) {
		r := httptest.NewRequest(http.MethodGet, "https://here.example/auth/login", nil)
		w := httptest.NewRecorder()
		redirect(w, s.returnTo(r, asked))
		got := w.Header().Get("Location")
		if host := browserHost(got); host != "here.example" {
			t.Errorf("%q leads to %s", asked, host)
		}
		if strings.ContainsAny(got, "\r\n\t \\") {
			t.Errorf("%q becomes the header %q", asked, got)
		}
	})
}

func FuzzCookies(f *testing.F) {
	s := New(Options{
		Issuers: func() []Issuer { return nil },
		Secrets: func() ([][]byte, error) { return [][]byte{make([]byte, 32)}, nil },
	})
	good, err := s.sealer.seal(sessionCookie, session{Issuer: "corp", Token: pack("e30.e30.e30"), Expiry: 1 << 40, Began: 1 << 40})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("graphene=" + good)
	f.Add("graphene=" + good[:len(good)-1])
	f.Add("a=b; graphene=x; graphene.1=y;; __Host-graphene = z ;graphene-login=\"q\"")
	f.Add("=; ;=graphene;graphene")
	f.Fuzz(func(t *testing.T, cookies string) {
		r := httptest.NewRequest(http.MethodGet, "http://here.example/function/f", nil)
		r.Header["Cookie"] = []string{cookies}
		s.Wrap(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			for _, line := range r.Header["Cookie"] {
				// As whoever is behind may read it.
				for part := range strings.SplitSeq(line, ";") {
					name, _, _ := strings.Cut(strings.TrimSpace(part), "=")
					if name == "graphene" || name == "__Host-graphene" || name == "graphene-login" || strings.HasPrefix(name, "graphene.") {
						t.Errorf("%q goes on as %q", cookies, line)
					}
				}
			}
			token, err := s.Token(r)
			if err == nil && token != "e30.e30.e30" { // which is what the seeds were made of
				t.Errorf("%q is a session: %q", cookies, token)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	})
}

func FuzzPack(f *testing.F) {
	for _, seed := range []string{"", "a.b.c", "e30.e30.e30", "eyJhIjoi_-8ifQ.e30.AA", "..", "refresh-1", "e30.e30.AB"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if !isText(token) {
			t.Skip()
		}
		text, err := pack(token).MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var back packed
		if err := back.UnmarshalJSON(text); err != nil || back.String() != token {
			t.Errorf("%q comes back as %q, %v", token, back.String(), err)
		}
	})
}

// isText reports whether a token is one that an issuer can give in JSON.
func isText(s string) bool { return strings.ToValidUTF8(s, "") == s }
