package certs

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

// routing tells what is wanted of a name now, from the routes, the program's
// settings per host, and the certificates that the program provides. It has no
// state of its own.
type routing struct {
	options *Options
	choices *choices
	static  *statics
	issuers *issuers
	local   *localSigner // nil if the program has replaced it
}

// A want is what the routes want of a name.
type want struct {
	wanted  bool
	known   bool  // a route serves it, though none may name it
	refusal error // why it cannot have a certificate; nil if it can
	kind    kind

	left      bool // no route has exactly that pattern
	undecided bool // the program has not returned its TLS settings yet
}

// decide returns what the routes want of a name now.
func (r *routing) decide(name string) want {
	switch {
	case r.options.Wants(name):
	case r.passes(name):
		r.choices.inspect(name)
		return want{}
	default:
		return want{known: !isPattern(name) && r.options.Knows(name) && !r.passed(name), left: true}
	}
	if !r.choices.settled(name) {
		r.choices.ask(name, false)
		return want{wanted: true, undecided: true}
	}
	return r.wantOf(name)
}

// wantOf returns what a host pattern of a route wants.
func (r *routing) wantOf(name string) want {
	zone, wild := strings.CutPrefix(name, "*.")
	ch, _ := r.choices.exact(name)
	switch {
	case ch != nil && (ch.none || ch.cert != nil):
		return want{known: true}
	case name == "*", r.static.Load().has(name):
		return want{known: true}
	case !wild:
		return want{wanted: true, refusal: r.refusal(name), kind: r.kindOf(name)}
	case r.local.mintable(zone) && r.chainOf(name) == r.issuers.internal && !strings.Contains(zone, "."):
		// No client accepts a certificate for *.localhost: its hosts get their
		// own certificates when they are requested.
		return want{known: true}
	case r.chainOf(name).wildcards(), r.refusal(name) != nil:
		return want{wanted: true, refusal: r.refusal(name)}
	case r.options.Policy == nil:
		return want{wanted: true, refusal: errWildcard}
	}
	return want{known: true}
}

var errWildcard = errors.New("wildcard certificates require a DNS-01 solver: set a DNS provider (TLS.DNS), " +
	"or a HostPolicy that allows a certificate for each of its hosts when a handshake asks for it")

// kindOf returns the kind of a host that a route names.
func (r *routing) kindOf(name string) kind {
	if wild := wildcardOf(name); wild != "" && r.options.Wants(wild) && !r.choices.apart(name, wild) {
		if w := r.wantOf(wild); w.wanted && w.refusal == nil {
			return covered
		}
	}
	if r.options.Lazy {
		return lazy
	}
	return ofRoute
}

// served reports whether the TLS of a canonical host ends here, by the most
// specific pattern with a route.
func (r *routing) served(host string) bool {
	for _, pattern := range [...]string{host, wildcardOf(host), "*"} {
		switch {
		case pattern == "":
		case r.options.Wants(pattern):
			return true
		case r.passes(pattern):
			return false
		}
	}
	return false
}

// passed reports whether the connections of a canonical host, or of a pattern,
// are forwarded with their TLS.
func (r *routing) passed(host string) bool {
	for _, pattern := range [...]string{host, wildcardOf(host), "*"} {
		switch {
		case pattern == "":
		case r.options.Wants(pattern):
			return false
		case r.passes(pattern):
			return true
		}
	}
	return false
}

// passes reports whether exactly that pattern has a route that forwards
// connections.
func (r *routing) passes(pattern string) bool {
	return r.options.Passes != nil && r.options.Passes(pattern)
}

// chainOf returns the issuers of a host or wildcard.
func (r *routing) chainOf(name string) *chain {
	if c := r.choices.chain(name); c != nil {
		return c
	}
	if hostname.IsInternal(strings.TrimPrefix(name, "*.")) {
		return r.issuers.internal
	}
	return r.issuers.public
}

// refusal returns why no issuer can sign for the host or wildcard, or nil if
// one can.
func (r *routing) refusal(name string) error {
	c := r.chainOf(name)
	if len(c.authorities) == 0 {
		return fmt.Errorf("no issuer for public names such as %q", name)
	}
	return c.refuses(name)
}

// brings reports whether the program provides the certificate of a canonical
// host or a wildcard.
func (r *routing) brings(host string) bool {
	if ch, _, _ := r.choices.of(host); ch != nil && ch.cert != nil {
		return true
	}
	return r.static.Load().has(host)
}

// mints reports whether the certificate of host is made during the handshake.
func (r *routing) mints(host string) bool {
	return r.local.mintable(host) && r.chainOf(host) == r.issuers.internal && r.options.Knows(host) && !r.passed(host)
}
