package reload

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy"
)

// startFiles returns the files that are read only at the start, with the
// setting that names each. Their contents can change although no setting does.
func (n *plan) startFiles() map[string]string {
	all := map[string]string{}
	for setting, v := range map[string]any{
		"not_found": n.NotFound, "tls.issuer": n.TLS.Issuer, "tls.fallbacks": n.TLS.Fallbacks, "tls.internal": n.TLS.Internal,
	} {
		eachFile(reflect.ValueOf(v), func(name File) { all[n.path(name)] = setting })
	}
	return all
}

// startContents returns the contents of startFiles.
func (n *plan) startContents() map[string][]byte {
	all := map[string][]byte{}
	for path := range n.startFiles() {
		all[path] = n.read[path].text
	}
	return all
}

// stale returns the files whose contents have changed since the start. The old
// contents stay in force until the process restarts.
func (n *plan) stale(start map[string][]byte) (all []string) {
	files := n.startFiles()
	for _, path := range slices.Sorted(maps.Keys(files)) {
		if !bytes.Equal(start[path], n.read[path].text) {
			all = append(all, "the contents of "+path+", which "+files[path]+" names")
		}
	}
	return all
}

// applied logs that next has replaced old, and what is not in force yet: stale
// files, and upstreams that keep an old setting.
func (s *serving) applied(old, next *plan, kept []string) {
	d := compare(old, next, hostproxy.Changes{})
	stale := strings.Join(append(kept, next.stale(s.atStart)...), "; ")
	s.stale.Store(&stale)
	log := s.logs.logger.With("file", s.p.File, "changes", len(d.Settings)-len(d.Stale), "first", d.first(10))
	if stale == "" {
		log.Info("configuration in force")
	} else {
		log.Warn("configuration in force, except what needs a restart of the process", "not_in_force", stale)
	}
}
