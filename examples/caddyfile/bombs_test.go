package caddyfile_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/caddyfile"
)

// doubled returns snippets. Each imports the previous one twice.
func doubled(levels int, first, line string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "(s0) {\n%s\n}\n", first)
	for i := range levels {
		fmt.Fprintf(&b, "(s%d) {\n%s\n}\n", i+1, fmt.Sprintf(line, i))
	}
	fmt.Fprintf(&b, "a.local {\n\timport s%d x\n}\n", levels)
	return b.String()
}

// A few lines of snippets, or a file that imports itself, can expand to more
// than fits into memory.
func TestImportsThatGrowWithoutLimitAreOneFault(t *testing.T) {
	for name, text := range map[string]string{
		"a snippet that imports itself twice": "(a) {\n\timport a\n\timport a\n}\na.local {\n\timport a\n}\n",
		"snippets that double":                doubled(30, "\theader X y", "\timport s%[1]d\n\timport s%[1]d"),
		"empty snippets that double":          doubled(30, "", "\timport s%[1]d\n\timport s%[1]d"),
		"an argument that doubles":            doubled(30, "\theader X {args[0]}", "\timport s%d {args[0]}{args[0]}"),
		"files that import themselves twice":  "a.local {\n\timport *.conf\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			read := 0
			_, err := caddyfile.Parse("Caddyfile", []byte(text), caddyfile.Options{
				ReadFile: func(string) ([]byte, error) {
					read++
					return []byte("import *.conf\nimport *.conf # " + strings.Repeat("x", 1<<16)), nil
				},
				Glob: func(string) ([]string, error) { return []string{"one.conf", "two.conf"}, nil },
			})
			require.Error(t, err)
			assert.Less(t, len(err.Error()), 4<<10, "one fault")
			assert.Less(t, read, 1000)
		})
	}
}
