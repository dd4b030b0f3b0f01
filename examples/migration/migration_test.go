// Package migration_test checks the pages about other proxies: every line of Go
// in them compiles and has valid settings.
//
//   - migration_test.go compiles and runs the pages
//   - differences_test.go checks what the pages say about behavior
package migration_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/proxytest"
)

func TestMain(m *testing.M) { proxytest.Main(m) }

// A snippet is Go code from a page.
type snippet struct {
	page string
	line int
	text string
}

// A page holds what was found in one Markdown file.
type page struct {
	rows     []snippet // second column of the tables, at most one per row
	programs []snippet // fenced blocks
	all      int       // number of rows, with and without Go
}

var (
	code    = regexp.MustCompile("`([^`]+)`")
	columns = regexp.MustCompile(`^\| .* \| Go \| how it differs \|$`)
)

// read finds the Go in a page.
func read(t *testing.T, name string) page {
	t.Helper()
	text, err := os.ReadFile(name)
	require.NoError(t, err)
	var (
		p     page
		table bool
		fence *snippet
	)
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case fence != nil && line == "```":
			if fence.text != "" {
				p.programs = append(p.programs, *fence)
			}
			fence = nil
		case fence != nil && fence.line > 0:
			fence.text += line + "\n"
		case fence != nil: // a block in another language
		case strings.HasPrefix(line, "```go"):
			fence = &snippet{page: name, line: i + 2}
		case strings.HasPrefix(line, "```"):
			fence = new(snippet)
		case columns.MatchString(line):
			table = true
		case !strings.HasPrefix(line, "|"):
			table = false
		case table && !strings.HasPrefix(line, "|---"):
			p.all++
			cells := strings.Split(line, " | ")
			require.GreaterOrEqual(t, len(cells), 3, "%s:%d: a row has three cells", name, i+1)
			differs := strings.TrimSuffix(strings.Join(cells[2:], " | "), " |")
			assert.NotEmpty(t, strings.TrimSpace(differs), "%s:%d: say how it differs", name, i+1)
			if found := code.FindStringSubmatch(cells[1]); found != nil {
				p.rows = append(p.rows, snippet{name, i + 1, found[1]})
			} else {
				assert.Equal(t, "—", cells[1], "%s:%d: the second cell is code or a dash", name, i+1)
			}
		}
	}
	require.Nil(t, fence, "%s: a fenced block has no end", name)
	return p
}

// imports are the packages that lines of the tables may use, by name.
var imports = map[string]string{ // Read-only.
	"bcrypt": "golang.org/x/crypto/bcrypt", "certmagic": "github.com/caddyserver/certmagic",
	"hostproxy": "github.com/hostproxy/hostproxy", "http": "net/http", "httputil": "net/http/httputil",
	"slog": "log/slog", "netip": "net/netip", "tls": "crypto/tls", "x509": "crypto/x509",
	"context": "context", "io": "io", "log": "log", "net": "net", "os": "os", "strings": "strings", "time": "time",
}

const rowHead = `
func row%d() (fault error) {
	defer func() {
		if p := recover(); p != nil {
			fault = fmt.Errorf("panic: %%v", p)
		}
	}()
	var r hostproxy.Router
	s := &hostproxy.Server{Router: &r}
	app := hostproxy.To("localhost:4000")
	_ = s
//line %s:%d
	%s
	if _, ok := maps.Collect(r.All())["app.example.com"]; !ok {
		r.Handle("app.example.com", app)
	}
	return r.Check()
}
`

// rowsProgram returns a program that runs each row and prints the errors of
// Router.Check.
func rowsProgram(t *testing.T, rows []snippet) string {
	t.Helper()
	var funcs, calls strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&funcs, rowHead, i, row.page, row.line, row.text)
		fmt.Fprintf(&calls, "\tif err := row%d(); err != nil {\n\t\tfmt.Println(%q, err)\n\t}\n", i, fmt.Sprintf("%s:%d:", row.page, row.line))
	}
	body := funcs.String() + "\nfunc main() {\n" + calls.String() + "}\n"
	parsed, err := parser.ParseFile(token.NewFileSet(), "rows.go", "package main\n"+body, parser.SkipObjectResolution)
	require.NoError(t, err)
	used := map[string]bool{}
	ast.Inspect(parsed, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if id, ok := s.X.(*ast.Ident); ok && imports[id.Name] != "" {
				used[id.Name] = true
			}
		}
		return true
	})
	head := "package main\n\nimport (\n\t\"fmt\"\n\t\"maps\"\n"
	for name := range used {
		head += fmt.Sprintf("\t%q\n", imports[name])
	}
	return head + ")\n" + body
}

func write(t *testing.T, name, text string) {
	t.Helper()
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
}

// goTool runs the go command in this module on a file outside its tree.
func goTool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", args...).CombinedOutput()
	require.NoError(t, err, "go %v:\n%s", args, out)
	return string(out)
}

func TestEveryLineOfTheTablesCompilesAndHasValidSettings(t *testing.T) {
	var rows []snippet
	for _, tt := range []struct {
		page string
		rows int // minimum
	}{{"nginx.md", 30}, {"traefik.md", 30}, {"caddy.md", 15}, {"httputil.md", 5}} {
		p := read(t, tt.page)
		assert.GreaterOrEqual(t, p.all, tt.rows, tt.page)
		rows = append(rows, p.rows...)
		t.Logf("%s: %d rows, %d with Go", tt.page, p.all, len(p.rows))
	}
	program := filepath.Join(t.TempDir(), "main.go")
	write(t, program, rowsProgram(t, rows))
	assert.Empty(t, goTool(t, "run", program), "Router.Check refuses settings")
}

func TestEveryProgramOfThePagesCompiles(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	require.NoError(t, err)
	programs := 0
	for _, name := range pages {
		for _, block := range read(t, name).programs {
			programs++
			program := filepath.Join(t.TempDir(), "main.go")
			write(t, program, fmt.Sprintf("//line %s:%d\n%s", name, block.line, block.text))
			goTool(t, "vet", program)
		}
	}
	assert.Equal(t, 4, programs)
}
