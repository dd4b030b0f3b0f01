package archtest

import (
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
)

// The limits of the style: about 500 lines for a file, 60 for a function
// without a reason, 60 for an example.
const (
	maxFileLines = 550
	// without comments: the four public files have the whole API, and there are
	// no further files for it
	maxPublicLines   = 950
	maxFunctionLines = 60
	maxExampleLines  = 60
)

// obviousMethods need no comment: their interface explains them. Read-only.
var obviousMethods = []string{"Error", "String", "Unwrap"}

func (c *checker) packageComments() {
	for _, files := range c.packages() {
		name := files[0].ast.Name.Name
		if strings.HasSuffix(name, "_test") && c.hasSource(files[0].dir) {
			for _, f := range files {
				if f.ast.Doc != nil {
					c.report(f.ast.Package, "a test package beside its package has no package comment")
				}
			}
			continue
		}
		c.packageComment(name, files)
	}
}

// packageComment requires one comment, in the file where a reader expects it.
func (c *checker) packageComment(name string, files []*file) {
	home := path.Base(files[0].dir) + ".go"
	switch {
	case name == "main":
		home = "main.go"
	case files[0].dir == ".":
		home = "proxy.go"
	case !c.hasSource(files[0].dir):
		home = path.Base(files[0].dir) + "_test.go"
	}
	found := false
	for _, f := range files {
		switch {
		case f.ast.Doc == nil:
		case path.Base(f.path) != home:
			c.report(f.ast.Package, "the comment of package %s belongs in %s", name, home)
		default:
			found = true
		}
	}
	if !found {
		c.report(files[0].ast.Package, "package %s has no comment in %s", name, home)
	}
}

// mapOfFiles requires that the comment of a package with more than two files
// names each of them, so that a reader knows where to look.
func (c *checker) mapOfFiles() {
	for _, files := range c.packages() {
		home := ""
		var names []string
		for _, f := range files {
			if _, placed := levels[f.dir]; !placed || f.test {
				continue
			}
			names = append(names, path.Base(f.path))
			if f.ast.Doc != nil {
				home += f.ast.Doc.Text()
			}
		}
		for _, name := range names {
			if len(names) > 2 && !regexp.MustCompile(`\b`+regexp.QuoteMeta(name)+`\b`).MatchString(home) {
				c.reportFile(path.Join(files[0].dir, name), "is not on the map of files, the package's comment")
			}
		}
	}
}

// hasSource reports whether dir has non-test Go files.
func (c *checker) hasSource(dir string) bool {
	for _, f := range c.files {
		if f.dir == dir && !f.test {
			return true
		}
	}
	return false
}

func (c *checker) exportedDocumented() {
	c.functions(func(f *file, d *ast.FuncDecl) {
		obvious := d.Recv != nil && slices.Contains(obviousMethods, d.Name.Name)
		if f.ast.Name.Name != "main" && d.Name.IsExported() && exportedReceiver(d) && !obvious {
			c.wantDoc(d.Name, d.Doc)
		}
	})
	c.declarations(func(f *file, d *ast.GenDecl) {
		if f.ast.Name.Name != "main" {
			c.declDocumented(f, d)
		}
	})
}

func (c *checker) declDocumented(f *file, d *ast.GenDecl) {
	for _, s := range d.Specs {
		switch s := s.(type) {
		case *ast.TypeSpec:
			doc := s.Doc
			if doc == nil && !d.Lparen.IsValid() {
				doc = d.Doc
			}
			if s.Name.IsExported() {
				c.wantDoc(s.Name, doc)
				c.fieldsDocumented(f, s, doc.Text())
			}
		case *ast.ValueSpec:
			for _, name := range s.Names {
				if name.IsExported() && d.Doc == nil && s.Doc == nil && s.Comment == nil {
					c.report(name.Pos(), "%s is exported and not documented", name.Name)
				}
			}
		}
	}
}

// fieldsDocumented requires that each exported field of a public struct is
// documented: by a comment of its own, by one for a block of lines without a
// gap, or by its name in about, the struct's own comment.
func (c *checker) fieldsDocumented(f *file, s *ast.TypeSpec, about string) {
	st, ok := s.Type.(*ast.StructType)
	if !ok || f.dir != "." {
		return
	}
	covered := 0 // the last line that a comment covers
	for _, field := range st.Fields.List {
		start, end := c.fset.Position(field.Pos()).Line, c.fset.Position(field.End()).Line
		switch documented := field.Doc != nil || field.Comment != nil; {
		case documented || start == covered+1 && covered > 0:
			covered = end
		case len(field.Names) > 0 && field.Names[0].IsExported() && !names(about, field.Names[0]):
			c.report(field.Pos(), "field %s.%s is exported and not documented", s.Name.Name, field.Names[0].Name)
		}
	}
}

// wantDoc requires that the first sentence of doc contains name.
func (c *checker) wantDoc(name *ast.Ident, doc *ast.CommentGroup) {
	if doc == nil {
		c.report(name.Pos(), "%s is exported and not documented", name.Name)
		return
	}
	first, _, _ := strings.Cut(doc.Text(), ". ")
	if !names(first, name) {
		c.report(name.Pos(), "the first sentence about %s does not name it", name.Name)
	}
}

// names reports whether text contains name as a whole word.
func names(text string, name *ast.Ident) bool {
	return regexp.MustCompile(`\b` + name.Name + `\b`).MatchString(text)
}

// exportedReceiver reports whether d is a function, or a method of an exported
// type.
func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	name := receiverType(d)
	return name != nil && name.IsExported()
}

// receiverType returns the name of the type that d is a method of.
func receiverType(d *ast.FuncDecl) *ast.Ident {
	expr := d.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e
		default:
			return nil
		}
	}
}

// fileLength limits files. In public files, lines of comments do not count:
// their number is fixed, and more than half of their lines are contracts.
func (c *checker) fileLength() {
	c.source(func(f *file) {
		lines, most := len(f.lines), maxFileLines
		if path.Dir(f.path) == "." {
			lines, most = lines-c.commentLines(f, 1), maxPublicLines
		}
		if lines > most {
			c.reportFile(f.path, "has %d lines, above %d: split it by noun", lines, most)
		}
	})
}

func (c *checker) functionLength() {
	c.functions(func(_ *file, d *ast.FuncDecl) {
		lines := c.fset.Position(d.End()).Line - c.fset.Position(d.Pos()).Line + 1
		if lines > maxFunctionLines && (d.Doc == nil || !strings.Contains(d.Doc.Text(), "Long because ")) {
			c.report(d.Pos(), "%s has %d lines, above %d: split it by stage, or say \"Long because ...\"", d.Name.Name, lines, maxFunctionLines)
		}
	})
}

func (c *checker) exampleLength() {
	c.source(func(f *file) {
		start := c.fset.Position(f.ast.Package).Line
		lines := len(f.lines) - start + 1 - c.commentLines(f, start)
		if f.within("examples") && path.Base(f.path) == "main.go" && lines > maxExampleLines {
			c.reportFile(f.path, "has %d lines without comments, above %d: an example fits a screen", lines, maxExampleLines)
		}
	})
}
