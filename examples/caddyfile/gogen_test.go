package caddyfile_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/caddyfile"
)

// The programs of all samples become files of one package, so that the compiler
// runs once. Each program gets the questions of its sample, and must answer
// like the Servers in this process.
func TestProgramsBehaveLikeTheFilesTheyAreMadeFrom(t *testing.T) {
	addresses := targets(t)
	dir := t.TempDir()
	var asked [][]question
	var want [][]answer
	var names []string
	for _, s := range samples(t) {
		if len(s.faults) > 0 {
			continue
		}
		c, err := caddyfile.Parse("Caddyfile", []byte(addresses(s.text)), caddyfile.Options{Getenv: environment(addresses)})
		require.NoError(t, err)
		servers, err := c.Servers()
		require.NoError(t, err)
		var qs []question
		var as []answer
		for _, e := range s.exchanges {
			qs = append(qs, e.question)
			as = append(as, ask(servers, e.question))
		}
		for _, srv := range servers {
			t.Cleanup(func() { srv.Router.Close() })
		}
		writeProgram(t, dir, len(names), c.Go())
		names, asked, want = append(names, s.name), append(asked, qs), append(want, as)
	}
	writeDriver(t, dir, len(names))
	questions, err := json.Marshal(asked)
	require.NoError(t, err)
	var got [][]answer
	require.NoError(t, json.Unmarshal(runModule(t, dir, questions), &got))
	require.Len(t, got, len(want))
	for i := range want {
		for j := range want[i] {
			assert.Equal(t, comparable(want[i][j]), comparable(got[i][j]), "%s: %s", names[i], asked[i][j].URL)
		}
	}
}

// comparable returns an answer without the parts that vary.
func comparable(a answer) answer {
	a.Header.Del("Date")
	var lines []string
	for line := range strings.Lines(a.Body) {
		if !strings.HasPrefix(line, "one ") && !strings.HasPrefix(line, "two ") && !strings.HasPrefix(line, "three ") {
			lines = append(lines, line)
			continue
		}
		a.Header.Del("Content-Length") // it is chance which of several targets answers
		_, line, _ = strings.Cut(line, " ")
		lines = append(lines, line)
	}
	a.Body = strings.Join(lines, "")
	a.Header.Del("Set-Cookie")
	return a
}

// writeProgram writes a program as one file of the package that has all of
// them. It adds a number to the names of its funcs.
func writeProgram(t *testing.T, dir string, i int, text []byte) {
	renamed := strings.NewReplacer("func main()", fmt.Sprintf("func main%d()", i), "func router()", fmt.Sprintf("func router%d()", i),
		"func servers()", fmt.Sprintf("func servers%d()", i), ", router())", fmt.Sprintf(", router%d())", i),
		", servers()...)", fmt.Sprintf(", servers%d()...)", i)).Replace(string(text))
	call := fmt.Sprintf("return servers%d()", i)
	if bytes.Contains(text, []byte("func router()")) {
		call = fmt.Sprintf("return []*hostproxy.Server{{Router: router%d()}}", i)
	}
	renamed += fmt.Sprintf("\nfunc all%d() []*hostproxy.Server { %s }\n\nvar _ = main%d\n", i, call, i)
	require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("p%d.go", i)), []byte(renamed), 0o600))
}

// writeDriver writes the func main that sends the questions to all programs.
func writeDriver(t *testing.T, dir string, n int) {
	var w strings.Builder
	w.WriteString("package main\n\nimport (\n\"encoding/json\"\n\"os\"\n\"github.com/hostproxy/hostproxy\"\n")
	w.WriteString(")\n\nfunc main() {\n\tvar qs [][]question\n\tif err := json.NewDecoder(os.Stdin).Decode(&qs); err != nil {\n\t\tpanic(err)\n\t}\n\tall := [][]*hostproxy.Server{")
	for i := range n {
		fmt.Fprintf(&w, "all%d(), ", i)
	}
	w.WriteString("}\n\tas := make([][]answer, len(qs))\n\tfor i, list := range qs {\n\t\tfor _, q := range list {\n\t\t\tas[i] = append(as[i], ask(all[i], q))\n\t\t}\n\t}\n" +
		"\tif err := json.NewEncoder(os.Stdout).Encode(as); err != nil {\n\t\tpanic(err)\n\t}\n}\n")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(w.String()), 0o600))
	helper, err := os.ReadFile("ask_test.go")
	require.NoError(t, err)
	helper = bytes.Replace(helper, []byte("package caddyfile_test"), []byte("package main"), 1)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ask.go"), helper, 0o600))
}

// runModule vets and runs the module in dir. It runs in the directory of this
// test.
func runModule(t *testing.T, dir string, stdin []byte) []byte {
	here := writeModule(t, dir)
	for _, args := range [][]string{{"vet", "./..."}, {"build", "-o", "driver", "."}} {
		out, err := command(dir, "go", args...).CombinedOutput()
		require.NoError(t, err, "%s: %s", args, out)
	}
	run := command(here, filepath.Join(dir, "driver"))
	run.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	run.Stderr = &stderr
	out, err := run.Output()
	require.NoError(t, err, stderr.String())
	return out
}

// writeModule writes go.mod and go.sum of a module outside the tree. The module
// has the same requirements as this one. It returns this module's directory.
func writeModule(t *testing.T, dir string) string {
	mod, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	here, err := os.Getwd()
	require.NoError(t, err)
	root := filepath.Dir(filepath.Dir(here))
	text := strings.Replace(string(mod), "module github.com/hostproxy/hostproxy/examples/caddyfile", "module generated", 1)
	text = strings.NewReplacer("=> ../..", "=> "+root, "=> ../compress", "=> "+filepath.Join(root, "examples", "compress")).Replace(text)
	text += "\nrequire github.com/hostproxy/hostproxy/examples/caddyfile v0.0.0-00010101000000-000000000000\n" +
		"\nreplace github.com/hostproxy/hostproxy/examples/caddyfile => " + here + "\n"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.mod"), []byte(text), 0o600))
	sum, err := os.ReadFile("go.sum")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "go.sum"), sum, 0o600))
	return here
}

func TestTheModuleIsCompleteOutsideTheTree(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"main.go", "serve.go"} {
		text, err := os.ReadFile(filepath.Join("cmd/caddyfile", name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	writeModule(t, dir)
	out, err := command(dir, "go", "build", "-o", "program", ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
}

func command(dir, name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GOFLAGS=-mod=readonly -buildvcs=false", "GOWORK=off")
	return c
}

func TestTheCAOfASiteAppliesToInternalNamesToo(t *testing.T) {
	for _, global := range []string{"", "{\n\tlocal_certs\n}\n", "{\n\tacme_ca https://ca.internal/acme\n}\n"} {
		out := string(parse(t, global+"nas.internal {\n\ttls {\n\t\tca https://ca.internal/acme\n\t}\n\trespond x\n}\n").Go())
		assert.Contains(t, out, `"nas.internal": {Issuer: &certmagic.ACMEIssuer{CA: "https://ca.internal/acme"`, global)
	}
}
