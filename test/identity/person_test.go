package identity

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// A person reads pages and fills in forms, with a browser that keeps cookies
// and runs no scripts.
type person struct {
	t       *testing.T
	browser *http.Client
	at      *url.URL // where they are
	status  int
	header  http.Header
	text    string
	forms   []form
}

type form struct {
	method, action string
	fields         url.Values
}

func newPerson(t *testing.T) *person {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &person{t: t, browser: &http.Client{Jar: jar}}
}

// open goes to a page.
func (p *person) open(target string) *person {
	p.t.Helper()
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, target, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.send(r)
}

// send sends a request, follows where that leads, and looks at the page.
func (p *person) send(r *http.Request) *person {
	p.t.Helper()
	resp, err := p.browser.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	p.at, p.status, p.header, p.text, p.forms = resp.Request.URL, resp.StatusCode, resp.Header, string(body), nil
	page, err := html.Parse(strings.NewReader(p.text))
	if err != nil {
		p.t.Fatal(err)
	}
	p.read(page, nil)
	return p
}

// read finds the forms of a page.
func (p *person) read(n *html.Node, in *form) {
	attr := map[string]string{}
	for _, a := range n.Attr {
		attr[a.Key] = a.Val
	}
	switch {
	case n.Type != html.ElementNode:
	case n.Data == "form":
		p.forms = append(p.forms, form{method: strings.ToUpper(attr["method"]), action: attr["action"], fields: url.Values{}})
		in = &p.forms[len(p.forms)-1]
	case n.Data == "input" && in != nil && attr["name"] != "" && attr["type"] != "submit" && attr["type"] != "checkbox":
		in.fields.Set(attr["name"], attr["value"])
	}
	for c := range n.ChildNodes() {
		p.read(c, in)
	}
}

// submit fills in the first form that has all of these fields, and sends it.
func (p *person) submit(fields ...string) *person {
	p.t.Helper()
	for _, f := range p.forms {
		if fits := func() bool {
			for i := 0; i < len(fields); i += 2 {
				if _, ok := f.fields[fields[i]]; !ok && fields[i] != "action" && fields[i] != "accept" {
					return false
				}
			}
			return true
		}(); !fits {
			continue
		}
		for i := 0; i < len(fields); i += 2 {
			f.fields.Set(fields[i], fields[i+1])
		}
		target, err := p.at.Parse(f.action)
		if err != nil {
			p.t.Fatal(err)
		}
		body := io.Reader(strings.NewReader(f.fields.Encode()))
		if f.method != http.MethodPost {
			f.method, body, target.RawQuery = http.MethodGet, nil, f.fields.Encode()
		}
		r, err := http.NewRequestWithContext(p.t.Context(), f.method, target.String(), body)
		if err != nil {
			p.t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		return p.send(r)
	}
	p.t.Fatalf("no form at %s with %q: %d\n%s", p.at, fields, p.status, p.text)
	return p
}

// follow goes where a link with a text leads.
func (p *person) follow(text string) *person {
	p.t.Helper()
	page, err := html.Parse(strings.NewReader(p.text))
	if err != nil {
		p.t.Fatal(err)
	}
	for n := range page.Descendants() {
		if n.Type != html.ElementNode || n.Data != "a" || !strings.Contains(words(n), text) {
			continue
		}
		for _, a := range n.Attr {
			if a.Key == "href" {
				target, err := p.at.Parse(a.Val)
				if err != nil {
					p.t.Fatal(err)
				}
				return p.open(target.String())
			}
		}
	}
	p.t.Fatalf("no link %q at %s:\n%s", text, p.at, p.text)
	return p
}

// words returns the text in a part of a page.
func words(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// sees fails the test unless the page has a text and a status.
func (p *person) sees(status int, text string) *person {
	p.t.Helper()
	if p.status != status || !strings.Contains(p.text, text) {
		p.t.Fatalf("at %s: %d, want %d and a page with %q:\n%s", p.at, p.status, status, text, p.text)
	}
	return p
}

// String says where the person is.
func (p *person) String() string { return fmt.Sprintf("%d %s", p.status, p.at) }
