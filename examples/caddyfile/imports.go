package caddyfile

import (
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An importer replaces import lines by snippets and files.
type importer struct {
	options  Options
	snippets map[string][]token
	count    int  // number of words
	bytes    int  // in words and in imported files
	full     bool // a limit is reached
	deep     bool // too deep imports were reported
	fault    func(place, string, string, ...any) bool
}

// load returns the tokens of a file with its imports replaced.
func (m *importer) load(file string, text []byte, depth int) []token {
	return m.expand(lex(file, text, m.options.Getenv, m.fault), depth)
}

// expand removes the definitions of snippets and replaces imports.
func (m *importer) expand(in []token, depth int) (out []token) {
	level := 0
	for i := 0; i < len(in); i++ {
		t := in[i]
		if !m.take(t) {
			return out
		}
		switch {
		case level == 0 && t.first && isSnippet(t) && i+1 < len(in) && in[i+1].opens():
			i = m.define(in, i)
			continue
		case t.first && t.text == "import" && !t.quoted:
			end := i + 1
			for end < len(in) && !in[end].first && !in[end].closes() {
				if !m.take(in[end]) {
					return out
				}
				end++
			}
			out = append(out, m.include(in[i], in[i+1:end], depth)...)
			i = end - 1
			continue
		case t.opens():
			level++
		case t.closes():
			level--
		}
		out = append(out, t)
	}
	return out
}

// take counts a word and reports whether there is room for it. Replaced words
// count too: nothing else ends a snippet that imports itself twice.
func (m *importer) take(t token) bool {
	if m.full {
		return false
	}
	m.count++
	m.bytes += len(t.text)
	if m.full = m.count > maxTokens || m.bytes > maxBytes; m.full {
		m.fault(t.place, "import", "the file and its imports have more than %d words or %d bytes", maxTokens, maxBytes)
	}
	return !m.full
}

func isSnippet(t token) bool {
	return !t.quoted && len(t.text) > 2 && t.text[0] == '(' && t.text[len(t.text)-1] == ')'
}

// define stores the snippet at i and returns the index of its closing brace.
func (m *importer) define(in []token, i int) int {
	name := in[i].text[1 : len(in[i].text)-1]
	if _, ok := m.snippets[name]; ok {
		m.fault(in[i].place, in[i].text, "this snippet exists already: names of snippets must differ")
	}
	level := 1
	for j := i + 2; j < len(in); j++ {
		if in[j].opens() {
			level++
		}
		if in[j].closes() {
			level--
		}
		if level == 0 {
			m.snippets[name] = in[i+2 : j]
			return j
		}
	}
	m.fault(in[i+1].place, "{", "this block is not closed: want } on a line of its own")
	return len(in)
}

// include returns the tokens that replace one import.
func (m *importer) include(at token, args []token, depth int) []token {
	switch {
	case len(args) == 0:
		m.fault(at.place, "import", "want the name of a snippet, a file or a pattern of files")
		return nil
	case depth >= maxDepth && m.deep:
		return nil
	case depth >= maxDepth:
		m.deep = true
		m.fault(at.place, "import", "imports are nested more than %d deep: %q may import itself", maxDepth, args[0].text)
		return nil
	}
	if last := args[len(args)-1]; last.opens() {
		m.fault(last.place, "import", "not supported: a block for the snippet; pass arguments, and use {args[0]}")
		return nil
	}
	if body, ok := m.snippets[args[0].text]; ok {
		return m.expand(m.fill(body, args[1:]), depth+1)
	}
	var out []token
	for _, file := range m.files(at, args[0].text) {
		text, err := m.options.ReadFile(file)
		if err != nil {
			m.fault(args[0].place, "import", "there is no snippet (%s), and the file cannot be read: %v", args[0].text, err)
			continue
		}
		if m.bytes += len(text); m.full || m.bytes > maxBytes {
			m.take(at)
			return out
		}
		tokens := lex(file, text, m.options.Getenv, m.fault)
		out = append(out, m.expand(m.fill(tokens, args[1:]), depth+1)...)
	}
	return out
}

// files returns the files that match a pattern, relative to the file with the
// import.
func (m *importer) files(at token, pattern string) []string {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(filepath.Dir(at.file), pattern)
	}
	if !strings.ContainsAny(pattern, "*?[") {
		return []string{pattern}
	}
	names, err := m.options.Glob(pattern)
	if err != nil {
		m.fault(at.place, "import", "%q is not a pattern of files: %v", pattern, err)
	}
	hidden := strings.HasPrefix(filepath.Base(pattern), ".")
	names = slices.DeleteFunc(names, func(n string) bool { return !hidden && strings.HasPrefix(filepath.Base(n), ".") })
	slices.Sort(names)
	return names
}

// argument matches {args[0]}, {args[1:]}, {args[:]} or the older {args.0}.
// Read-only.
var argument = regexp.MustCompile(`\{args(?:\[(\d*)(:?)(\d*)\]|\.(\d+|\*))\}`)

// fill replaces the arguments in the tokens of a snippet or file.
func (m *importer) fill(body, args []token) []token {
	out := make([]token, 0, len(body))
	for _, t := range body {
		found := argument.FindStringSubmatch(t.text)
		if found == nil {
			out = append(out, t)
			continue
		}
		if found[0] == t.text && (found[2] == ":" || found[4] == "*") {
			out = append(out, m.spread(t, found, args)...)
			continue
		}
		t.text = argument.ReplaceAllStringFunc(t.text, func(s string) string { return m.argument(t, s, args) })
		out = append(out, t)
	}
	return out
}

// spread returns the tokens that replace a token for several arguments.
func (m *importer) spread(t token, found []string, args []token) (out []token) {
	from, to := 0, len(args)
	if found[1] != "" {
		from, _ = strconv.Atoi(found[1])
	}
	if found[3] != "" {
		to, _ = strconv.Atoi(found[3])
	}
	if from > len(args) || to > len(args) || from > to {
		m.fault(t.place, t.text, "the import has %d arguments", len(args))
		return nil
	}
	for i, a := range args[from:to] {
		a.place, a.first = t.place, t.first && i == 0
		out = append(out, a)
	}
	return out
}

// argument returns the text that replaces one argument within a token.
func (m *importer) argument(t token, s string, args []token) string {
	found := argument.FindStringSubmatch(s)
	if found[2] == ":" || found[4] == "*" {
		m.fault(t.place, s, "several arguments must be a word of their own: write %s between spaces, without quotes", s)
		return ""
	}
	n, err := strconv.Atoi(found[1] + found[4])
	if err != nil || n >= len(args) {
		m.fault(t.place, s, "the import has %d arguments", len(args))
		return ""
	}
	return args[n].text
}
