package web

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/graphene-faas/graphene/internal/fault"
)

// Headers by which a proxy says what it was asked.
const (
	HeaderForwardedFor    = "X-Forwarded-For"
	HeaderForwardedHost   = "X-Forwarded-Host"
	HeaderForwardedProto  = "X-Forwarded-Proto"
	HeaderForwardedPrefix = "X-Forwarded-Prefix"
	HeaderForwardedURI    = "X-Forwarded-Uri"
)

// forwarding is every header that only a proxy may send, in canonical form.
var forwarding = []string{
	"Forwarded", "X-Real-Ip", "X-Forwarded-Port", "X-Forwarded-Server", "X-Forwarded-Ssl", "X-Forwarded-Scheme",
	HeaderForwardedFor, HeaderForwardedHost, HeaderForwardedProto, HeaderForwardedPrefix, HeaderForwardedURI,
}

// Proxies says what stands between callers and a server.
type Proxies struct {
	// Trusted are the addresses of proxies whose word about the caller counts.
	// Whoever calls from elsewhere is the caller.
	Trusted []netip.Prefix
	// Vouched reports whether a request from elsewhere may say who called all
	// the same, as the platform's own parts do; nil vouches for none.
	Vouched func(*http.Request) bool
	// Prefix is the path below which the proxies show this server, such as
	// "/functions". Paths that begin with it lose it; others are taken as they
	// are, for those who call without a proxy. "" is none.
	Prefix string
}

// ParsePrefixes reads networks such as "10.0.0.0/8" and single addresses,
// separated by commas. Its errors are of kind fault.Invalid.
func ParsePrefixes(text string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for field := range strings.SplitSeq(text, ",") {
		if field = strings.TrimSpace(field); field == "" {
			continue
		}
		p, err := netip.ParsePrefix(field)
		if err != nil {
			single, bad := netip.ParseAddr(field)
			if bad != nil {
				return nil, fault.Invalid.Errorf("%q is neither a network, such as 10.0.0.0/8, nor an address", field)
			}
			p = netip.PrefixFrom(single, single.BitLen())
		}
		all = append(all, p.Masked())
	}
	return all, nil
}

// ParsePathPrefix checks what is to become [Proxies.Prefix], and takes a slash
// from its end. Its errors are of kind fault.Invalid.
func ParsePathPrefix(text string) (string, error) {
	prefix := strings.TrimRight(text, "/")
	if prefix == "" {
		return "", nil
	}
	if prefix[0] != '/' || strings.ContainsAny(prefix, "?#%\\;, \"<>") || strings.Contains(prefix, "//") || strings.Contains(prefix, "/.") {
		return "", fault.Invalid.Errorf("%q is no prefix of paths, want one such as /functions", text)
	}
	return prefix, nil
}

// Behind has next see each request as its caller made it: what proxies that
// are trusted say of it is taken over, and what others say is removed.
// RemoteAddr is the caller's address then, with a port only where that is
// known.
func (p Proxies) Behind(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case p.trusts(r.RemoteAddr):
			if hops, ok := r.Header[HeaderForwardedFor]; ok {
				r.RemoteAddr = p.caller(hops, r.RemoteAddr)
			}
		case p.Vouched == nil || !p.Vouched(r):
			for _, name := range forwarding {
				delete(r.Header, name)
			}
		}
		if p.Prefix != "" {
			p.strip(r)
		}
		next.ServeHTTP(w, r)
	})
}

// trusts reports whether address is that of a proxy. What is no network
// address is this machine's own.
func (p Proxies) trusts(address string) bool {
	peer, err := netip.ParseAddrPort(address)
	return err != nil || p.trustsAddr(peer.Addr())
}

func (p Proxies) trustsAddr(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(p.Trusted, func(t netip.Prefix) bool { return t.Contains(a) })
}

// caller returns who called the first of the proxies that are trusted: each
// adds whom it was called by at the end, and what stands before the first
// stranger is the stranger's word. Without a stranger it is who is named
// first. What is no address ends the search.
func (p Proxies) caller(hops []string, peer string) string {
	last := peer
	for _, line := range slices.Backward(hops) {
		for line != "" {
			var hop string
			if i := strings.LastIndexByte(line, ','); i >= 0 {
				line, hop = line[:i], line[i+1:]
			} else {
				line, hop = "", line
			}
			hop = strings.TrimSpace(hop)
			addr, ok := hopAddr(hop)
			if !ok {
				return last
			}
			if last = hop; !p.trustsAddr(addr) {
				return last
			}
		}
	}
	return last
}

// hopAddr reads an address as proxies write it: with or without a port.
func hopAddr(hop string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.Trim(hop, "[]")); err == nil {
		return a, true
	}
	ap, err := netip.ParseAddrPort(hop)
	return ap.Addr(), err == nil
}

// strip takes the prefix from the path of r, and notes it for those who have
// to name paths to the caller.
func (p Proxies) strip(r *http.Request) {
	rest, ok := strings.CutPrefix(r.URL.Path, p.Prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return
	}
	raw := ""
	if r.URL.RawPath != "" {
		// The prefix has nothing to escape; a path that escapes part of it is
		// not below it.
		if raw, ok = strings.CutPrefix(r.URL.RawPath, p.Prefix); !ok {
			return
		}
	}
	if rest == "" {
		rest, raw = "/", ""
	}
	r.URL.Path, r.URL.RawPath = rest, raw
	r.Header[HeaderForwardedPrefix] = []string{p.Prefix}
}

// ClientIP returns the address of who sent r, as [Proxies.Behind] found it; the
// zero Addr if it came over no network.
func ClientIP(r *http.Request) netip.Addr {
	a, _ := hopAddr(r.RemoteAddr)
	return a.Unmap().WithZone("")
}

// Scheme returns how the caller of r spoke, "https" or "http".
func Scheme(r *http.Request) string {
	switch proto := r.Header.Get(HeaderForwardedProto); {
	case proto == "https" || proto == "http":
		return proto
	case r.TLS != nil:
		return "https"
	}
	return "http"
}

// Prefix returns the path below which the caller of r sees this server; ""
// if that is its root.
func Prefix(r *http.Request) string {
	prefix, err := ParsePathPrefix(r.Header.Get(HeaderForwardedPrefix))
	if err != nil {
		return "" // a proxy's mistake must not become part of what we send
	}
	return prefix
}
