package archtest_test

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/archtest"
)

func TestTheRepositoryKeepsTheHouseStyle(t *testing.T) {
	problems, err := archtest.Check(os.DirFS("../.."))
	require.NoError(t, err)
	for _, p := range problems {
		t.Error(p)
	}
}

// clean returns a repository without problems. Each case of a test adds one
// file to it.
func clean() fstest.MapFS {
	return files(map[string]string{
		"go.mod":                   "module github.com/hostproxy/hostproxy\n\ngo 1.26.0\n\nrequire golang.org/x/net v0.59.0\n",
		"proxy.go":                 "// Package hostproxy is a proxy.\npackage hostproxy\n\nimport _ \"github.com/hostproxy/hostproxy/internal/serve\"\n",
		"internal/serve/serve.go":  "// Package serve serves.\npackage serve\n\nimport _ \"github.com/hostproxy/hostproxy/internal/pool\"\n",
		"internal/pool/pool.go":    "// Package pool pools.\npackage pool\n\n// Pool is a pool.\ntype Pool int\n\n// New makes one.\nfunc New() {}\n",
		"internal/peek/peek.go":    "// Package peek peeks: peek.go does, and mark.go marks.\npackage peek\n",
		"internal/peek/mark.go":    "package peek\n",
		"internal/bench/go.mod":    "module example.test/bench\n",
		"internal/bench/main.go":   "// Command bench measures.\npackage main\n",
		"examples/five/main.go":    "// Command five runs five sites.\npackage main\n\nimport _ \"github.com/hostproxy/hostproxy\"\n",
		".ci/tool.go":              "not Go, but hidden",
		"internal/pool/testdata/x": "not Go, but data",
	})
}

func files(texts map[string]string) fstest.MapFS {
	all := fstest.MapFS{}
	for name, text := range texts {
		all[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return all
}

const guide = "internal/README.md"

// mapOf returns a map of internal with a row for each folder.
func mapOf(tree fstest.MapFS) string {
	text := ""
	folders, _ := fs.Glob(tree, "internal/*/*")
	for _, file := range folders {
		folder := path.Base(path.Dir(file))
		text += "| [" + folder + "](" + folder + ") | does this |\n"
	}
	return text
}

func check(t *testing.T, name, text string) []archtest.Problem {
	t.Helper()
	tree := clean()
	maps.Copy(tree, files(map[string]string{name: text}))
	if name != guide {
		tree[guide] = &fstest.MapFile{Data: []byte(mapOf(tree))}
	}
	problems, err := archtest.Check(tree)
	require.NoError(t, err)
	return problems
}

func TestACleanTreeHasNoProblem(t *testing.T) {
	assert.Empty(t, check(t, "LICENSE", ""))
}

func TestBrokenSourceIsAnError(t *testing.T) {
	_, err := archtest.Check(files(map[string]string{"proxy.go": "package"}))
	assert.Error(t, err)
}

// long returns a function with this number of lines after a comment.
func long(comment string, lines int) string {
	text := "package pool\n\n" + comment + "\nfunc f() {\n"
	for range lines - 2 {
		text += "\tprintln()\n"
	}
	return text + "}\n"
}

// lined returns n empty lines.
func lined(n int) string {
	text := make([]byte, n)
	for i := range text {
		text[i] = '\n'
	}
	return string(text)
}

func TestEachRuleFindsAProblem(t *testing.T) {
	const ours = archtest.ModulePath
	tests := []struct {
		about, file, text, rule string
	}{
		{"a fifth file at the top", "server.go", "package hostproxy\n", "root-files"},
		{"a folder at the top", "docs/style.txt", "", "root-files"},

		{"a new direct dependency", "go.mod", "module m\nrequire (\n\tgolang.org/x/net v0.59.0\n\texample.test/m v1.0.0\n)\n", "direct-dependencies"},
		{"a new direct dependency outside a block", "go.mod", "module m\nrequire example.test/m v1.0.0\n", "direct-dependencies"},
		{"a replaced module", "go.mod", "module m\nreplace golang.org/x/net => ../net\n", "direct-dependencies"},

		{"a folder that is not on the map", guide, "| [serve](serve) | serves |\n| [peek](peek) | peeks |\n| [bench](bench) | measures |\n", "map-of-internal"},
		{"a folder that is gone", guide, "| [serve](serve) | serves |\n| [peek](peek) | peeks |\n| [bench](bench) | measures |\n| [pool](pool) | pools | `Pool` |\n| [odd](odd) | is odd |\n", "map-of-internal"},
		{"a name that is gone", guide, "| [serve](serve) | serves |\n| [peek](peek) | peeks |\n| [bench](bench) | measures |\n| [pool](pool) | pools | `Pool`, `Old` |\n", "map-of-internal"},

		{"an import of the same level", "internal/pool/a.go", "package pool\nimport _ \"" + ours + "/internal/health\"\n", "import-direction"},
		{"an import of a level above", "internal/pool/a.go", "package pool\nimport _ \"" + ours + "/internal/serve\"\n", "import-direction"},
		{"an import of the root", "internal/serve/a.go", "package serve\nimport _ \"" + ours + "\"\n", "import-direction"},
		{"an import of the lane by the engine", "internal/forward/forward.go", "// Package forward forwards.\npackage forward\nimport _ \"" + ours + "/internal/serve\"\n", "import-direction"},
		{"an import of a package without a level", "internal/serve/a.go", "package serve\nimport _ \"" + ours + "/internal/odd\"\n", "import-direction"},
		{"a package without a level", "internal/odd/odd.go", "// Package odd is odd.\npackage odd\n", "import-direction"},
		{"a kit that imports the product", "internal/proxytest/proxytest.go", "// Package proxytest tests.\npackage proxytest\nimport _ \"" + ours + "/internal/pool\"\n", "import-direction"},

		{"testify in the product", "internal/pool/a.go", "package pool\nimport _ \"github.com/stretchr/testify/require\"\n", "foreign-imports"},
		{"certmagic in the router", "router.go", "package hostproxy\nimport _ \"github.com/caddyserver/certmagic\"\n", "foreign-imports"},
		{"zap in tls.go", "tls.go", "package hostproxy\nimport _ \"go.uber.org/zap/zapcore\"\n", "foreign-imports"},
		{"an example that uses internals", "examples/five/a.go", "package main\nimport _ \"" + ours + "/internal/pool\"\n", "foreign-imports"},

		{"a test kit in the product", "internal/serve/a.go", "package serve\nimport _ \"" + ours + "/internal/proxytest\"\n", "kit-in-tests-only"},

		{"a package without a comment", "internal/h1/h1.go", "package h1\n", "package-comment"},
		{"a second package comment", "internal/pool/a.go", "// Package pool pools again.\npackage pool\n", "package-comment"},
		{"a package comment in a test", "internal/pool/pool_test.go", "// Package pool_test tests.\npackage pool_test\n", "package-comment"},
		{"a file that is not on the map of its package", "internal/peek/a.go", "package peek\n", "map-of-files"},
		{"a folder of tests without a comment", "internal/e2e/e2e_test.go", "package e2e_test\n", "package-comment"},

		{"an undocumented function", "internal/pool/a.go", "package pool\nfunc F() {}\n", "exported-documented"},
		{"an undocumented method", "internal/pool/a.go", "package pool\n// T is a T.\ntype T[V any] struct{}\nfunc (t *T[V]) M() {}\n", "exported-documented"},
		{"a comment about something else", "internal/pool/a.go", "package pool\n// Returns F. F is good.\nfunc f() {}\n// Does it.\nfunc F() {}\n", "exported-documented"},
		{"an undocumented type in a group", "internal/pool/a.go", "package pool\n// Types.\ntype (\n\tT int\n)\n", "exported-documented"},
		{"an undocumented constant", "internal/pool/a.go", "package pool\nconst C = 1\n", "exported-documented"},
		{"an undocumented public field", "router.go", "package hostproxy\n// R is an R.\ntype R struct {\n\t// A is.\n\tA int\n\tB int\n\n\tC int\n}\n", "exported-documented"},

		{"a file of 551 lines", "internal/pool/a.go", "package pool\n" + lined(550), "file-length"},
		{"a public file of 951 lines", "router.go", "package hostproxy\n" + lined(950), "file-length"},
		{"a function of 61 lines", "internal/pool/a.go", long("// f is f.", 61), "function-length"},
		{"an example of 61 lines", "examples/five/main.go", "// Command five has a comment.\npackage main\n" + lined(60), "example-length"},

		{"a comment of 81 columns", "internal/pool/a.go", "package pool\n\n// " + strings.Repeat("x", 78) + "\n", "comment-width"},
		{"a comment that its tab makes too wide", "internal/pool/a_test.go", "package pool_test\nfunc f() {\n\t// " + strings.Repeat("x", 74) + "\n}\n", "comment-width"},
		{"a list's item of 81 columns", "internal/pool/a.go", "package pool\n\n//   - " + strings.Repeat("x", 74) + "\n", "comment-width"},
		{"a comment behind code", "internal/pool/a.go", "package pool\n\nconst " + strings.Repeat("c", 70) + " = 1 // " + strings.Repeat("x", 17) + "\n", "comment-width"},

		{"an init function", "internal/pool/a.go", "package pool\nfunc init() {}\n", "no-init"},

		{"a variable without a comment", "internal/pool/a.go", "package pool\nvar v = 1\n", "no-mutable-globals"},
		{"a counter", "internal/pool/a.go", "package pool\n// Read-only, it says.\nvar n atomic.Int64\n", "no-mutable-globals"},
		{"a lock behind a pointer", "internal/pool/a.go", "package pool\n// Read-only, it says.\nvar mu = new(sync.Mutex)\n", "no-mutable-globals"},
		{"a read-only variable that is assigned", "internal/pool/a.go", "package pool\nvar v = 1 // read-only\nfunc f() { v = 2 }\n", "no-mutable-globals"},
		{"a read-only table that is filled later", "internal/pool/a.go", "package pool\nvar v = map[int]int{} // read-only\nfunc f(i int) { v[i]++ }\n", "no-mutable-globals"},
		{"a read-only table that is emptied", "internal/pool/a.go", "package pool\nvar v = map[int]int{} // read-only\nfunc f() { delete(v, 1) }\n", "no-mutable-globals"},
		{"an error sentinel that is replaced", "internal/pool/a.go", "package pool\nvar errX = errors.New(\"x\")\nfunc f() { errX = nil }\n", "no-mutable-globals"},
		{"a field of a global that is set", "internal/pool/a.go", "package pool\nvar v = struct{ a int }{} // read-only\nfunc f() { (v.a) = 1 }\n", "no-mutable-globals"},

		{"http.DefaultTransport", "internal/pool/a.go", "package pool\nimport \"net/http\"\nvar _ = http.DefaultTransport\n", "no-foreign-globals"},
		{"certmagic's defaults under another name", "tls.go", "package hostproxy\nimport cm \"github.com/caddyserver/certmagic\"\nvar _ = cm.DefaultACME\n", "no-foreign-globals"},
		{"slog.SetDefault", "internal/pool/a.go", "package pool\nimport \"log/slog\"\nfunc f() { slog.SetDefault(nil) }\n", "no-foreign-globals"},

		{"a bool parameter", "internal/pool/a.go", "package pool\n// F is F.\nfunc F(n int, deep bool) {}\n", "no-bool-parameters"},
		{"a test from inside", "internal/pool/pool_test.go", "package pool\n", "tests-from-outside"},
		{"a sleeping test", "internal/pool/pool_test.go", "package pool_test\nimport \"time\"\nfunc f() { time.Sleep(1) }\n", "no-sleep-in-tests"},
		{"a sleep beside a bubble", "internal/pool/pool_test.go", "package pool_test\nimport \"time\"\nimport \"testing/synctest\"\nfunc f() { synctest.Test(nil, nil); time.Sleep(1) }\n", "no-sleep-in-tests"},
	}
	bitten := map[string]bool{}
	for _, tt := range tests {
		bitten[tt.rule] = true
		t.Run(tt.rule+" finds "+tt.about, func(t *testing.T) {
			problems := check(t, tt.file, tt.text)
			require.Len(t, problems, 1, "%v", problems)
			assert.Equal(t, tt.rule, problems[0].Rule)
			assert.Contains(t, problems[0].String(), problems[0].Message)
		})
	}
	for _, name := range archtest.RuleNames() {
		assert.True(t, bitten[name], "no case shows that %s finds a problem", name)
	}
}

func TestNoRuleForbidsGoodCode(t *testing.T) {
	const ours = archtest.ModulePath
	tests := []struct {
		about, file, text string
	}{
		{"a map with names to start from", guide, "# Map\n\n| [serve](serve) | serves |\n| [peek](peek) | peeks |\n| [bench](bench) | measures |\n| [pool](pool) | pools | `Pool`, `New` |\n"},
		{"tests at the top", "proxy_test.go", "package hostproxy_test\n"},
		{"what a build leaves behind", "cpu.prof", ""},
		{"indirect dependencies", "go.mod", "module m\nrequire (\n\texample.test/m v1.0.0 // indirect\n)\n"},
		{"an import of the engine by the lane", "internal/serve/a.go", "package serve\nimport _ \"" + ours + "/internal/forward\"\n"},
		{"certmagic in tls.go", "tls.go", "package hostproxy\nimport _ \"github.com/caddyserver/certmagic\"\n"},
		{"certmagic in the check of its storages", "examples/storagetest/storagetest.go", "// Package storagetest checks.\npackage storagetest\nimport _ \"github.com/caddyserver/certmagic\"\n"},
		{"zap in certs", "internal/certs/certs.go", "// Package certs certifies.\npackage certs\nimport _ \"go.uber.org/zap\"\n"},
		{"testify and the kit in tests", "internal/pool/pool_test.go", "package pool_test\nimport _ \"github.com/stretchr/testify/require\"\nimport _ \"" + ours + "/internal/proxytest\"\n"},
		{"an example that uses its own package", "examples/five/cmd/main.go", "// Command cmd runs five.\npackage main\nimport _ \"" + ours + "/examples/five\"\n"},
		{"other modules below", "internal/bench/a.go", "package main\nimport _ \"go.uber.org/zap\"\nimport _ \"" + ours + "/internal/pool\"\n"},
		{"a documented folder of tests", "internal/e2e/e2e_test.go", "// Package e2e_test runs it all.\npackage e2e_test\n"},
		{"a typed error and its methods", "internal/pool/a.go", "package pool\n// T is a T.\ntype T int\nfunc (T) Error() string { return \"\" }\nvar errT error = T(1)\n"},
		{"a field that its struct's comment explains", "router.go", "package hostproxy\n// R is an R with an A.\ntype R struct {\n\tA int\n}\n"},
		{"methods of unexported types", "internal/pool/a.go", "package pool\ntype t int\nfunc (t) Read() {}\n"},
		{"a documented block of fields", "router.go", "package hostproxy\n// R is an R.\ntype R struct {\n\t// These belong together.\n\tA int\n\tB int\n\tc int\n}\n"},
		{"one comment for a block of constants", "internal/pool/a.go", "package pool\n// Sizes.\nconst (\n\tA = 1\n\tB = 2\n)\n"},
		{"a long function with its reason", "internal/pool/a.go", long("// f is f. Long because it is one state machine.", 61)},
		{"a function of 60 lines", "internal/pool/a.go", long("// f is f.", 60)},
		{"sentinels, pools, expressions and assertions", "internal/pool/a.go", "package pool\nvar ErrX = errors.New(\"x\") // ErrX is.\nvar bufs = sync.Pool{New: f}\nvar r = regexp.MustCompile(``)\nvar _ I = (*T)(nil)\n"},
		{"a read-only table that a local name shadows", "internal/pool/a.go", "package pool\nvar v = []int{1} // read-only\nfunc f() { v := 1; v = 2; v++ }\n"},
		{"an example of 60 lines and a comment", "examples/five/main.go", "// Command five has a comment.\npackage main\n// x\n" + lined(59)},
		{"a comment of 80 columns", "internal/pool/a.go", "package pool\n\n// " + strings.Repeat("x", 77) + "\n"},
		{"a comment of 100 columns behind code", "internal/pool/a.go", "package pool\n\nconst " + strings.Repeat("c", 70) + " = 1 // " + strings.Repeat("x", 16) + "\n"},
		{"a wide command, link and directive", "internal/pool/a.go", "package pool\n\n//\tgo " + strings.Repeat("x", 80) + "\n//\n// [a]: https://" + strings.Repeat("x", 80) + "\n\n//go:generate " + strings.Repeat("x", 80) + "\n"},
		{"a wide output of an example", "internal/pool/a_test.go", "package pool_test\nfunc f() {\n\t// Output:\n\t// " + strings.Repeat("x", 80) + "\n}\n"},
		{"a method called init", "internal/pool/a.go", "package pool\ntype t int\nfunc (t) init() {}\n"},
		{"a bool inside the package", "internal/pool/a.go", "package pool\nfunc f(deep bool) {}\n"},
		{"a bool that an interface of another package has", "internal/pool/a.go", "package pool\n// T is a T.\ntype T int\n// List lists; it implements storage.Storage.\nfunc (T) List(deep bool) {}\n"},
		{"a door for tests", "internal/pool/export_test.go", "package pool\n"},
		{"tests of a command", "internal/bench/main_test.go", "package main\n"},
		{"a sleep in a bubble", "internal/pool/pool_test.go", "package pool_test\nimport \"time\"\nimport \"testing/synctest\"\nfunc f() { synctest.Test(nil, func() { time.Sleep(1) }) }\n"},
	}
	for _, tt := range tests {
		t.Run(tt.about, func(t *testing.T) {
			assert.Empty(t, check(t, tt.file, tt.text))
		})
	}
}
