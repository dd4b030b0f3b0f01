package archtest

import (
	"go/ast"
	"regexp"
	"strings"
	"unicode/utf8"
)

// The last column of a comment on its own lines, and of a comment after code. A
// tab counts as four columns.
const (
	maxCommentWidth  = 80
	maxTrailingWidth = 100
)

// unfolded matches comments that may be wider, since a program reads them or a
// reader copies them: directives, code, commands and link addresses. Read-only.
var unfolded = regexp.MustCompile(`^//([a-z]|\t| {2,}[^ \-]|\s*want | \[[^\]]+\]: )`)

func (c *checker) commentWidth() {
	for _, f := range c.files {
		output := false
		for _, g := range f.ast.Comments {
			for i, m := range g.List {
				output = i > 0 && output || isOutput(m)
				line := f.lines[c.fset.Position(m.Pos()).Line-1]
				most := maxCommentWidth
				if !c.alone(f, m) {
					most = maxTrailingWidth
				}
				if w := width(line); w > most && !output && !unfolded.MatchString(m.Text) {
					c.report(m.Pos(), "the comment ends at column %d, above %d", w, most)
				}
			}
		}
	}
}

// isOutput reports whether m begins the expected output of an Example. Its
// lines must stay as they are.
func isOutput(m *ast.Comment) bool {
	text := strings.ToLower(m.Text)
	return strings.HasPrefix(text, "// output:") || strings.HasPrefix(text, "// unordered output:")
}

// commentLines returns how many lines of f, starting with line from, have a
// comment and no code.
func (c *checker) commentLines(f *file, from int) (n int) {
	for _, g := range f.ast.Comments {
		for _, m := range g.List {
			start, end := c.fset.Position(m.Pos()).Line, c.fset.Position(m.End()).Line
			if start >= from && c.alone(f, m) {
				n += end - start + 1
			}
		}
	}
	return n
}

// alone reports whether m has no code before it on its line.
func (c *checker) alone(f *file, m *ast.Comment) bool {
	at := c.fset.Position(m.Pos())
	return strings.TrimSpace(f.lines[at.Line-1][:at.Column-1]) == ""
}

// width returns the number of columns of line.
func width(line string) int {
	return utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    "))
}
