package hostproxy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// readmeNames declares what the README's blocks use but do not declare.
const readmeNames = `
type customer struct {
	CertFiles hostproxy.CertFile
	Clients   *hostproxy.ClientAuth
}

type database struct{}

func (database) Tenant(string) (*customer, error) { return new(customer), nil }

func (database) Allows(context.Context, string) error { return nil }

var (
	ctx             = context.Background()
	hup             chan os.Signal
	hosts           map[string]hostproxy.HostTLS
	db              database
	token           string
	server          hostproxy.Server
	r               hostproxy.Router
	tenants         http.Handler
	newRouter       func() *hostproxy.Router
)
`

var declared = regexp.MustCompile(`(?m)^((?:\w+, )*\w+) := `)

// readmeFiles returns the Go blocks of README.md as programs that must compile:
// one file for each whole program, and one for all the other blocks.
func readmeFiles(t *testing.T) (files []string, blocks int) {
	t.Helper()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	var others strings.Builder
	for i, block := range regexp.MustCompile("(?s)\n```go\n(.*?)```").FindAllSubmatchIndex(text, -1) {
		blocks++
		at := fmt.Sprintf("//line README.md:%d\n", 1+strings.Count(string(text[:block[2]]), "\n"))
		body := string(text[block[2]:block[3]])
		switch {
		case strings.HasPrefix(body, "package main"):
			files = append(files, at+body)
		case strings.HasPrefix(body, "func "):
			others.WriteString(at + body)
		default:
			// The provider is in a module that this one does not depend on.
			body = strings.ReplaceAll(body, "&cloudflare.Provider{APIToken: token}", "certmagic.DNSProvider(nil)")
			fmt.Fprintf(&others, "func block%d() {\n%s%s", i, at, body)
			for _, names := range declared.FindAllStringSubmatch(body, -1) {
				for name := range strings.SplitSeq(names[1], ", ") {
					fmt.Fprintf(&others, "\t_ = %s\n", name)
				}
			}
			others.WriteString("}\n")
		}
	}
	body := readmeNames + others.String() + "func main() {}\n"
	return append(files, "package main\n\n"+importsOf(body)+body), blocks
}

// importsOf returns the import declaration for the packages that the text uses.
func importsOf(text string) string {
	var b strings.Builder
	b.WriteString("import (\n")
	for _, path := range []string{
		"context", "log", "log/slog", "net/http", "net/http/httptest", "os", "testing", "time",
		"github.com/caddyserver/certmagic", "github.com/hostproxy/hostproxy", "github.com/stretchr/testify/require",
	} {
		if regexp.MustCompile(`\b` + filepath.Base(path) + `\.[A-Z]`).MatchString(text) {
			fmt.Fprintf(&b, "\t%q\n", path)
		}
	}
	return b.String() + ")\n"
}

func TestEveryBlockOfTheREADMECompiles(t *testing.T) {
	t.Parallel() // mostly waiting
	files, blocks := readmeFiles(t)
	assert.Greater(t, blocks, 8)
	for _, text := range files {
		name := filepath.Join(t.TempDir(), "main.go")
		require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
		out, err := exec.Command("go", "vet", name).CombinedOutput()
		assert.NoError(t, err, "%s", out)
	}
}
