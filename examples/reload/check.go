package reload

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
)

// A Difference is what changes from one configuration to another.
type Difference struct {
	Routes   hostproxy.Changes // as hostproxy.Router.Replace sees them
	Settings []string          // all settings that differ, as "path: old -> new"
	Restart  []string          // those of Settings that a running proxy refuses
	Stale    []string          // contents of files that a running proxy keeps until it restarts
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
		if slices.Contains(d.Stale, line) {
			line += " (needs a restart: a running proxy keeps the old contents)"
		}
		b.WriteString(line + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// first returns the first n settings in one line, except those in Stale.
func (d Difference) first(n int) string {
	all := slices.DeleteFunc(slices.Clone(d.Settings), func(line string) bool { return slices.Contains(d.Stale, line) })
	text := strings.Join(all[:min(n, len(all))], "; ")
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

// restart returns a fault for each setting that differs from old and cannot
// change while the proxy runs.
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

// compare returns the differences between two plans.
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
	start := next.startFiles()
	for _, path := range slices.Sorted(maps.Keys(next.read)) {
		if was, ok := old.read[path]; ok && !bytes.Equal(was.text, next.read[path].text) {
			d.Settings = append(d.Settings, "the contents of "+path)
			if start[path] != "" {
				d.Stale = append(d.Stale, "the contents of "+path)
			}
		}
	}
	return d
}

// A Checked is a configuration without faults.
type Checked struct {
	plan  *plan
	named map[string]http.Handler
}

// Load reads a file and all files that it names, and checks what a proxy would
// check when it starts. It does not check what depends on the machine: see
// Check. handlers are the keys of Proxy.Handlers. The error is Faults.
func Load(name string, handlers ...string) (*Checked, error) {
	f, err := read(name)
	if err != nil {
		return nil, err
	}
	return check(f, handlers)
}

// LoadText is like Load for a text without a file. Relative file names in it
// start at the directory of name.
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

// Compare returns what changes when next replaces old.
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

// CheckUsage describes in a few lines what Check checks, and what it does not
// check.
const CheckUsage = `check the file and those that it names, and open nothing; exit code 1 if there is a fault.
Also checked, as the user that runs this: the directories of the log file, of unix sockets and of
tls.storage exist and are writable; the addresses of listeners are this machine's and free. One in
use is a note, or with -against a fault, unless the other configuration has its port.
Not checked: inherited sockets; whether a unix socket is in use; two listeners that overlap, such as
:80 and 127.0.0.1:80; whether targets, CAs and DNS answer, and whether certificates can be issued;
the contents of tls.storage; free space`

// Check writes to w that a file is right, or what it changes. old is what to
// compare with: the name of a file, or the URL of a running proxy's listener
// with the handler config. "" compares with nothing. restart means that the
// running proxy would refuse the file. The error for a faulty file is Faults.
//
// Check also tests this machine, as the user that runs it: the directories of
// the log file, of unix sockets and of tls.storage must exist and be writable,
// and the addresses of listeners must belong to this machine and be free. An
// address in use is accepted if old has its port. If old is "", it is noted in
// a line that begins with "note:". A port that this user may not open is noted
// too. Check opens no log file, socket or storage, and writes no files.
func Check(ctx context.Context, w io.Writer, name, old string) (restart bool, err error) {
	next, err := Load(name)
	if err != nil {
		return false, err
	}
	if old == "" {
		notes, err := next.plan.machine(nil)
		if err == nil {
			_, err = fmt.Fprintf(w, "%s is right\n%s", name, notes)
		}
		return false, err
	}
	was, err := other(ctx, name, old)
	if err != nil {
		return false, err
	}
	d, err := Compare(was, next)
	if err != nil {
		return false, err
	}
	notes, err := next.plan.machine(was.plan)
	if err != nil {
		return false, err
	}
	_, err = fmt.Fprintf(w, "%s\n%s", d, notes)
	return len(d.Restart) > 0 && err == nil, err
}

// other loads the configuration of a file or a URL. File names in the latter
// start at the directory of the file name.
func other(ctx context.Context, name, old string) (*Checked, error) {
	if !strings.HasPrefix(old, "http://") {
		return Load(old)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, old, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	a, err := client.Do(q)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(io.LimitReader(a.Body, maxFile+1))
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: want the URL of a listener with the handler config", old, a.Status)
	}
	if err != nil {
		return nil, err
	}
	c, err := LoadText(name, text)
	var faults Faults
	if errors.As(err, &faults) {
		for i := range faults {
			faults[i].File = old // the line numbers are those of old
		}
	}
	return c, err
}
