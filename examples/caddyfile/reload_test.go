package caddyfile_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/caddyfile"
)

// handlers returns the handlers of the first server.
func handlers(servers []*hostproxy.Server) map[string]http.Handler {
	all := map[string]http.Handler{}
	for pattern, h := range servers[0].Router.All() {
		all[pattern] = h
	}
	return all
}

func parse(t *testing.T, text string) *caddyfile.Config {
	c, err := caddyfile.Parse("Caddyfile", []byte(text), caddyfile.Options{})
	require.NoError(t, err)
	return c
}

func TestReloadKeepsTheHandlersOfUnchangedSites(t *testing.T) {
	const stays = "http://a.example {\n\tencode\n\treverse_proxy localhost:9001 {\n\t\tlb_policy first\n\t\theader_up X-A {uri}\n\t}\n}\n"
	r, err := parse(t, stays+"http://b.example {\n\trespond one\n}\nhttp://c.example {\n\trespond gone\n}\n").Run()
	require.NoError(t, err)
	t.Cleanup(func() { r.Servers()[0].Router.Close() })
	before := handlers(r.Servers())
	for range 3 { // later reloads must keep them too
		require.NoError(t, r.Reload(parse(t, "# other lines\n\n"+stays+"http://b.example {\n\trespond two\n}\nhttp://d.example {\n\trespond new\n}\n")))
	}
	after := handlers(r.Servers())
	assert.Same(t, before["a.example"], after["a.example"])
	assert.NotSame(t, before["b.example"], after["b.example"])
	assert.NotContains(t, after, "c.example")
	assert.Contains(t, after, "d.example")
	assert.Equal(t, "two", ask(r.Servers(), question{Method: "GET", URL: "http://b.example/"}).Body)
	require.NoError(t, r.Reload(parse(t, stays)))
	assert.Len(t, handlers(r.Servers()), 1)
}

func TestReloadOfTheSameFileChangesNothing(t *testing.T) {
	const text = "http://a.example {\n\theader /x X-A b\n\thandle /api/* {\n\t\treverse_proxy localhost:9001\n\t}\n\thandle {\n\t\troot * /srv\n\t\tfile_server\n\t}\n}\n" +
		"http://b.example {\n\treverse_proxy /a localhost:9001\n\treverse_proxy localhost:9002\n}\nhttp://c.example {\n\tabort\n}\n"
	r, err := parse(t, text).Run()
	require.NoError(t, err)
	t.Cleanup(func() { r.Servers()[0].Router.Close() })
	before := handlers(r.Servers())
	require.NoError(t, r.Reload(parse(t, text)))
	changes, err := r.Servers()[0].Router.CheckReplace(before)
	require.NoError(t, err)
	assert.Equal(t, "no changes", changes.String())
}

func TestReloadRefusesWhatNeedsARestart(t *testing.T) {
	r, err := parse(t, "http://a.example {\n\trespond old\n}\n").Run()
	require.NoError(t, err)
	t.Cleanup(func() { r.Servers()[0].Router.Close() })
	for what, text := range map[string]string{
		"port":          "http://a.example:8080 {\n\trespond new\n}\n",
		"another port":  "http://a.example {\n\trespond new\n}\nhttp://a.example:8080 {\n\trespond new\n}\n",
		"log":           "http://a.example {\n\tlog\n\trespond new\n}\n",
		"proxies":       "{\n\tservers {\n\t\ttrusted_proxies static private_ranges\n\t}\n}\nhttp://a.example {\n\trespond new\n}\n",
		"grace period":  "{\n\tgrace_period 3s\n}\nhttp://a.example {\n\trespond new\n}\n",
		"debug":         "{\n\tdebug\n}\nhttp://a.example {\n\trespond new\n}\n",
		"with TLS, too": "a.example {\n\trespond new\n}\n",
	} {
		require.ErrorIs(t, r.Reload(parse(t, text)), caddyfile.ErrRestart, what)
		assert.Equal(t, "old", ask(r.Servers(), question{Method: "GET", URL: "http://a.example/"}).Body, what)
	}
}
