package reload

import (
	"bytes"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy"
)

// A Difference is what changes between two configurations.
type Difference struct {
	Routes   hostproxy.Changes // as hostproxy.Router.Replace sees them
	Settings []string          // all settings that differ, as "path: old -> new"
	Restart  []string          // those of them that a running proxy refuses
}

// String returns the difference as lines of text, or "no changes".
func (d Difference) String() string {
	if len(d.Settings) == 0 {
		return "no changes"
	}
	var b strings.Builder
	if routes := d.Routes.String(); routes != "no changes" {
		b.WriteString(routes + "\n")
	}
	for _, line := range d.Settings {
		if slices.Contains(d.Restart, line) {
			line += " (needs a restart: a running proxy refuses the file)"
		}
		b.WriteString(line + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// first returns the first n settings in one line.
func (d Difference) first(n int) string {
	text := strings.Join(d.Settings[:min(n, len(d.Settings))], "; ")
	if len(text) > 1000 {
		text = text[:1000] + "…"
	}
	return text
}

// restarts reports whether a running proxy cannot change the setting.
func restarts(path string) bool {
	for _, prefix := range []string{"routes[", "upstreams[", "log.", "tls.hosts[", "server."} {
		if strings.HasPrefix(path, prefix) {
			return strings.HasPrefix(path, "server.proxy_protocol")
		}
	}
	return !slices.Contains([]string{"routes", "upstreams", "log", "tls.hosts", "tls.host_policy"}, path)
}

// restart returns a fault for each setting that differs from old and cannot change while the proxy runs.
func (n *plan) restart(old *plan) (faults Faults) {
	for _, s := range changed(&old.Config, &n.Config) {
		if restarts(s.path) || s.path == "tls.host_policy" && (old.TLS.HostPolicy == nil) != (n.TLS.HostPolicy == nil) {
			f := n.locate(strings.FieldsFunc(s.path, func(r rune) bool { return r == '.' || r == '[' || r == ']' })...)
			f.Path = s.path
			f.Rule = s.text + ": this cannot change while the proxy runs: restart it, or change it back"
			faults = append(faults, f)
		}
	}
	return faults
}

// compare returns the difference between two plans.
func compare(old, next *plan, routes hostproxy.Changes) Difference {
	d := Difference{Routes: routes}
	restart := map[string]bool{}
	for _, f := range next.restart(old) {
		restart[f.Path] = true
	}
	for _, s := range changed(&old.Config, &next.Config) {
		line := s.path + ": " + s.text
		d.Settings = append(d.Settings, line)
		if restart[s.path] {
			d.Restart = append(d.Restart, line)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(next.read)) {
		if was, ok := old.read[path]; ok && !bytes.Equal(was.text, next.read[path].text) {
			d.Settings = append(d.Settings, "the contents of "+path)
		}
	}
	return d
}

// A Checked is a configuration without a fault.
type Checked struct {
	plan  *plan
	named map[string]http.Handler
}

// Load reads a file and all files that it names, and checks what a proxy would check at its start, except that it
// opens no listeners, logs or storage. handlers are the keys of Proxy.Handlers. The error is Faults.
func Load(name string, handlers ...string) (*Checked, error) {
	f, err := read(name)
	if err != nil {
		return nil, err
	}
	return check(f, handlers)
}

// LoadText is like Load for a text that is no file. Names of files in it start at the directory of name.
func LoadText(name string, text []byte, handlers ...string) (*Checked, error) {
	f, err := parse(name, text)
	if err != nil {
		return nil, err
	}
	return check(f, handlers)
}

func check(f *file, handlers []string) (*Checked, error) {
	own := map[string]http.Handler{}
	for _, name := range handlers {
		own[name] = http.NotFoundHandler()
	}
	stand := new(page)
	named := names(own, stand, stand)
	p, err := newPlan(f, nil, named)
	if err != nil {
		return nil, err
	}
	return &Checked{p, named}, nil
}

// Config returns the configuration.
func (c *Checked) Config() *Config { return &c.plan.Config }

// Compare returns what changes when next takes the place of old.
func Compare(old, next *Checked) (Difference, error) {
	var r hostproxy.Router
	if err := r.Replace(old.plan.routes); err != nil {
		return Difference{}, fmt.Errorf("the old configuration: %w", err)
	}
	again, err := newPlan(next.plan.file, old.plan, next.named)
	if err != nil {
		return Difference{}, err
	}
	routes, err := r.CheckReplace(again.routes)
	return compare(old.plan, again, routes), err
}
