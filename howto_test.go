package hostproxy_test

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEveryHowToIsInTheREADMEAndInThePackageComment(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(readme), "\n## How to\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n### ")
	// without the table's head
	table := regexp.MustCompile(`(?m)^\| .* \| (.*) \|$`).FindAllStringSubmatch(section, -1)[1:]
	assert.Len(t, table, 14)

	files := []*ast.File{}
	for _, name := range []string{"example_howto_test.go", "example_staticfiles_test.go", "example_testing_test.go", "example_ondemand_test.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		require.NoError(t, err)
		files = append(files, parsed)
	}
	examples := map[string]*doc.Example{}
	for _, e := range doc.Examples(files...) {
		examples["Example"+e.Name] = e
		assert.NotEmpty(t, e.Output, e.Name)
	}
	proxy, err := parser.ParseFile(token.NewFileSet(), "proxy.go", nil, parser.ParseComments|parser.PackageClauseOnly)
	require.NoError(t, err)
	comment := strings.Join(strings.Fields(proxy.Doc.Text()), " ")

	for _, row := range table {
		for _, name := range regexp.MustCompile("`(Example_[^`]+)`").FindAllStringSubmatch(row[1], -1) {
			e := examples[name[1]]
			if assert.NotNil(t, e, "%s is not an Example of these files", name[1]) {
				suffix := strings.TrimPrefix(name[1], "Example_")
				assert.Contains(t, comment, "Example ("+strings.ToUpper(suffix[:1])+suffix[1:]+")")
				delete(examples, name[1])
			}
		}
		for _, link := range regexp.MustCompile(`\]\((examples/[^)]+)\)`).FindAllStringSubmatch(row[1], -1) {
			assert.DirExists(t, link[1])
			assert.Contains(t, comment, link[1]+":")
		}
	}
	assert.Empty(t, examples, "these Examples are missing in the README")
}
