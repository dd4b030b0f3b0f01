package http3_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The package is built as its users build it: from a module outside the tree, whose go.mod
// names what it needs itself.
func TestAModuleOutsideTheTreeBuilds(t *testing.T) {
	here, err := os.Getwd()
	require.NoError(t, err)
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(`package main

import (
	"context"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/http3"
)

func main() {
	var r hostproxy.Router
	_ = (&hostproxy.Server{Router: &r, Companions: []hostproxy.Companion{&http3.Server{}}}).ListenAndServe(context.Background())
}
`), 0o600))
	for _, args := range [][]string{
		{"mod", "init", "example.com/outside"},
		{"mod", "edit", "-replace", "github.com/hostproxy/hostproxy=" + filepath.Dir(filepath.Dir(here)),
			"-replace", "github.com/hostproxy/hostproxy/examples/http3=" + here},
		{"mod", "tidy"},
		{"build", "-o", os.DevNull, "."},
	} {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %v: %s", args, out)
	}
}
