package archtest

import (
	"go/ast"
	"path"
	"regexp"
	"strings"
)

// guideRow matches a row about a folder. guideName matches a name that the row
// recommends as a start. Read-only.
var (
	guideRow  = regexp.MustCompile(`^\| \[(\w+)\]\(\w+\) \|(.*)\|$`)
	guideName = regexp.MustCompile("`([A-Z]\\w*)`")
)

// mapOfInternal requires a row in the map for each folder of internal, a folder
// for each row, and that the names in a row exist.
func (c *checker) mapOfInternal() {
	folders := map[string]bool{}
	for _, f := range c.files {
		if rest, ok := strings.CutPrefix(f.dir, "internal/"); ok {
			top, _, _ := strings.Cut(rest, "/")
			folders[top] = true
		}
	}
	for i, line := range strings.Split(c.guide, "\n") {
		row := guideRow.FindStringSubmatch(line)
		if row == nil {
			continue
		}
		folder := row[1]
		if _, ok := folders[folder]; !ok {
			c.problems = append(c.problems, Problem{c.rule, guidePath, i + 1, "there is no folder " + folder})
			continue
		}
		folders[folder] = false // it is on the map
		for _, name := range guideName.FindAllStringSubmatch(row[2], -1) {
			if !c.declares(path.Join("internal", folder), name[1]) {
				c.problems = append(c.problems, Problem{c.rule, guidePath, i + 1, folder + " has no " + name[1]})
			}
		}
	}
	for folder, missing := range folders {
		if missing {
			c.reportFile(path.Join("internal", folder), "is not on the map, %s", guidePath)
		}
	}
}

// declares reports whether the package in dir declares a function or type of
// this name.
func (c *checker) declares(dir, name string) bool {
	found := false
	c.functions(func(f *file, d *ast.FuncDecl) {
		found = found || f.dir == dir && d.Recv == nil && d.Name.Name == name
	})
	c.declarations(func(f *file, d *ast.GenDecl) {
		for _, s := range d.Specs {
			t, ok := s.(*ast.TypeSpec)
			found = found || ok && f.dir == dir && t.Name.Name == name
		}
	})
	return found
}
