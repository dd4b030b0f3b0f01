package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/hostproxy/hostproxy"
)

// routes is a Router whose routes come from a file.
type routes struct {
	router    hostproxy.Router
	file      string
	upstreams map[string]http.Handler // by their targets, so that a reload keeps those that stay
}

// A site is what the file says of a pattern: its targets, and who may see it if not everybody.
type site struct {
	Targets []string          `json:"targets"`
	Users   map[string]string `json:"users"` // bcrypt hashes of the passwords
}

// UnmarshalJSON reads an object, or the list of targets alone.
func (s *site) UnmarshalJSON(text []byte) error {
	if text[0] == '[' {
		return json.Unmarshal(text, &s.Targets)
	}
	type plain site
	return json.Unmarshal(text, (*plain)(s))
}

// reload loads the file each time hup says so, until hup is closed.
func (r *routes) reload(hup <-chan os.Signal) {
	for range hup {
		if err := r.load(); err != nil {
			log.Printf("routes stay as they are: %v", err)
			continue
		}
		log.Printf("routes loaded from %s", r.file)
	}
}

// load makes the routes of the file the only ones, or changes nothing.
func (r *routes) load() error {
	text, err := os.ReadFile(r.file)
	if err != nil {
		return err
	}
	var sites map[string]site
	if err := json.Unmarshal(text, &sites); err != nil {
		return fmt.Errorf("%s: %w", r.file, err)
	}
	table, upstreams := map[string]http.Handler{}, map[string]http.Handler{}
	for pattern, site := range sites {
		key := strings.Join(site.Targets, " ")
		u, ok := r.upstreams[key]
		if !ok {
			if u, err = hostproxy.NewUpstream(site.Targets...); err != nil {
				return fmt.Errorf("%s: %q: %w", r.file, pattern, err)
			}
		}
		table[pattern], upstreams[key] = u, u
		if len(site.Users) > 0 { // new with each reload; the Router looks behind it
			table[pattern] = &hostproxy.BasicAuth{Users: site.Users, Next: u}
		}
	}
	if err := r.router.Replace(table); err != nil {
		return fmt.Errorf("%s: %w", r.file, err)
	}
	r.upstreams = upstreams
	return nil
}

// listen opens a TCP listener, and says what to do where that is not allowed.
func listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EACCES) {
		err = fmt.Errorf("%w: a port below 1024 needs a capability: sudo setcap cap_net_bind_service=+ep on this binary", err)
	}
	return ln, err
}
