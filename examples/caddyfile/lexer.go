package caddyfile

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxFile limits the size of one file. The other limits are for the words of
// all files and imports.
const (
	maxFile   = 1 << 20
	maxTokens = 200_000
	maxBytes  = 16 << 20
)

// A place is a position in a file. Columns are characters, counted from 1.
type place struct {
	file      string
	line, col int
}

// A token is a word, or a brace that opens or closes a block.
type token struct {
	place
	text   string
	quoted bool // in quotes, backquotes or a heredoc: never a brace, an import or a comment
	first  bool // the first of its line
}

func (t token) opens() bool  { return t.text == "{" && !t.quoted }
func (t token) closes() bool { return t.text == "}" && !t.quoted }

// A char is a character with its place before variables were replaced.
type char struct {
	r         rune
	line, col int
}

// A lexer splits one file into tokens.
type lexer struct {
	file   string
	in     []char
	at     int
	tokens []token
	fault  func(place, string, string, ...any) bool
}

// lex returns the tokens of a file. It first replaces variables such as
// {$HOST:localhost} as text, so that one variable can become several tokens.
func lex(file string, text []byte, getenv func(string) (string, bool), fault func(place, string, string, ...any) bool) []token {
	l := &lexer{file: file, fault: fault}
	if len(text) > maxFile {
		fault(place{file, 1, 1}, "", "the file has %d bytes: at most %d are read; split it, and import the parts", len(text), maxFile)
		return nil
	}
	l.in = l.expand(chars(string(text)), getenv)
	for l.space(); l.at < len(l.in); l.space() {
		l.word()
	}
	return l.tokens
}

// chars returns the characters of text without carriage returns and without a
// byte order mark.
func chars(text string) []char {
	in := make([]char, 0, len(text))
	line, col := 1, 1
	for i, r := range text {
		if r == '\uFEFF' && i == 0 || r == '\r' {
			continue
		}
		in = append(in, char{r, line, col})
		if col++; r == '\n' {
			line, col = line+1, 1
		}
	}
	return in
}

// expand replaces the variables {$NAME} and {$NAME:default}.
func (l *lexer) expand(in []char, getenv func(string) (string, bool)) []char {
	var out []char
	for i := 0; i < len(in); i++ {
		end := -1
		if in[i].r == '{' && i+1 < len(in) && in[i+1].r == '$' {
			end = closing(in, i)
		}
		if end < 0 {
			out = append(out, in[i])
			continue
		}
		name, fallback, has := strings.Cut(text(in[i+2:end]), ":")
		value, ok := getenv(name)
		if !ok && !has {
			l.fault(place{l.file, in[i].line, in[i].col}, "{$"+name+"}", "the environment variable is not set: set it, or write a default, as in {$%s:default}", name)
		}
		if !ok {
			value = fallback
		}
		for _, r := range value {
			out = append(out, char{r, in[i].line, in[i].col})
		}
		i = end
	}
	return out
}

// closing returns the index of the brace that closes the variable at i, or -1.
func closing(in []char, i int) int {
	for j := i + 2; j < len(in) && in[j].r != '\n'; j++ {
		if in[j].r == '}' {
			if j == i+2 {
				return -1
			}
			return j
		}
	}
	return -1
}

func text(in []char) string {
	var b strings.Builder
	for _, c := range in {
		b.WriteRune(c.r)
	}
	return b.String()
}

// space skips white space, comments and escaped line ends.
func (l *lexer) space() {
	for ; l.at < len(l.in); l.at++ {
		switch r := l.in[l.at].r; {
		case r == '#':
			for l.at+1 < len(l.in) && l.in[l.at+1].r != '\n' {
				l.at++
			}
		case r == '\\' && l.at+1 < len(l.in) && l.in[l.at+1].r == '\n':
			l.at++
		case !unicode.IsSpace(r):
			return
		}
	}
}

// newline reports whether the token at i begins a line. An escaped line end
// does not begin one.
func (l *lexer) newline(i int) bool {
	for i--; i >= 0; i-- {
		switch r := l.in[i].r; {
		case r == '\n' && i > 0 && l.in[i-1].r == '\\':
			i--
		case r == '\n':
			return true
		case !unicode.IsSpace(r):
			return false
		}
	}
	return true
}

// word reads one token.
func (l *lexer) word() {
	c := l.in[l.at]
	t := token{place: place{l.file, c.line, c.col}, first: l.newline(l.at)}
	switch {
	case c.r == '"' || c.r == '`':
		t.quoted = true
		t.text = l.quoted(t.place, c.r)
	case c.r == '<' && l.heredocMark() != "":
		t.quoted = true
		t.text = l.heredoc(t.place, l.heredocMark())
	default:
		t.text = l.bare()
	}
	if !utf8.ValidString(t.text) || strings.ContainsRune(t.text, utf8.RuneError) {
		l.fault(t.place, "", "the text is not valid UTF-8")
	}
	l.tokens = append(l.tokens, t)
}

func (l *lexer) bare() string {
	start := l.at
	for l.at < len(l.in) && !unicode.IsSpace(l.in[l.at].r) {
		if l.in[l.at].r == '\\' && l.at+1 < len(l.in) && l.in[l.at+1].r == '\n' {
			break
		}
		l.at++
	}
	return text(l.in[start:l.at])
}

// quoted reads to the closing quote. In "…", \" stands for a quote; in `…`,
// nothing is special.
func (l *lexer) quoted(at place, quote rune) string {
	var b strings.Builder
	for l.at++; l.at < len(l.in); l.at++ {
		switch r := l.in[l.at].r; {
		case r == quote:
			l.at++
			return b.String()
		case r == '\\' && quote == '"' && l.at+1 < len(l.in) && l.in[l.at+1].r == '"':
			l.at++
			b.WriteByte('"')
		default:
			b.WriteRune(r)
		}
	}
	l.fault(at, "", "the quote %c is not closed", quote)
	return b.String()
}

// heredocMark returns the marker of the heredoc that begins here, "" if none
// does.
func (l *lexer) heredocMark() string {
	i := l.at + 2
	if i >= len(l.in) || l.in[l.at+1].r != '<' {
		return ""
	}
	for i < len(l.in) && (unicode.IsLetter(l.in[i].r) || unicode.IsDigit(l.in[i].r) || l.in[i].r == '-' || l.in[i].r == '_') {
		i++
	}
	if i == len(l.in) || l.in[i].r != '\n' {
		return ""
	}
	return text(l.in[l.at+2 : i])
}

// heredoc reads lines to the one that begins with the marker, whose indentation
// is removed from all of them.
func (l *lexer) heredoc(at place, mark string) string {
	l.at += 2 + utf8.RuneCountInString(mark) + 1
	lines := strings.Split(text(l.in[l.at:]), "\n")
	for i, line := range lines {
		indent, rest, found := strings.Cut(line, mark)
		if !found || strings.TrimSpace(indent) != "" {
			l.at += utf8.RuneCountInString(line) + 1
			continue
		}
		l.at += utf8.RuneCountInString(line) - utf8.RuneCountInString(rest)
		for j := range lines[:i] {
			body, ok := strings.CutPrefix(lines[j], indent)
			if !ok && lines[j] != "" {
				l.fault(at, "<<"+mark, "line %d of the text is indented less than the closing %s: indent all lines at least as far", j+1, mark)
			}
			lines[j] = body
		}
		return strings.Join(lines[:i], "\n")
	}
	l.at = len(l.in)
	l.fault(at, "<<"+mark, "the text is not closed: write %s on a line of its own", mark)
	return ""
}
