package reload_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/reload"
)

// The not_found page is read only once. The log must not say that a changed
// page is in force.
func TestTheLogSaysWhatNeedsARestart(t *testing.T) {
	a := named(t, "a")
	dir := t.TempDir()
	page := filepath.Join(dir, "404.html")
	require.NoError(t, os.WriteFile(page, []byte("old"), 0o600))
	conf := plain + "not_found: {body_file: 404.html}\n"
	r := start(t, &reload.Proxy{File: filepath.Join(dir, "proxy.yaml")}, conf+"routes: {app.localhost: %s, config.localhost: {handler: config}}", a)
	require.Equal(t, "404 old", r.get("x.localhost"))

	write(t, page, "new")
	require.NoError(t, r.next())
	require.Equal(t, "404 old", r.get("x.localhost"))
	want := "the contents of " + page + ", which not_found names"
	line := lastLine(r.log)
	assert.Contains(t, line, `level=WARN msg="configuration in force, except what needs a restart of the process"`)
	assert.Contains(t, line, `changes=0 first="" not_in_force="`+want+`"`)

	write(t, r.File, conf+"routes: {app.localhost: %s, b.localhost: %[1]s, config.localhost: {handler: config}}", a)
	require.NoError(t, r.next())
	line = lastLine(r.log)
	assert.Contains(t, line, `changes=1 first="routes[b.localhost].targets`)
	assert.Contains(t, line, want, "the page is still not in force")
	assert.Contains(t, r.get("config.localhost"), "# not in force until the process is restarted: "+want+"\n")

	write(t, page, "old")
	require.NoError(t, r.next())
	line = lastLine(r.log)
	assert.Contains(t, line, `level=INFO msg="configuration in force"`)
	assert.NotContains(t, line, "not_in_force")
	assert.NotContains(t, r.get("config.localhost"), "not in force")
}

func TestCompareNamesFilesThatAreReadOnlyAtTheStart(t *testing.T) {
	dir := t.TempDir()
	load := func(page string) *reload.Checked {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "page"), []byte(page), 0o600))
		c, err := reload.LoadText(filepath.Join(dir, "proxy.yaml"), []byte("not_found: {body_file: page}\nroutes: {a.test: \"a:1\"}"))
		require.NoError(t, err)
		return c
	}
	d, err := reload.Compare(load("old"), load("new"))
	require.NoError(t, err)
	assert.Empty(t, d.Restart)
	assert.Equal(t, []string{"the contents of " + filepath.Join(dir, "page")}, d.Stale)
	assert.Equal(t, d.Stale[0]+" (needs a restart: a running proxy keeps the old contents)", d.String())
}
