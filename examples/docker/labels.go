package main

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/hostproxy/hostproxy"
)

// Limits of the labels of one container.
const (
	maxLabel = 4096 // bytes of one value
	maxHosts = 64
)

// prefix is the common prefix of the labels that this program reads.
const prefix = "hostproxy."

// known are the label names without the prefix. Read-only.
var known = []string{"group", "health", "host", "network", "path", "port", "scheme", "strip"}

// project is the label that Compose sets on each container of a project.
const project = "com.docker.compose.project"

func labelled(labels map[string]string) bool {
	for k := range labels {
		if strings.HasPrefix(k, prefix) {
			return true
		}
	}
	return false
}

// A wishes is what the labels of a container ask for.
type wishes struct {
	patterns []string // canonical
	settings settings
	group    string // only containers of one group share hosts
	port     int    // 0 means the only port that the container exposes
	network  string // "" means any network shared with the proxy
}

// A settings is what all containers of a route must have in common.
type settings struct {
	scheme string // http or h2c
	health string // path of the health check; "" means none
	strip  string // prefix to strip from the path; "" means none
}

func (s settings) String() string {
	return fmt.Sprintf("hostproxy.scheme=%q hostproxy.health=%q hostproxy.strip=%t", s.scheme, s.health, s.strip != "")
}

// upstream returns an Upstream with these settings.
func (s settings) upstream(targets ...string) (*hostproxy.Upstream, error) {
	u, err := hostproxy.NewUpstream(targets...)
	if err != nil {
		return nil, err
	}
	u.StripPrefix = s.strip
	if s.health != "" {
		u.Health = &hostproxy.HealthCheck{Path: s.health, StartDown: true}
	}
	return u, nil
}

// readLabels returns what the labels ask for. The error has all their faults.
func readLabels(labels map[string]string) (wishes, error) {
	var errs []error
	values := map[string]string{} // key: label name without the prefix
	for k, v := range labels {
		name, ours := strings.CutPrefix(k, prefix)
		switch {
		case !ours:
		case !slices.Contains(known, name):
			errs = append(errs, fmt.Errorf("label %.100q is unknown: want one of %s%s", k, prefix, strings.Join(known, ", "+prefix)))
		case len(v) > maxLabel:
			errs = append(errs, fmt.Errorf("label %s has %d bytes: at most %d are allowed", k, len(v), maxLabel))
		case strings.TrimSpace(v) == "":
			errs = append(errs, fmt.Errorf("label %s is empty: give it a value, or remove it", k))
		default:
			values[name] = strings.TrimSpace(v)
		}
	}
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	if _, ok := labels[prefix+"host"]; !ok {
		errs = append(errs, errors.New("label hostproxy.host is missing: want the host names, such as a.example.com,b.example.com"))
	}
	w, err := parseLabels(values, labels[project])
	if err := errors.Join(append(errs, err)...); err != nil {
		if values["host"] != "" { // only then are its own faults reported too
			_, hosts := patterns(values["host"], "", settings{scheme: "http"})
			err = errors.Join(err, hosts)
		}
		return wishes{}, err
	}
	w.patterns, err = patterns(values["host"], values["path"], w.settings)
	return w, err
}

// parseLabels returns what the labels ask for, except the patterns.
func parseLabels(values map[string]string, compose string) (wishes, error) {
	w := wishes{group: cmp.Or(values["group"], compose), network: values["network"]}
	w.settings = settings{scheme: cmp.Or(values["scheme"], "http"), health: values["health"]}
	var errs []error
	fault := func(name, rule string) {
		errs = append(errs, fmt.Errorf("label %s%s is %.100q: %s", prefix, name, values[name], rule))
	}
	path := values["path"]
	if path != "" && (path[0] != '/' || path == "/") {
		fault("path", "want a path such as /api, or no such label for all paths")
	}
	switch values["strip"] {
	case "", "false":
	case "true":
		if w.settings.strip = strings.TrimRight(path, "/"); path == "" {
			fault("strip", "it requires hostproxy.path, which is what it removes")
		}
	default:
		fault("strip", "want true or false")
	}
	if h := w.settings.health; h != "" && h[0] != '/' {
		fault("health", "want a path such as /up")
	}
	if s := w.settings.scheme; s != "http" && s != "h2c" {
		fault("scheme", "want http or h2c; a certificate for https cannot be verified by the address of a container")
	}
	if s := values["port"]; s != "" {
		var err error
		if w.port, err = strconv.Atoi(s); err != nil || w.port < 1 || w.port > 65535 {
			fault("port", "want the container's own port, 1 to 65535")
		}
	}
	return w, errors.Join(errs...)
}

// patterns returns the canonical patterns for a path on hosts, which is a
// comma-separated list.
func patterns(hosts, path string, s settings) (all []string, err error) {
	list := strings.Split(hosts, ",")
	if len(list) > maxHosts {
		return nil, fmt.Errorf("label hostproxy.host has %d hosts: at most %d are allowed", len(list), maxHosts)
	}
	var errs []error
	for _, host := range list {
		host = strings.TrimSpace(host)
		if host == "" || strings.Contains(host, "/") {
			errs = append(errs, fmt.Errorf("label hostproxy.host has the host %.100q: want a name such as a.example.com; a path belongs into hostproxy.path", host))
			continue
		}
		p, err := canonical(host+path, s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all, errors.Join(errs...)
}

// canonical returns the Router's spelling of pattern, or an error if no route
// can have this pattern and these settings.
func canonical(pattern string, s settings) (string, error) {
	u, err := s.upstream(s.scheme + "://localhost:1")
	if err != nil {
		return "", err
	}
	return spelled(pattern, u)
}

// spelled returns the Router's spelling of pattern, or an error if the Router
// refuses h there.
func spelled(pattern string, h http.Handler) (string, error) {
	var r hostproxy.Router
	if err := r.Set(pattern, h); err != nil {
		return "", err
	}
	for p := range r.All() {
		pattern = p
	}
	return pattern, nil
}
