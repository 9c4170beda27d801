package watchdog

import (
	"net/http"
	"strconv"
	"strings"
)

// cgiEnvironment tells a process of its request: the header Content-Type
// becomes Http_Content_Type, and the request's line and framing have names
// that no header can take. Every name begins with Http_, so that a stranger
// cannot set PATH or LD_PRELOAD.
//
// Headers with an underscore or anything else but letters, digits and dashes
// in their names are left out, because X_User would be taken for X-User. So is
// Proxy, since many HTTP clients take Http_Proxy for their configuration.
func cgiEnvironment(r *http.Request) []string {
	env := make([]string, 0, len(r.Header)+8)
	add := func(name, value string) {
		// The end of a string, to a process. Only a path can contain it.
		env = append(env, "Http_"+name+"="+strings.ReplaceAll(value, "\x00", "%00"))
	}
	for header, values := range r.Header {
		name, ok := cgiName(header)
		if !ok || len(values) == 0 {
			continue
		}
		separator := ", "
		if header == "Cookie" {
			separator = "; "
		}
		add(name, strings.Join(values, separator))
	}
	add("Method", r.Method)
	if r.URL.RawQuery != "" {
		add("Query", r.URL.RawQuery)
	}
	if r.URL.Path != "" {
		add("Path", r.URL.Path)
	}
	add("Host", r.Host)
	if r.ContentLength >= 0 {
		length := strconv.FormatInt(r.ContentLength, 10)
		add("ContentLength", length)
		add("Content_Length", length)
	}
	if len(r.TransferEncoding) > 0 {
		add("Transfer_Encoding", strings.Join(r.TransferEncoding, ", "))
	}
	return env
}

// cgiName is the variable of a header, without the prefix; ok is false for
// headers that get none.
func cgiName(header string) (name string, ok bool) {
	for i := range len(header) {
		switch c := header[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-':
		default:
			return "", false
		}
	}
	switch strings.ToLower(header) {
	case "", "proxy",
		"method", "query", "path", "host", "contentlength", "content-length", "transfer-encoding":
		return "", false
	}
	return strings.ReplaceAll(header, "-", "_"), true
}
