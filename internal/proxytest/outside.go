package proxytest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// BuildOutside builds a program from the text of its main.go in a separate
// module outside the tree. Like a user's module, it requires this module and
// the nested one that the test belongs to. The test fails if the program needs
// a module that the nested go.mod does not list, or another version of one.
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
	named, got := requirements(t, nestedDir), requirements(t, dir)
	for path, version := range got {
		if path != root && path != nested && named[path] != version {
			t.Errorf("proxytest: outside the tree, %s needs %s %s: its go.mod names %q", nested, path, version, named[path])
		}
	}
}

// requirements returns the versions that the go.mod in dir requires, by path.
func requirements(t testing.TB, dir string) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatalf("proxytest: %v", err)
	}
	all, in := map[string]string{}, false
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 2 && words[1] == "(":
			in = words[0] == "require"
		case in && len(words) >= 2:
			all[words[0]] = words[1]
		}
	}
	return all
}
