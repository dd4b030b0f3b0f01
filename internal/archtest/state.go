package archtest

import (
	"go/ast"
	"go/token"
	"path"
	"regexp"
	"slices"
	"strings"
)

// foreignGlobals matches, by import path, names that are or change the global
// state of another package. Read-only.
var foreignGlobals = map[string]*regexp.Regexp{
	"net/http":                         regexp.MustCompile(`^(Default(Transport|Client|ServeMux)|Handle|HandleFunc|Get|Post|PostForm|Head)$`),
	"log/slog":                         regexp.MustCompile(`^SetDefault$`),
	"log":                              regexp.MustCompile(`^Set`),
	"github.com/caddyserver/certmagic": regexp.MustCompile(`^(Default.*|NewDefault|HTTPS|TLS|Listen|Manage(Sync|Async))$`),
}

// locks matches types whose package-level values are always state. Read-only.
var locks = regexp.MustCompile(`^(atomic\..*|sync\.(Mutex|RWMutex|Map|Once|WaitGroup|Cond))$`)

// sentinel matches the names of error values. Read-only.
var sentinel = regexp.MustCompile(`^[eE]rr[A-Z]`)

func (c *checker) noInit() {
	c.functions(func(_ *file, d *ast.FuncDecl) {
		if d.Recv == nil && d.Name.Name == "init" {
			c.report(d.Pos(), "no init: what a value needs, its constructor or first use does")
		}
	})
}

// noMutableGlobals allows a package-level variable only if it is an error
// sentinel, a compiled expression, a pool, or a table whose comment calls it
// read-only and that nothing in the package assigns to.
func (c *checker) noMutableGlobals() {
	written := map[string]bool{} // "dir name" of package-level variables that are assigned
	c.source(func(f *file) { f.assignments(func(name string) { written[f.dir+" "+name] = true }) })
	c.declarations(func(f *file, d *ast.GenDecl) {
		for _, s := range d.Specs {
			if s, ok := s.(*ast.ValueSpec); ok && d.Tok == token.VAR {
				c.global(f, d, s, written)
			}
		}
	})
}

func (c *checker) global(f *file, d *ast.GenDecl, s *ast.ValueSpec, written map[string]bool) {
	typ := typeOf(s)
	comment := strings.ToLower(d.Doc.Text() + s.Doc.Text() + s.Comment.Text())
	for _, name := range s.Names {
		harmless := sentinel.MatchString(name.Name) || slices.Contains([]string{"errors.New", "sync.Pool", "regexp.MustCompile"}, typ)
		switch {
		case name.Name == "_":
		case written[f.dir+" "+name.Name]:
			c.report(name.Pos(), "%s is assigned: no mutable state at package level", name.Name)
		case locks.MatchString(typ):
			c.report(name.Pos(), "%s is a %s: no mutable state at package level", name.Name, typ)
		case !harmless && !strings.Contains(comment, "read-only"):
			c.report(name.Pos(), "%s is a package-level variable: if nothing changes it, its comment says \"Read-only.\"", name.Name)
		}
	}
}

// typeOf returns the type or constructor in a variable's declaration, such as
// sync.Pool or errors.New. It returns "" for other forms.
func typeOf(s *ast.ValueSpec) string {
	expr := s.Type
	if expr == nil && len(s.Values) > 0 {
		expr = s.Values[0]
	}
	for {
		switch e := expr.(type) {
		case *ast.UnaryExpr:
			expr = e.X
		case *ast.StarExpr:
			expr = e.X
		case *ast.CompositeLit:
			expr = e.Type
		case *ast.IndexExpr:
			expr = e.X
		case *ast.CallExpr:
			if fun, ok := e.Fun.(*ast.Ident); ok && fun.Name == "new" && len(e.Args) == 1 {
				expr = e.Args[0]
				continue
			}
			expr = e.Fun
		case *ast.SelectorExpr:
			if x, ok := e.X.(*ast.Ident); ok {
				return x.Name + "." + e.Sel.Name
			}
			return ""
		default:
			return ""
		}
	}
}

// assignments calls found with the name of each package-level variable that a
// statement in the file assigns to, wholly or partly. A name declared anywhere
// in the same function counts as local.
func (f *file) assignments(found func(name string)) {
	for _, d := range f.ast.Decls {
		own := localNames(d)
		ast.Inspect(d, func(n ast.Node) bool {
			for _, expr := range assigned(n) {
				if name := base(expr); name != nil && !own[name.Name] {
					found(name.Name)
				}
			}
			return true
		})
	}
}

// assigned returns the expressions that the statement n itself changes.
func assigned(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.RangeStmt:
		if n.Tok == token.ASSIGN {
			return []ast.Expr{n.Key, n.Value}
		}
	case *ast.CallExpr:
		if fun, ok := n.Fun.(*ast.Ident); ok && (fun.Name == "delete" || fun.Name == "clear") && len(n.Args) > 0 {
			return n.Args[:1]
		}
	}
	return nil
}

// localNames returns the names that a function declares: its receiver,
// parameters, results and variables.
func localNames(d ast.Decl) map[string]bool {
	own := map[string]bool{}
	add := func(exprs ...ast.Expr) {
		for _, e := range exprs {
			if name, ok := e.(*ast.Ident); ok {
				own[name.Name] = true
			}
		}
	}
	fn, ok := d.(*ast.FuncDecl)
	if !ok {
		return own
	}
	ast.Inspect(fn, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.Field:
			for _, name := range n.Names {
				add(name)
			}
		case *ast.ValueSpec:
			for _, name := range n.Names {
				add(name)
			}
		case *ast.AssignStmt:
			if n.Tok == token.DEFINE {
				add(n.Lhs...)
			}
		case *ast.RangeStmt:
			if n.Tok == token.DEFINE {
				add(n.Key, n.Value)
			}
		}
		return true
	})
	return own
}

// base returns the variable that an assignable expression belongs to.
func base(expr ast.Expr) *ast.Ident {
	for {
		switch e := expr.(type) {
		case *ast.Ident:
			return e
		case *ast.IndexExpr:
			expr = e.X
		case *ast.SelectorExpr:
			expr = e.X
		case *ast.ParenExpr:
			expr = e.X
		default:
			return nil
		}
	}
}

func (c *checker) noForeignGlobals() {
	c.source(func(f *file) {
		for importPath, forbidden := range foreignGlobals {
			c.selectors(f, importPath, func(s *ast.SelectorExpr) {
				if forbidden.MatchString(s.Sel.Name) {
					c.report(s.Pos(), "%s.%s is global state of another package", path.Base(importPath), s.Sel.Name)
				}
			})
		}
	})
}

// selectors calls found for each name that a file uses from the package at
// importPath.
func (c *checker) selectors(f *file, importPath string, found func(*ast.SelectorExpr)) {
	local := f.named(importPath)
	if local == "" {
		return
	}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == local {
				found(s)
			}
		}
		return true
	})
}

// implements matches the comment of a method whose signature comes from an
// interface of another package. Read-only.
var implements = regexp.MustCompile(`\bimplements [a-z]\w*\.[A-Z]`)

func (c *checker) noBoolParameters() {
	c.functions(func(f *file, d *ast.FuncDecl) {
		given := d.Recv != nil && implements.MatchString(d.Doc.Text())
		if f.ast.Name.Name == "main" || !d.Name.IsExported() || !exportedReceiver(d) || given {
			return
		}
		for _, p := range d.Type.Params.List {
			if t, ok := p.Type.(*ast.Ident); ok && t.Name == "bool" {
				c.report(p.Pos(), "%s takes a bool: a caller's true says nothing, a field or a second function does", d.Name.Name)
			}
		}
	})
}

// testsFromOutside requires tests in package foo_test. Access to the inside
// belongs in export_test.go.
func (c *checker) testsFromOutside() {
	for _, f := range c.files {
		name := f.ast.Name.Name
		if f.test && name != "main" && !strings.HasSuffix(name, "_test") && !strings.HasPrefix(path.Base(f.path), "export_") {
			c.report(f.ast.Package, "tests are outside the package: want package %s_test, and export_test.go for what it needs from inside", name)
		}
	}
}

// noSleepInTests allows a test to sleep only with synctest's clock.
func (c *checker) noSleepInTests() {
	for _, f := range c.files {
		bubbles := f.bubbles()
		if !f.test {
			continue
		}
		c.selectors(f, "time", func(s *ast.SelectorExpr) {
			inside := slices.ContainsFunc(bubbles, func(n ast.Node) bool { return n.Pos() <= s.Pos() && s.Pos() < n.End() })
			if s.Sel.Name == "Sleep" && !inside {
				c.report(s.Pos(), "no time.Sleep: wait for a condition, or run under testing/synctest")
			}
		})
	}
}

// bubbles returns the calls of synctest.Test in f, including their function
// literals.
func (f *file) bubbles() []ast.Node {
	var all []ast.Node
	local := f.named("testing/synctest")
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			if s, ok := call.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Test" {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == local && local != "" {
					all = append(all, call)
				}
			}
		}
		return true
	})
	return all
}
