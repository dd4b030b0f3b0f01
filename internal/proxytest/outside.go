package proxytest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// BuildOutside builds a program from the text of its main.go in a module of its own, outside the tree. The module
// requires this one and the nested one that the test belongs to, as a user's module would: a dependency that the nested
// module's go.mod does not name fails the test.
func BuildOutside(t testing.TB, text string) {
	t.Helper()
	const root = "github.com/hostproxy/hostproxy"
	list := func(args ...string) string {
		out, err := exec.Command("go", append([]string{"list", "-m", "-f"}, args...)...).Output()
		if err != nil {
			t.Fatalf("proxytest: go list: %v", err)
		}
		return strings.TrimSpace(string(out))
	}
	rootDir, nested, nestedDir := list("{{.Dir}}", root), list("{{.Path}}"), list("{{.Dir}}")
	sums, err := os.ReadFile(filepath.Join(nestedDir, "go.sum"))
	if err != nil {
		t.Fatalf("proxytest: %v", err)
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"main.go": text,
		"go.sum":  string(sums),
		"go.mod": fmt.Sprintf("module example.test/outside\n\ngo 1.26.0\n\nrequire (\n\t%[1]s v0.0.0\n\t%[3]s v0.0.0\n)\n\nreplace (\n\t%[1]s => %[2]s\n\t%[3]s => %[4]s\n)\n",
			root, rootDir, nested, nestedDir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatalf("proxytest: %v", err)
		}
	}
	build := exec.Command("go", "build", "-mod=mod", "-o", filepath.Join(dir, "program"), ".")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("proxytest: go build outside the tree: %v\n%s", err, out)
	}
}
