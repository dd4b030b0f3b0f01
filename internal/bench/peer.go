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

// A peer is a proxy to measure.
type peer struct {
	name    string
	binary  string // looked up on PATH; "" means this program
	install string // how to install the binary
	version []string

	h2Only bool // measured only on rows of HTTP/2
	fewer  bool // sets neither X-Forwarded-Host nor X-Real-IP, and appends to X-Forwarded-For
	h1Back bool // uses only HTTP/1.1 to the backend
	// command writes the configuration into s.dir. It returns the command that
	// serves s.listen until it is told to end.
	command func(s *site) ([]string, error)
}

// A site is the address and the backend of one proxy instance.
type site struct {
	dir     string // the instance's directory, for configuration and scratch files
	binary  string
	listen  string // address
	secure  bool   // TLS, with HTTP/2 and HTTP/1.1
	h2c     bool   // HTTP/2 without TLS to the backend
	keys    *keyPair
	backend string // address
	cores   int
	profile string // file for a CPU profile; "" means none

	twoTargets bool // forwards to the backend under two names
}

// allPeers returns all peers in the order of the report. nginx, the reference,
// comes first.
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

// selectPeers returns the installed peers whose names match pattern. For each
// missing one, it returns a line that says how to install it.
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

// describe returns the version that the binary reports. In-tree peers have the
// commit and Go version of the report.
func (p *peer) describe() string {
	if p.binary == "" {
		return "in-tree"
	}
	return describeTool(p.binary, p.version...)
}

// describeTool returns the version number in the first line of the tool's
// output.
func describeTool(binary string, args ...string) string {
	out, _ := exec.Command(binary, args...).CombinedOutput() // wrk exits with 1
	line, _, _ := strings.Cut(string(out), "\n")
	if v := versionNumber.FindString(line); v != "" {
		return v
	}
	return "?"
}

var versionNumber = regexp.MustCompile(`\d+\.\d+(\.\d+)?`)

// inTree returns the command that serves with this program. The peer's
// directory has the peer's name.
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
