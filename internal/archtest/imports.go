package archtest

import (
	"regexp"
	"slices"
	"strings"
)

// levels gives each package of the root module a level. A package may only
// import packages of lower levels. Read-only.
var levels = map[string]int{
	"": 6,

	"internal/serve": 5, "internal/handler": 5,
	"internal/forward": 4,
	"internal/client":  3, "internal/certs": 3,

	"internal/exchange": 2, "internal/pool": 2, "internal/routes": 2, "internal/reach": 2, "internal/health": 2, "internal/basicauth": 2,
	"internal/discover": 2, "internal/tunnel": 2,

	"internal/status": 1, "internal/limit": 1, "internal/peek": 1, "internal/yield": 1, "internal/balance": 1, "internal/latency": 1,
	"internal/h2": 1, "internal/service": 1,

	"internal/h1": 0, "internal/header": 0, "internal/hostname": 0, "internal/settings": 0, "internal/proxyproto": 0,
}

// kit lists the packages that only tests may import. Read-only.
var kit = []string{"internal/proxytest", "internal/archtest", "examples/storagetest"}

// rootNames lists the names allowed at the top. Read-only.
var rootNames = []string{
	"proxy.go", "router.go", "upstream.go", "tls.go", "examples", "internal", "testdata", "go.mod", "go.sum", "LICENSE", "README.md",
}

// ignoredNames matches files at the top that builds or editors leave behind and
// git ignores. Read-only.
var ignoredNames = regexp.MustCompile(`^(bin|go\.work(\.sum)?|.*\.(test|prof|out))$`)

// direct lists the modules that the root module may require directly.
// Read-only.
var direct = []string{
	"github.com/caddyserver/certmagic", "github.com/mholt/acmez/v3", "github.com/stretchr/testify", "go.uber.org/zap",
	"golang.org/x/crypto", // bcrypt
	"golang.org/x/net",
}

// owners lists foreign packages that may be imported only in some places:
// directories, or files at the top. Read-only.
var owners = map[string][]string{
	// storagetest checks certmagic's own Storage interface, for tests.
	"github.com/caddyserver/certmagic": {"internal/certs", "examples/storagetest", "tls.go"},
	"github.com/mholt/acmez":           {"internal/certs", "tls.go"},
	"go.uber.org/zap":                  {"internal/certs"},
	"golang.org/x/crypto/bcrypt":       {"internal/basicauth"},
}

func (c *checker) rootFiles() {
	for _, name := range c.root {
		if !slices.Contains(rootNames, name) && !strings.HasSuffix(name, "_test.go") && !ignoredNames.MatchString(name) {
			c.reportFile(name, "is not one of the files wanted at the top: %s and tests", strings.Join(rootNames, " "))
		}
	}
}

func (c *checker) directDependencies() {
	block := ""
	for i, line := range strings.Split(c.goMod["."], "\n") {
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
			continue
		case block == "" && len(words) == 2 && words[1] == "(":
			block = words[0]
			continue
		case words[0] == ")":
			block = ""
			continue
		case block == "":
			block, words = words[0], words[1:]
			c.directive(i+1, block, words)
			block = ""
			continue
		}
		c.directive(i+1, block, words)
	}
}

// directive checks one entry of go.mod.
func (c *checker) directive(line int, verb string, words []string) {
	bad := ""
	switch {
	case verb == "replace" || verb == "exclude":
		bad = verb + " holds for this checkout only, not for a program that imports the module"
	case verb == "require" && words[len(words)-1] != "indirect" && !slices.Contains(direct, words[0]):
		bad = words[0] + " is not one of the direct dependencies: a new one is a decision of its own"
	}
	if bad != "" {
		c.problems = append(c.problems, Problem{c.rule, "go.mod", line, bad})
	}
}

func (c *checker) importDirection() {
	c.source(func(f *file) {
		if f.nested() || f.within("examples") {
			return
		}
		from := strings.TrimPrefix(f.dir, ".")
		level, placed := levels[from]
		if !placed && !slices.Contains(kit, from) {
			c.report(f.ast.Package, "%s has no level: give it one in archtest and in the map of internal", f.dir)
			return
		}
		for p, spec := range f.imports() {
			to, ours := ourPackage(p)
			switch below, ok := levels[to]; {
			case !ours || slices.Contains(kit, to): // kitInTestsOnly checks the latter
			case !placed:
				c.report(spec.Pos(), "%s is a test kit and imports nothing of ours, not even %s", from, to)
			case !ok || below > level || below == level:
				c.report(spec.Pos(), "level %d does not import %q: imports go down", level, to)
			}
		}
	})
}

func (c *checker) foreignImports() {
	c.source(func(f *file) {
		for p, spec := range f.imports() {
			if under(p, "github.com/stretchr/testify") {
				c.report(spec.Pos(), "testify belongs in _test.go files")
			}
			for foreign, places := range owners {
				if !f.nested() && under(p, foreign) && !slices.Contains(places, f.path) && !slices.ContainsFunc(places, f.within) {
					c.report(spec.Pos(), "only %s may import %s", strings.Join(places, " and "), foreign)
				}
			}
			if to, ours := ourPackage(p); ours && under(to, "internal") && f.within("examples") {
				c.report(spec.Pos(), "an example shows the public API and imports nothing from internal")
			}
		}
	})
}

func (c *checker) kitInTestsOnly() {
	c.source(func(f *file) {
		for p, spec := range f.imports() {
			if to, ours := ourPackage(p); ours && slices.Contains(kit, to) {
				c.report(spec.Pos(), "%s is for tests only", to)
			}
		}
	})
}

// ourPackage returns the directory of a package of this repository. It returns
// "" for the root package.
func ourPackage(importPath string) (dir string, ours bool) {
	rest, ours := strings.CutPrefix(importPath, ModulePath)
	if ours && (rest == "" || rest[0] == '/') {
		return strings.TrimPrefix(rest, "/"), true
	}
	return "", false
}
