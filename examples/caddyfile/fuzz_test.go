package caddyfile_test

import (
	"errors"
	"go/parser"
	"go/token"
	"io/fs"
	"strings"
	"testing"

	"github.com/hostproxy/hostproxy/examples/caddyfile"
)

// An accepted text can be built, and its program is valid Go. The faults of a
// refused text have places in the file.
func FuzzParse(f *testing.F) {
	for _, s := range samples(f) {
		f.Add(s.text)
	}
	for _, text := range refusedTexts() {
		f.Add(text)
	}
	f.Add("a.example {\n\trespond <<X\n  a\n X\n}\n")
	f.Add("(a) {\n\t{args[:]}\n}\na.example {\n\timport a respond \"x y\" 200\n}\n")
	o := caddyfile.Options{Getenv: environment(strings.Clone),
		ReadFile: func(string) ([]byte, error) { return nil, fs.ErrNotExist }, Glob: func(string) ([]string, error) { return nil, nil }}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := caddyfile.Parse("Caddyfile", []byte(text), o)
		var faults caddyfile.Faults
		switch {
		case err == nil:
		case !errors.As(err, &faults) || len(faults) == 0:
			t.Fatalf("not Faults: %v", err)
		default:
			lines := strings.Count(text, "\n") + 1
			for _, fault := range faults {
				if fault.File != "Caddyfile" || fault.Line < 1 || fault.Line > lines || fault.Column < 1 {
					t.Fatalf("no place in a file of %d lines: %v", lines, fault)
				}
			}
			return
		}
		if !strings.Contains(text, "output") { // otherwise log files would be opened
			if _, err := c.Servers(); err != nil {
				t.Fatalf("accepted, but: %v", err)
			}
		}
		if _, err := parser.ParseFile(token.NewFileSet(), "main.go", c.Go(), parser.AllErrors); err != nil {
			t.Fatalf("not Go: %v\n%s", err, c.Go())
		}
	})
}
