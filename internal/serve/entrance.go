package serve

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
)

// The roles of an Entrance.
const (
	RoleTLS       = "tls"       // the routes over TLS
	RolePlain     = "plain"     // the routes without TLS
	RoleRedirects = "redirects" // challenges, and redirects to HTTPS
	RoleInternal  = "internal"  // a handler of the program
)

// An Entrance is a listener with the server that serves it.
type Entrance struct {
	Name   string // name of the argument or field, for errors
	Socket string // name of the socket in a process that takes over

	Listener net.Listener // wrapped before it is served
	Opened   net.Listener // not wrapped
	Addr     string       // host:port or unix:/path, for Open
	Mode     fs.FileMode  // permissions of a unix socket; 0 means 0600
	Role     string
	Handler  http.Handler // for RoleInternal
	H2C      bool
	Headers  *ProxyHeaders // nil means no PROXY protocol

	Server *Server
}

// Entrances are the listeners that serve together.
type Entrances []*Entrance

// Faults returns which rules the entrances break.
func (all Entrances) Faults() (errs []error) {
	for i, e := range all {
		if rule := e.fault(); rule != "" {
			errs = append(errs, fmt.Errorf("%s %s", e.Name, rule))
		}
		for _, other := range all[:i] {
			if same(e.Listener, other.Listener) {
				errs = append(errs, fmt.Errorf("%s and %s are the same listener: a listener has one role", other.Name, e.Name))
			}
		}
		if e.Role == RoleRedirects && !all.Has(RoleTLS) {
			errs = append(errs, fmt.Errorf("%s redirects to HTTPS, and no listener of the Server serves it: "+
				"add one with RoleTLS, or use RoleInternal with Router.HTTPHandler", e.Name))
		}
	}
	return errs
}

// fault returns the rule that e breaks, or "".
func (e *Entrance) fault() string {
	path, unix := strings.CutPrefix(e.Addr, "unix:")
	switch {
	case e.Listener == nil && e.Addr == "":
		return "has neither Listener nor Addr: set one of them"
	case e.Listener != nil && e.Addr != "":
		return fmt.Sprintf("has both Listener and Addr %q: set one of them", e.Addr)
	case e.Listener != nil && isNil(e.Listener):
		return fmt.Sprintf("is a nil %T: want an open listener", e.Listener)
	case unix && !filepath.IsAbs(path):
		return fmt.Sprintf("has Addr %q: a unix socket needs an absolute path, such as unix:/run/app.sock", e.Addr)
	case e.Mode != 0 && !unix:
		return "has a Mode, which is for a unix socket in Addr: leave it 0"
	case e.Mode&^fs.ModePerm != 0:
		return fmt.Sprintf("has Mode %v: want permissions alone, such as 0660", e.Mode)
	case !slices.Contains([]string{RoleTLS, RolePlain, RoleRedirects, RoleInternal}, e.Role):
		return fmt.Sprintf("has Role %q: want RoleTLS, RolePlain, RoleRedirects or RoleInternal", e.Role)
	case e.H2C && e.Role != RolePlain:
		return "has H2C, which is for RolePlain: leave it false"
	case e.Handler != nil && e.Role != RoleInternal:
		return "has a Handler, which is for RoleInternal: leave it nil, or use Server.Handler"
	case e.Handler == nil && e.Role == RoleInternal:
		return "has no Handler: RoleInternal requires one"
	case e.Role == RoleTLS && e.Listener != nil && DoesTLS(e.Listener):
		return "is a listener that does TLS, as Router.Listen, Router.Wrap and tls.Listen return: " +
			"Serve does the TLS itself, pass a listener of net.Listen"
	}
	return ""
}

// DoesTLS reports whether a listener already uses TLS, that is, comes from
// tls.NewListener.
func DoesTLS(ln net.Listener) bool {
	return reflect.TypeOf(ln) == reflect.TypeOf(tls.NewListener(nil, nil))
}

// Has reports whether there is an entrance with that role.
func (all Entrances) Has(role string) bool {
	return slices.ContainsFunc(all, func(e *Entrance) bool { return e.Role == role })
}

// Addr returns the address of the first listener with that role, preferably a
// TCP address, or nil.
func (all Entrances) Addr(role string) (first net.Addr) {
	for _, e := range all {
		if e.Role != role {
			continue
		}
		addr := e.Listener.Addr()
		if _, ok := addr.(*net.TCPAddr); ok {
			return addr
		}
		if first == nil {
			first = addr
		}
	}
	return first
}

// Open calls open for the entrances that have an address.
func (all Entrances) Open(open func(e *Entrance) (net.Listener, error)) error {
	for _, e := range all {
		if e.Listener == nil {
			ln, err := open(e)
			if err != nil {
				return err
			}
			e.Listener = ln
		}
		e.Opened = e.Listener
	}
	return nil
}

// Close closes the open listeners.
func (all Entrances) Close() {
	for _, e := range all {
		if e.Listener != nil && !isNil(e.Listener) {
			e.Listener.Close()
		}
	}
}

// same reports whether a and b hold the same value. nil equals nothing.
func same(a, b any) bool {
	return a != nil && b != nil && reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// isNil reports whether x, which is not the nil interface, holds a nil pointer.
func isNil(x any) bool {
	v := reflect.ValueOf(x)
	return v.Kind() == reflect.Pointer && v.IsNil()
}
