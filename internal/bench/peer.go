package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"
)

// A peer is a proxy that can be measured.
type peer struct {
	name    string
	binary  string // looked up on PATH; "" is this program
	install string // how to get the binary
	version []string

	h2Only bool // measured on rows of HTTP/2 alone
	fewer  bool // sets neither X-Forwarded-Host nor X-Real-IP, and appends to X-Forwarded-For
	h1Back bool // speaks HTTP/1.1 alone to the backend
	// command writes what configuration it needs into s.dir and returns the
	// command that serves s.listen until it is told to end.
	command func(s *site) ([]string, error)
}

// A site is one proxy instance to be: where it listens and what it forwards to.
type site struct {
	dir     string // its own, for configuration and scratch files
	binary  string
	listen  string // address
	secure  bool   // TLS, with HTTP/2 and HTTP/1.1
	h2c     bool   // HTTP/2 without TLS to the backend
	keys    *keyPair
	backend string // address
	cores   int
	profile string // file for a CPU profile; "" is none

	twoTargets bool // forwards to the backend under two names
}

// allPeers is in the order of the report; nginx, which the others are compared
// with, comes first.
func allPeers() []*peer {
	return []*peer{
		{name: nginxName, binary: "nginx", install: "apt-get install nginx-light", version: []string{"-v"}, command: nginxProxy},
		{name: "haproxy", binary: "haproxy", install: "apt-get install haproxy", version: []string{"-v"}, command: haproxy},
		{name: "nghttpx", binary: "nghttpx", install: "apt-get install nghttp2-proxy", version: []string{"--version"}, command: nghttpx, h2Only: true, fewer: true},
		{name: "h2o", binary: "h2o", install: "apt-get install h2o", version: []string{"-v"}, command: h2o, h2Only: true, fewer: true, h1Back: true},
		{name: "caddy", binary: "caddy", install: "https://caddyserver.com/download", version: []string{"version"}, command: caddy},
		{name: "httputil", command: inTree},
		{name: pooledName, command: inTree},
		{name: fullLaneName, command: inTree},
		{name: handlerName, command: inTree},
		{name: fastLaneName, command: inTree},
		{name: h3Name, command: inTree},
	}
}

// selectPeers returns the peers whose name pattern matches and that are
// installed, and for each missing one a line that says how to install it.
func selectPeers(pattern string) (found []*peer, missing []string, err error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return nil, nil, fmt.Errorf("-peers: %w", err)
	}
	for _, p := range allPeers() {
		if !re.MatchString(p.name) {
			continue
		}
		if p.binary != "" {
			if _, err := exec.LookPath(p.binary); err != nil {
				missing = append(missing, fmt.Sprintf("%s is missing: %s", p.name, p.install))
				continue
			}
		}
		found = append(found, p)
	}
	if found == nil {
		return nil, missing, fmt.Errorf("-peers: none installed matches %q", pattern)
	}
	return found, missing, nil
}

// describe returns the version as the binary reports it; in-tree peers are of
// the commit and the Go version that the report names anyway.
func (p *peer) describe() string {
	if p.binary == "" {
		return "in-tree"
	}
	return describeTool(p.binary, p.version...)
}

// describeTool returns the version number in the first line that the tool
// prints.
func describeTool(binary string, args ...string) string {
	out, _ := exec.Command(binary, args...).CombinedOutput() // wrk exits with 1
	line, _, _ := strings.Cut(string(out), "\n")
	if v := versionNumber.FindString(line); v != "" {
		return v
	}
	return "?"
}

var versionNumber = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

// inTree serves with this very program; the peer's directory is named after it.
func inTree(s *site) ([]string, error) {
	argv := []string{s.binary, serveCommand, "-as", filepath.Base(s.dir), "-listen", s.listen, "-backend", s.backend}
	if s.secure {
		argv = append(argv, "-cert", s.keys.cert, "-key", s.keys.key)
	}
	if s.h2c {
		argv = append(argv, "-h2c")
	}
	if s.twoTargets {
		argv = append(argv, "-two-targets")
	}
	if s.profile != "" {
		argv = append(argv, "-cpuprofile", s.profile)
	}
	return argv, nil
}

// writeConfig expands text, a template over data, into the named file.
func writeConfig(name, text string, data any) error {
	t, err := template.New(filepath.Base(name)).Parse(text)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := t.Execute(f, data); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
