package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// guidePath is the map of internal.
const guidePath = "internal/README.md"

// A tree is the parsed repository.
type tree struct {
	fset  *token.FileSet
	files []*file           // sorted by path
	root  []string          // names at the top, except hidden ones
	goMod map[string]string // text of each go.mod by its directory; "." is the root
	guide string            // text of internal/README.md
}

// A file is a Go file.
type file struct {
	path   string // slash-separated, relative to the top
	dir    string // its directory, "." at the top
	module string // the directory of its go.mod
	test   bool   // *_test.go
	lines  []string
	ast    *ast.File
}

func load(fsys fs.FS) (*tree, error) {
	t := &tree{fset: token.NewFileSet(), goMod: map[string]string{}}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return t.add(fsys, p, d)
	})
	for _, f := range t.files {
		f.module = t.moduleOf(f.dir)
	}
	return t, err
}

// add adds one entry of the walk to the tree. It skips hidden entries and
// testdata, as the go command does.
func (t *tree) add(fsys fs.FS, p string, d fs.DirEntry) error {
	name := d.Name()
	if p != "." && strings.HasPrefix(name, ".") || d.IsDir() && name == "testdata" {
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	}
	if p != "." && path.Dir(p) == "." {
		t.root = append(t.root, name)
	}
	if d.IsDir() || name != "go.mod" && p != guidePath && path.Ext(name) != ".go" {
		return nil
	}
	text, err := fs.ReadFile(fsys, p)
	if err != nil {
		return err
	}
	if p == guidePath {
		t.guide = string(text)
		return nil
	}
	if name == "go.mod" {
		t.goMod[path.Dir(p)] = string(text)
		return nil
	}
	parsed, err := parser.ParseFile(t.fset, p, text, parser.ParseComments)
	if err != nil {
		return err
	}
	t.files = append(t.files, &file{
		path: p, dir: path.Dir(p), test: strings.HasSuffix(p, "_test.go"),
		lines: strings.Split(strings.TrimSuffix(string(text), "\n"), "\n"), ast: parsed,
	})
	return nil
}

// moduleOf returns the nearest directory with a go.mod, from dir upwards.
func (t *tree) moduleOf(dir string) string {
	for dir != "." {
		if _, ok := t.goMod[dir]; ok {
			return dir
		}
		dir = path.Dir(dir)
	}
	return dir
}

// nested reports whether f belongs to a nested module, which has its own
// dependencies and layout.
func (f *file) nested() bool { return f.module != "." }

// within reports whether f is in directory dir or below it.
func (f *file) within(dir string) bool { return f.dir == dir || strings.HasPrefix(f.dir, dir+"/") }

// imports returns the import paths of f with their specs.
func (f *file) imports() map[string]*ast.ImportSpec {
	all := make(map[string]*ast.ImportSpec, len(f.ast.Imports))
	for _, s := range f.ast.Imports {
		if p, err := strconv.Unquote(s.Path.Value); err == nil {
			all[p] = s
		}
	}
	return all
}

// named returns the name by which f refers to the package at importPath, or ""
// if it does not import it.
func (f *file) named(importPath string) string {
	s, ok := f.imports()[importPath]
	switch {
	case !ok:
		return ""
	case s.Name != nil:
		return s.Name.Name
	}
	return path.Base(importPath)
}

// packages groups the files by directory and package name, with test packages
// apart. Each group is sorted by path.
func (t *tree) packages() map[string][]*file {
	all := map[string][]*file{}
	for _, f := range t.files {
		key := f.dir + " " + f.ast.Name.Name
		all[key] = append(all[key], f)
	}
	return all
}

// under reports whether importPath is one of the packages in dirs, or below
// one.
func under(importPath string, dirs ...string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool {
		return importPath == d || strings.HasPrefix(importPath, d+"/")
	})
}
