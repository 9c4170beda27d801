package openid

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Page is what people see on their way to or from an issuer: a few words,
// perhaps with something to press. It needs nothing from elsewhere.
type Page struct {
	Title  string
	Done   bool // it tells that something is done,
	Failed bool // or of a failure
	Text   []string
	Links  []PageLink
	Button *PageLink // sends a POST
}

// A PageLink leads somewhere.
type PageLink struct{ Text, URL string }

var (
	//go:embed page.html
	pageText string
	//go:embed page.css
	pageStyle string

	pageTemplate = template.Must(template.New("page").Parse(pageText))
	pagePolicy   = func() string {
		sum := sha256.Sum256([]byte(pageStyle))
		return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; frame-ancestors 'none'"
	}()
)

// sentence makes an error's text one.
func sentence(text string) string {
	first, size := utf8.DecodeRuneInString(text)
	text = string(unicode.ToUpper(first)) + text[size:]
	if !strings.HasSuffix(text, ".") && !strings.HasSuffix(text, "?") {
		text += "."
	}
	return text
}

// Write answers with the page. Nobody keeps it, and no other page may show it.
func (p Page) Write(w http.ResponseWriter, status int) {
	var text bytes.Buffer
	said := p.Text
	p.Text = nil
	for _, t := range said {
		p.Text = append(p.Text, sentence(t))
	}
	err := pageTemplate.Execute(&text, struct {
		Page
		Style template.CSS
	}{p, template.CSS(pageStyle)})
	if err != nil {
		http.Error(w, p.Title, status) // unreachable: the template is ours
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", pagePolicy)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "same-origin") // without any, browsers would not say where a form comes from
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes()) // who went away needs no page
}
