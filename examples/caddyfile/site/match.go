package site

import (
	"context"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy"
)

// A Match selects requests. All fields that are set must match. The zero value
// matches all requests.
type Match struct {
	// Paths match the decoded path, ignoring case, after dot segments and
	// double slashes are resolved. A star at the end (/api/*), at the start
	// (*.php) or at both matches any text. Elsewhere it matches within a
	// segment. One of the paths must match.
	Paths []string

	Hosts   []string // one must match; "*" matches one label
	Methods []string // one must match

	// Header has header values. For each header, one value must match; a star
	// at either end matches any text. No values mean that the header must be
	// missing.
	Header   http.Header
	HeaderRE []HeaderRE // all must match
	PathRE   *RE        // matches the decoded path

	// Query has parameter values. For each parameter, one value must match; "*"
	// matches any. An empty map that is not nil means that there must be no
	// query.
	Query url.Values

	RemoteIPs []netip.Prefix // remote address of the connection
	ClientIPs []netip.Prefix // client address; see hostproxy.ClientAddr
	Protocol  string         // "http", "https" or "grpc"
	Statuses  []int          // status of the failure that an Errors handles
	Not       []*Match       // none must match
}

// An RE is a regular expression. Its groups become the placeholders {re.name.1}
// and so on.
type RE struct {
	Name string // "" allows {re.1} only
	Expr *regexp.Regexp
}

// A HeaderRE is a regular expression for the values of a header.
type HeaderRE struct {
	Field string
	RE    RE
}

// state is what handlers of a site pass on to the handlers behind them.
type state struct {
	root     string
	original *url.URL // before the first rewrite; nil if there was none
	groups   map[string]string
	errors   *Errors       // handles failures; nil if nothing does
	asked    *http.Request // as the client sent it, for errors
	status   int           // of the failure being handled; 0 if there is none
}

type stateKey struct{}

// stateOf returns the state of a request. It must not be changed.
func stateOf(q *http.Request) *state {
	if s, ok := q.Context().Value(stateKey{}).(*state); ok {
		return s
	}
	return &state{}
}

// with returns a copy of q with a changed state.
func with(q *http.Request, change func(*state)) *http.Request {
	s := *stateOf(q)
	change(&s)
	return q.WithContext(context.WithValue(q.Context(), stateKey{}, &s))
}

// match returns q, or a copy with the groups of its regular expressions. It
// returns nil if q does not match.
func (m *Match) match(q *http.Request) *http.Request {
	groups := map[string]string{}
	if !m.all(q, groups) {
		return nil
	}
	if len(groups) == 0 {
		return q
	}
	return with(q, func(s *state) {
		for k, v := range s.groups {
			if _, ok := groups[k]; !ok {
				groups[k] = v
			}
		}
		s.groups = groups
	})
}

// all reports whether all fields match.
func (m *Match) all(q *http.Request, groups map[string]string) bool {
	return (m.Paths == nil || slices.ContainsFunc(m.Paths, func(p string) bool { return pathMatches(p, q.URL.Path) })) &&
		(m.Hosts == nil || slices.ContainsFunc(m.Hosts, func(h string) bool { return hostMatches(h, hostname(q)) })) &&
		(m.Methods == nil || slices.Contains(m.Methods, q.Method)) &&
		headersMatch(m.Header, q) && headersMatchRE(m.HeaderRE, q, groups) &&
		(m.PathRE == nil || m.PathRE.match(cleanPath(q.URL.Path, true), groups)) &&
		queryMatches(m.Query, q.URL.RawQuery) &&
		(m.RemoteIPs == nil || contains(m.RemoteIPs, remoteAddr(q))) &&
		(m.ClientIPs == nil || contains(m.ClientIPs, hostproxy.ClientAddr(q))) &&
		(m.Protocol == "" || m.Protocol == protocol(q)) &&
		(m.Statuses == nil || slices.Contains(m.Statuses, stateOf(q).status)) &&
		!slices.ContainsFunc(m.Not, func(n *Match) bool { return n.all(q, map[string]string{}) })
}

// pathMatches matches one path of Match.Paths.
func pathMatches(pattern, p string) bool {
	pattern = strings.ToLower(pattern)
	p = strings.ToLower(cleanPath(p, !strings.Contains(pattern, "//")))
	inner := strings.Trim(pattern, "*")
	switch stars := strings.Count(pattern, "*"); {
	case pattern == "*":
		return true
	case stars == 2 && pattern[0] == '*' && pattern[len(pattern)-1] == '*':
		return strings.Contains(p, inner)
	case stars == 1 && pattern[0] == '*':
		return strings.HasSuffix(p, inner)
	case stars == 1 && pattern[len(pattern)-1] == '*':
		return strings.HasPrefix(p, inner)
	}
	ok, err := path.Match(pattern, p)
	return ok && err == nil
}

// cleanPath resolves dot segments and, if merge is set, double slashes. A slash
// at the end stays. The result begins with a slash, even for GET http://host,
// which has no path, and for OPTIONS *: otherwise /* would not match these.
func cleanPath(p string, merge bool) string {
	if !strings.HasPrefix(p, "/") {
		p = "/" + p
	}
	if !merge { // separates the empty segments by a character that no path has
		return strings.ReplaceAll(cleanPath(strings.ReplaceAll(p, "//", "/\x00/"), true), "\x00", "")
	}
	clean := path.Clean(p)
	if clean != "/" && strings.HasSuffix(p, "/") {
		clean += "/"
	}
	return clean
}

// hostMatches compares label by label. A dot at the end does not matter, as in
// the routes of a Router.
func hostMatches(pattern, host string) bool {
	pattern, host = strings.TrimSuffix(pattern, "."), strings.TrimSuffix(host, ".")
	if !strings.Contains(pattern, "*") {
		return strings.EqualFold(pattern, host)
	}
	want, have := strings.Split(pattern, "."), strings.Split(host, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if want[i] != "*" && !strings.EqualFold(want[i], have[i]) {
			return false
		}
	}
	return true
}

func headersMatch(want http.Header, q *http.Request) bool {
	for field, values := range want {
		have := headerValues(q, field)
		if len(values) == 0 {
			if have != nil {
				return false
			}
			continue
		}
		if !slices.ContainsFunc(have, func(v string) bool {
			return slices.ContainsFunc(values, func(pattern string) bool { return valueMatches(Expand(pattern, q), v) })
		}) {
			return false
		}
	}
	return true
}

// valueMatches matches a value against a pattern that may have a star at either
// end.
func valueMatches(pattern, v string) bool {
	head, tail := strings.HasPrefix(pattern, "*"), strings.HasSuffix(pattern, "*")
	switch {
	case pattern == "*":
		return true
	case head && tail:
		return strings.Contains(v, pattern[1:len(pattern)-1])
	case head:
		return strings.HasSuffix(v, pattern[1:])
	case tail:
		return strings.HasPrefix(v, pattern[:len(pattern)-1])
	}
	return v == pattern
}

// headerValues returns the values of a header, including Host.
func headerValues(q *http.Request, field string) []string {
	if strings.EqualFold(field, "Host") {
		return []string{q.Host}
	}
	return q.Header.Values(field)
}

func headersMatchRE(want []HeaderRE, q *http.Request, groups map[string]string) bool {
	for _, h := range want {
		if !slices.ContainsFunc(headerValues(q, h.Field), func(v string) bool { return h.RE.match(v, groups) }) {
			return false
		}
	}
	return true
}

// match adds the groups by number and by name.
func (r *RE) match(s string, groups map[string]string) bool {
	found := r.Expr.FindStringSubmatch(s)
	if found == nil {
		return false
	}
	for i, name := range r.Expr.SubexpNames() {
		for _, key := range []string{itoa(i), name} {
			if key == "" {
				continue
			}
			groups[key] = found[i]
			if r.Name != "" {
				groups[r.Name+"."+key] = found[i]
			}
		}
	}
	return true
}

func queryMatches(want url.Values, raw string) bool {
	if want == nil {
		return true
	}
	have, err := url.ParseQuery(raw)
	if err != nil {
		return false
	}
	if len(want) == 0 {
		return len(have) == 0
	}
	for name, values := range want {
		if !have.Has(name) || !slices.ContainsFunc(values, func(v string) bool { return v == "*" || slices.Contains(have[name], v) }) {
			return false
		}
	}
	return true
}

func contains(in []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(in, func(p netip.Prefix) bool { return p.Contains(a) })
}

// remoteAddr returns the remote address of the connection.
func remoteAddr(q *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(q.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

func protocol(q *http.Request) string {
	if strings.HasPrefix(q.Header.Get("Content-Type"), "application/grpc") {
		return "grpc"
	}
	return scheme(q)
}
