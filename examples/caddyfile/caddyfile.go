// Package caddyfile serves the common subset of a Caddyfile with package
// hostproxy. It translates the file into Routers and Servers, or into a Go
// program that builds the same ones. Anything that it does not support is an
// error with file, line and column. Nothing is ignored.
//
//	c, err := caddyfile.Load("Caddyfile", caddyfile.Options{})
//	if err != nil {
//		log.Fatal(err) // all faults, one a line
//	}
//	servers, err := c.Servers()
//	err = site.Serve(ctx, servers...)
//
// The files, in the order in which they process a text:
//
//   - lexer.go: text to tokens; environment variables
//   - imports.go: snippets and imported files
//   - parse.go: tokens to blocks
//   - fault.go: errors
//   - address.go: addresses of sites
//   - global.go: global options
//   - translate.go: sites to a plan
//   - order.go: the order of directives, and how they become one handler
//   - match.go: matchers
//   - respond.go: directives that answer or rewrite
//   - header.go: directives that change headers
//   - errors.go: directives that handle failures
//   - secure.go: access, compression and limits
//   - proxy.go, transport.go: reverse_proxy and forward_auth
//   - tls.go: certificates
//   - log.go: access logs
//   - values.go: durations, sizes, addresses and placeholders
//   - plan.go: the plan, which the next two read
//   - build.go: plan to Servers
//   - gogen.go, golit.go: plan to a Go program
//   - reload.go: a changed file for running Servers
package caddyfile

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/hostproxy/hostproxy"
)

// Options are the settings of Load and Parse. By default, they use files and
// environment variables of the process.
type Options struct {
	// Getenv returns an environment variable, for {$NAME}. Nil means
	// os.LookupEnv.
	Getenv func(name string) (string, bool)

	// ReadFile reads an imported file. Glob lists the files of an import. Nil
	// means os.ReadFile and filepath.Glob.
	ReadFile func(name string) ([]byte, error)
	Glob     func(pattern string) (names []string, err error)
}

func (o Options) withDefaults() Options {
	if o.Getenv == nil {
		o.Getenv = os.LookupEnv
	}
	if o.ReadFile == nil {
		o.ReadFile = os.ReadFile
	}
	if o.Glob == nil {
		o.Glob = filepath.Glob
	}
	return o
}

// A Config is a translated Caddyfile.
type Config struct{ plan *plan }

// Load reads and translates a file. If the file can be read, the error is
// Faults.
func Load(file string, o Options) (*Config, error) {
	o = o.withDefaults()
	text, err := o.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("caddyfile: %w", err)
	}
	return Parse(file, text, o)
}

// Parse translates the text of a file. The name is used in errors, and its
// directory for imports. The error is Faults with all faults of the text.
func Parse(file string, text []byte, o Options) (*Config, error) {
	t := newTranslator(o.withDefaults())
	importer := &importer{options: t.options, snippets: map[string][]token{}, fault: t.fault}
	p := &parser{tokens: importer.load(file, text, 0), fault: t.fault}
	global, sites := p.sections()
	if t.broken() { // further faults would be misleading
		return nil, t.faults.sorted()
	}
	plan := t.translate(place{file, 1, 1}, global, sites)
	if len(t.faults) == 0 {
		t.check(plan)
	}
	if len(t.faults) > 0 {
		return nil, t.faults.sorted()
	}
	return &Config{plan}, nil
}

// Servers returns servers that are ready for site.Serve. It opens log files.
// Each call returns new Routers, which share their handlers.
func (c *Config) Servers() ([]*hostproxy.Server, error) { return c.plan.build() }

// Go returns the text of a program that does the same.
func (c *Config) Go() []byte { return c.plan.program() }
