package caddyfile

import (
	"strings"
)

// maxDepth limits the nesting of blocks and of imports.
const maxDepth = 32

// A directive is one line of a block, with the block that it opens.
type directive struct {
	place
	words []token // the first is the name
	block []directive
	open  bool // there is a block, which may be empty
}

func (d directive) name() string  { return d.words[0].text }
func (d directive) args() []token { return d.words[1:] }

// A section is a top-level block: the global options, or a site with its
// addresses.
type section struct {
	place
	names []token // addresses; empty for the global options
	block []directive
}

// A parser builds sections from tokens after imports were replaced.
type parser struct {
	tokens []token
	at     int
	fault  func(place, string, string, ...any) bool
}

// sections returns the global options and the sites.
func (p *parser) sections() (global *section, sites []section) {
	if p.at < len(p.tokens) && p.tokens[0].opens() {
		global = &section{place: p.tokens[0].place}
		p.at++
		global.block = p.block(p.tokens[0], 0)
	}
	for p.at < len(p.tokens) {
		s := section{place: p.tokens[p.at].place}
		opened := p.names(&s)
		switch {
		case len(s.names) == 0 && opened:
			p.fault(s.place, "{", "a block without an address: the global options must come first, once; write the site's address in front of {")
			p.block(p.tokens[p.at-1], 0)
		case opened:
			s.block = p.block(p.tokens[p.at-1], 0)
			sites = append(sites, s)
		case len(s.names) == 0: // a stray brace, which was reported
		case len(sites) > 0:
			p.fault(s.place, s.names[0].text, "want { at the end of the line with the site's addresses; only a file with one site can do without braces")
			p.at = len(p.tokens)
		default: // the whole file is one site
			for p.at < len(p.tokens) {
				s.block = append(s.block, p.lines(0)...)
				if p.at < len(p.tokens) {
					p.fault(p.tokens[p.at].place, "}", "this brace closes nothing")
					p.at++
				}
			}
			sites = append(sites, s)
		}
	}
	return global, sites
}

// names reads the addresses of a site, and reports whether a block follows. A
// comma at the end of a line continues the list.
func (p *parser) names(s *section) bool {
	for comma := true; p.at < len(p.tokens); p.at++ {
		t := p.tokens[p.at]
		switch {
		case t.opens():
			p.at++
			return true
		case t.closes():
			p.fault(t.place, "}", "this brace closes nothing")
			p.at++
			return false
		case t.first && len(s.names) > 0 && !comma:
			return false
		}
		comma = strings.HasSuffix(t.text, ",")
		for name := range strings.SplitSeq(t.text, ",") {
			if name != "" {
				n := t
				n.text = name
				s.names = append(s.names, n)
			}
		}
	}
	return false
}

// block reads the lines of a block up to its closing brace.
func (p *parser) block(open token, depth int) []directive {
	if depth > maxDepth {
		p.fault(open.place, "{", "blocks are nested more than %d deep", maxDepth)
		p.at = len(p.tokens)
		return nil
	}
	if p.at < len(p.tokens) && !p.tokens[p.at].first && !p.tokens[p.at].closes() {
		p.fault(p.tokens[p.at].place, p.tokens[p.at].text, "want a new line after {")
	}
	ds := p.lines(depth)
	if p.at == len(p.tokens) {
		p.fault(open.place, "{", "this block is not closed: want } on a line of its own")
		return ds
	}
	p.at++
	if p.at < len(p.tokens) && !p.tokens[p.at].first && !p.tokens[p.at].closes() {
		p.fault(p.tokens[p.at].place, p.tokens[p.at].text, "want a new line after }")
	}
	return ds
}

// lines reads lines up to a closing brace, which it leaves, or up to the end.
func (p *parser) lines(depth int) (ds []directive) {
	for p.at < len(p.tokens) && !p.tokens[p.at].closes() {
		d := directive{place: p.tokens[p.at].place}
		for p.at < len(p.tokens) {
			t := p.tokens[p.at]
			if t.first && len(d.words) > 0 || t.closes() {
				break
			}
			p.at++
			if t.opens() {
				if len(d.words) == 0 {
					p.fault(t.place, "{", "a block without a directive: write the directive in front of {, on the same line")
				}
				d.block, d.open = p.block(t, depth+1), true
				break
			}
			d.words = append(d.words, t)
		}
		if p.at < len(p.tokens) && p.tokens[p.at].closes() && !p.tokens[p.at].first && !d.open {
			p.fault(p.tokens[p.at].place, "}", "want } on a line of its own")
		}
		if len(d.words) > 0 {
			ds = append(ds, d)
		}
	}
	return ds
}
