// Package archtest checks the machine-checkable part of the house style, in a
// test of the whole repository: which packages may import which, what must be
// documented, how long files and functions may grow, and what must not exist at
// all. Only tests import it.
//
// A rule reads syntax, not types. Its message names the file and line, and says
// how to keep the rule.
package archtest

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/token"
	"io/fs"
	"slices"
)

// ModulePath is the import path of the root package.
const ModulePath = "github.com/hostproxy/hostproxy"

// A Problem is a place where the source breaks a rule.
type Problem struct {
	Rule, File string
	Line       int // 0 for a problem of the whole file
	Message    string
}

func (p Problem) String() string {
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s [%s]", p.File, p.Message, p.Rule)
	}
	return fmt.Sprintf("%s:%d: %s [%s]", p.File, p.Line, p.Message, p.Rule)
}

// A rule checks the whole tree and reports the problems.
type rule struct {
	name  string
	check func(*checker)
}

// rules lists all rules, in the order in which the style explains them.
// Read-only.
var rules = []rule{
	{"root-files", (*checker).rootFiles},
	{"direct-dependencies", (*checker).directDependencies},
	{"map-of-internal", (*checker).mapOfInternal},
	{"import-direction", (*checker).importDirection},
	{"foreign-imports", (*checker).foreignImports},
	{"kit-in-tests-only", (*checker).kitInTestsOnly},
	{"package-comment", (*checker).packageComments},
	{"map-of-files", (*checker).mapOfFiles},
	{"exported-documented", (*checker).exportedDocumented},
	{"file-length", (*checker).fileLength},
	{"function-length", (*checker).functionLength},
	{"example-length", (*checker).exampleLength},
	{"comment-width", (*checker).commentWidth},
	{"no-init", (*checker).noInit},
	{"no-mutable-globals", (*checker).noMutableGlobals},
	{"no-foreign-globals", (*checker).noForeignGlobals},
	{"no-bool-parameters", (*checker).noBoolParameters},
	{"tests-from-outside", (*checker).testsFromOutside},
	{"no-sleep-in-tests", (*checker).noSleepInTests},
}

// Check reads the repository in fsys and returns all problems, sorted by place.
// It returns an error if a file cannot be read or parsed.
func Check(fsys fs.FS) ([]Problem, error) {
	t, err := load(fsys)
	if err != nil {
		return nil, err
	}
	c := &checker{tree: t}
	for _, r := range rules {
		c.rule = r.name
		r.check(c)
	}
	slices.SortFunc(c.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Rule, b.Rule))
	})
	return c.problems, nil
}

// A checker passes the tree to the rules and collects their problems.
type checker struct {
	*tree
	rule     string
	problems []Problem
}

// report adds a problem at a position in a Go file.
func (c *checker) report(pos token.Pos, format string, args ...any) {
	p := c.fset.Position(pos)
	c.problems = append(c.problems, Problem{c.rule, p.Filename, p.Line, fmt.Sprintf(format, args...)})
}

// reportFile adds a problem about a file as a whole.
func (c *checker) reportFile(file, format string, args ...any) {
	c.problems = append(c.problems, Problem{c.rule, file, 0, fmt.Sprintf(format, args...)})
}

// source calls f for each non-test file.
func (c *checker) source(f func(*file)) {
	for _, g := range c.files {
		if !g.test {
			f(g)
		}
	}
}

// functions calls f for each function and method in non-test files.
func (c *checker) functions(f func(*file, *ast.FuncDecl)) {
	c.source(func(g *file) {
		for _, d := range g.ast.Decls {
			if d, ok := d.(*ast.FuncDecl); ok {
				f(g, d)
			}
		}
	})
}

// declarations calls f for each declaration in non-test files, except
// functions.
func (c *checker) declarations(f func(*file, *ast.GenDecl)) {
	c.source(func(g *file) {
		for _, d := range g.ast.Decls {
			if d, ok := d.(*ast.GenDecl); ok {
				f(g, d)
			}
		}
	})
}
