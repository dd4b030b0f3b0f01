package forward

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/routes"
	"github.com/hostproxy/hostproxy/internal/status"
)

// A Prefix says how the paths of clients and of targets differ at their start.
//
// Hot path: without a Prefix, a look at two strings. With one, no allocation
// for a path that all servers read alike.
type Prefix struct {
	Strip string // removed from a client's path; "" removes nothing
	Add   string // put before the rest, after the path of the target's URL
}

// checkPrefix checks c.Prefix, and makes it canonical: without a slash at the
// end.
func (c *Config) checkPrefix() error {
	var errs []error
	for _, s := range []struct {
		field string
		value *string
	}{{"StripPrefix", &c.Prefix.Strip}, {"AddPrefix", &c.Prefix.Add}} {
		if *s.value == "" {
			continue
		}
		prefix, err := routes.ParsePrefix(*s.value)
		if err != nil {
			errs = append(errs, fmt.Errorf("field %s: %w", s.field, err))
			continue
		}
		*s.value = prefix
	}
	if p := c.Prefix; len(errs) == 0 && p.Strip != "" && p.Strip == p.Add {
		errs = append(errs, fmt.Errorf("fields StripPrefix and AddPrefix are both %q: want different prefixes, or neither", p.Strip))
	}
	return errors.Join(errs...)
}

// set reports whether p changes paths at all.
func (p *Prefix) set() bool { return p.Strip != "" || p.Add != "" }

// Why Admit refuses a path.
var (
	errLeaves = errors.New("path is ambiguous: a target may read it as a path outside the prefix")
	errSlash  = errors.New("path would begin with two slashes behind the stripped prefix: a target may read it as a host")
)

// Admit returns the failure of a request whose path, as it was sent, cannot
// become a target's path: it lacks the prefix, or its dot segments may lead out
// of the new prefix, or it would begin with two slashes. Otherwise it returns
// nil.
func (p *Prefix) Admit(path string) *exchange.Failure {
	if !p.set() || path == "" || path == "*" {
		return nil
	}
	if !routes.Below(path, p.Strip) {
		return &exchange.Failure{Op: "pick", Side: exchange.SideProxy, Status: http.StatusNotFound, Reason: "destination_not_found"}
	}
	rest, err := path[len(p.Strip):], error(nil)
	switch {
	case p.Strip != "" && len(rest) > 1 && (rest[1] == '/' || rest[1] == '\\'):
		err = errSlash
	case !routes.Stays(rest):
		err = errLeaves
	default:
		return nil
	}
	return &exchange.Failure{Op: "read", Side: exchange.SideClient, Status: http.StatusBadRequest, Reason: "http_request_error", Err: err}
}

// Inner returns a request's path without the prefix to strip. The path may have
// a query. Admit has let it pass.
func (p *Prefix) Inner(path string) string {
	if p.Strip == "" || len(path) < len(p.Strip) { // such as *
		return path
	}
	rest := path[len(p.Strip):]
	if rest == "" || rest[0] != '/' {
		return "/" + rest
	}
	return rest
}

// appendInner is Inner in the fast lane.
func (p *Prefix) appendInner(dst, path []byte) []byte {
	if p.Strip == "" || len(path) < len(p.Strip) {
		return append(dst, path...)
	}
	if path = path[len(p.Strip):]; len(path) == 0 || path[0] != '/' {
		dst = append(dst, '/')
	}
	return append(dst, path...)
}

// Translates reports whether paths in responses differ for targets and clients.
func (f *Forwarder) Translates() bool { return f.Prefix.set() }

// Translate changes paths in the response res of t to those that clients use,
// in Location, Content-Location and the Path of cookies. hosts are the proxy's
// names for clients. The new values are in room, which it returns.
func (e *Encoder) Translate(res *h1.Response, t *Target, room []byte, hosts ...string) []byte {
	m := e.newTranslation(t, hosts)
	for i := range res.Fields {
		fd := &res.Fields[i]
		value := viewOf(fd.Value)
		start := len(room)
		var changed bool
		switch {
		case header.EqualFold(fd.Name, location), header.EqualFold(fd.Name, contentLocation):
			room, changed = m.appendReference(room, value)
		case header.EqualFold(fd.Name, setCookie):
			room, changed = m.appendCookie(room, value)
		}
		if changed {
			fd.Value = room[start:len(room):len(room)]
		}
	}
	return room
}

// TranslateHeader is Translate in the handler lane.
func (e *Encoder) TranslateHeader(h http.Header, t *Target, hosts ...string) {
	m := e.newTranslation(t, hosts)
	for name, do := range map[string]func([]byte, string) ([]byte, bool){
		location: m.appendReference, contentLocation: m.appendReference, setCookie: m.appendCookie,
	} {
		for i, v := range h[name] {
			if out, changed := do(nil, v); changed {
				h[name] = slices.Clone(h[name]) // a Transport may keep the slice
				h[name][i] = string(out)
			}
		}
	}
}

// prefix explains how f changes the request's path.
func (a *explainer) prefix(f *Forwarder) {
	p, path := &f.Prefix, exchange.WirePath(a.q)
	name := "Upstream.StripPrefix"
	if p.Strip == "" {
		name = "Upstream.AddPrefix"
	}
	switch fail := p.Admit(path); {
	case path == "*":
		a.Rule(name, status.Passes, "the path * is forwarded unchanged")
	case fail == nil:
		a.Rule(name, status.Passes, "the path becomes %s%s, behind the path of the target's URL", p.Add, p.Inner(path))
	case fail.Err == nil:
		a.RefuseBy(name, fail.Status, "the path is not below %s", p.Strip)
	default:
		a.RefuseBy(name, fail.Status, "%v", fail.Err)
	}
}
