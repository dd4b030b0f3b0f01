package status

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/hostname"
)

// An Arrival says how a request arrived.
type Arrival struct {
	Authenticated bool // the client has presented valid credentials
	Listed        bool // the client's address is on a list of allowed addresses
	ListedPeer    bool // the list has the peer, at a loopback address, which may be a proxy
	Named         bool // the route's pattern names the host
}

// Restrict returns a handler that passes requests to next only if they cannot
// come from strangers. It answers others with 403, the rule, and how to keep
// it. It passes the requests of
//
//   - clients that are Authenticated, or have a verified TLS certificate
//   - clients that are Listed, or a ListedPeer without another proxy in
//     between, for a host that is Named or not a public name
//   - clients on this machine, without another proxy in between, for a host
//     that is not a public name
//   - the program itself, without a server
//
// So a page on the Internet cannot read the status page through a browser on
// this machine or in this network: that requires the page's own name to lead
// here (DNS rebinding), which is a public one.
func Restrict(next http.Handler, arrival func(*http.Request) Arrival) http.Handler {
	return &restricted{next, arrival}
}

type restricted struct {
	next    http.Handler
	arrival func(*http.Request) Arrival
}

// ServeHTTP implements http.Handler.
func (r *restricted) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	why := refusal(q, r.arrival(q))
	if why == "" {
		r.next.ServeHTTP(w, q)
		return
	}
	secure(w.Header(), "default-src 'none'; frame-ancestors 'none'")
	http.Error(w, why, http.StatusForbidden)
}

// refusal returns why q is refused, or "".
func refusal(q *http.Request, a Arrival) string {
	a.Listed = a.Listed || a.ListedPeer && forwarded(q) == ""
	switch {
	case a.Authenticated, q.TLS != nil && len(q.TLS.VerifiedChains) > 0, isOwn(q):
		return ""
	case !a.Listed && a.ListedPeer:
		return fmt.Sprintf("403 Forbidden: the request has the header %s: a proxy on this machine has forwarded it,\n"+
			"and Guard.Allow lists the proxy, not its client.\n\n"+
			"To let Guard.Allow decide about the clients of that proxy, put its address into Router.TrustedProxies. To serve\n"+
			"all of them, put a hostproxy.BasicAuth or a ForwardAuth in front of hostproxy.StatusHandler.", forwarded(q))
	case !a.Listed && !isLocal(q):
		return "403 Forbidden: the status page is served to clients on this machine only.\n\n" +
			"To open it to others, put a hostproxy.BasicAuth, a ForwardAuth, or a Guard with Allow\n" +
			"in front of hostproxy.StatusHandler."
	case !a.Listed && forwarded(q) != "":
		return fmt.Sprintf("403 Forbidden: the request has the header %s: a proxy on this machine has forwarded it.\n\n"+
			"To open the status page to the clients of that proxy, put a hostproxy.BasicAuth, a ForwardAuth, or a\n"+
			"Guard with Allow in front of hostproxy.StatusHandler.", forwarded(q))
	case !(a.Listed && a.Named) && isPublicName(q.Host):
		return fmt.Sprintf("403 Forbidden: the host %s is a public name, which may lead a browser here from any page (DNS rebinding).\n\n"+
			"Ask for localhost, an IP address, or a name without a dot. To serve the status page for this name, put\n"+
			"a hostproxy.BasicAuth or a ForwardAuth in front of hostproxy.StatusHandler, or a Guard with Allow in a route for the name.",
			quoted(q.Host))
	}
	return ""
}

// isOwn reports whether the program itself made q: it comes from no server and
// has no client.
func isOwn(q *http.Request) bool {
	if q.Context().Value(http.LocalAddrContextKey) != nil {
		return false
	}
	// the address of httptest, which no client has (RFC 5737)
	return q.RemoteAddr == "" || strings.HasPrefix(q.RemoteAddr, "192.0.2.")
}

// isLocal reports whether the client is on this machine: it has a loopback
// address, or is connected by a unix socket.
func isLocal(q *http.Request) bool {
	if q.RemoteAddr == "" {
		_, unix := q.Context().Value(http.LocalAddrContextKey).(*net.UnixAddr)
		return unix
	}
	p := header.ParsePeer(q.RemoteAddr)
	return p.Unix || p.Addr.IsLoopback()
}

// forwarded returns the name of a header in q that only a proxy sends, or "".
func forwarded(q *http.Request) string {
	for _, name := range [...]string{"X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via", "Cf-Connecting-Ip", "True-Client-Ip", "X-Client-Ip",
		"X-Cluster-Client-Ip", "Fastly-Client-Ip", "Fly-Client-Ip", "Cdn-Loop"} {
		if len(q.Header[name]) > 0 {
			return name
		}
	}
	first := "" // of those that are there, so that the answer is always the same
	for name := range q.Header {
		if strings.HasPrefix(name, "X-Forwarded-") && (first == "" || name < first) {
			first = name
		}
	}
	return cut(first)
}

// isPublicName reports whether the host of a request may be a name that
// somebody owns on the Internet. Names without a dot, internal names, IP
// addresses and the empty host are not.
func isPublicName(hostport string) bool {
	if hostport == "" {
		return false
	}
	host, _, err := hostname.Split(hostport)
	if err != nil {
		return true
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	return strings.Contains(host, ".") && !hostname.IsInternal(host)
}

// quoted quotes a name from a client, and limits its length.
func quoted(s string) string { return fmt.Sprintf("%q", cut(s)) }
