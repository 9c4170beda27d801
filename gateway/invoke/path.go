package invoke

import (
	"net/url"
	"strings"
)

// prefix begins the paths of functions.
const prefix = "/function/"

// A target is what the path of a request says: which function, and the path
// that the function sees.
type target struct {
	name    string // NAME or NAME.NAMESPACE, unchecked
	path    string // as in url.URL: decoded, beginning with "/"
	rawPath string // as in url.URL: as it was sent, or "" if that is the default encoding of path
}

// split reads the path of a request to a function. Nothing in what follows the
// name is changed: neither "//" nor "..", nor how it is encoded. It reports
// false if u is not the address of a function.
func split(u *url.URL) (target, bool) {
	name, path, ok := cut(u.Path)
	if u.RawPath == "" {
		return target{name: name, path: path}, ok
	}
	// Only the encoded form tells a "/" that ends the name from one that is
	// part of a segment.
	rawName, rawPath, ok := cut(u.EscapedPath())
	if !ok {
		return target{}, false
	}
	name, err := url.PathUnescape(rawName)
	if err != nil {
		return target{}, false
	}
	if path, err = url.PathUnescape(rawPath); err != nil {
		return target{}, false
	}
	return target{name: name, path: path, rawPath: rawPath}, true
}

func cut(path string) (name, rest string, ok bool) {
	s, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return "", "", false
	}
	i := strings.IndexByte(s, '/')
	if i < 0 {
		return s, "/", s != ""
	}
	return s[:i], s[i:], i > 0
}
