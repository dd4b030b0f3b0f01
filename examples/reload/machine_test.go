package reload_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/reload"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

const route = "routes: {a.localhost: localhost:1}\n"

// checks writes the text to a file in dir and returns the result of Check.
func checks(t *testing.T, dir, text, old string) (string, error) {
	t.Helper()
	name := filepath.Join(dir, "proxy.yaml")
	write(t, name, "%s", text)
	var b bytes.Buffer
	_, err := reload.Check(t.Context(), &b, name, old)
	return b.String(), err
}

// names returns the names of all files in dir and below.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	}))
	return all
}

func TestCheckFindsWhatCannotBeOpenedAndOpensNothing(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "there"), []byte("x"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "proxy.yaml"), nil, 0o600))
	before := names(t, dir)
	for text, want := range map[string]string{
		"log: {output: none/x.log}\n":                                `:2:7: log.output: the directory "` + dir + `/none" does not exist: create it, or correct the name`,
		"log: {output: there/x.log}\n":                               "not a directory",
		"log: {output: sub}\n":                                       `log.output: "` + dir + `/sub" is a directory: want a file`,
		"tls: {storage: there/x}\n":                                  "tls.storage: ",
		"listeners: [{role: plain, addr: \"203.0.113.9:8080\"}]\n":   `:2:27: listeners[0].addr: "203.0.113.9:8080": cannot assign requested address: want an address of this machine`,
		"listeners: [{role: plain, addr: unix:" + dir + "/there}]\n": `there" is there, and is no socket: remove it`,
		"listeners: [{role: plain, addr: unix:" + dir + "/no/s}]\n":  `no" does not exist: create it`,
		"log: {output: there}\n":                                     "",
		"log: {output: sub/x.log}\n":                                 "",
		"tls: {storage: sub/a/b/c}\n":                                "",
		"listeners: [{role: plain, addr: \"[::1]:0\"}, {role: plain, addr: \"localhost:0\"}, {role: plain, addr: unix:" + dir + "/s}]\n": "",
	} {
		if text[0] != 'l' || text[1] != 'i' {
			text += plain
		}
		out, err := checks(t, dir, route+text, "")
		if want != "" {
			assert.ErrorContains(t, err, want, text)
			assert.Len(t, err, 1, text)
			assert.Empty(t, out)
		} else {
			assert.NoError(t, err, text)
			assert.Equal(t, filepath.Join(dir, "proxy.yaml")+" is right\n", out)
		}
		assert.Equal(t, before, names(t, dir))
	}
	_, err := checks(t, dir, route+"log: {output: sub}\nlisteners: [{addr: \"203.0.113.9:1\"}]\n", "")
	assert.Len(t, err, 2, "all at once: %v", err)
}

// The running proxy uses its ports, which is right.
func TestCheckAcceptsAnAddressThatTheRunningProxyUses(t *testing.T) {
	dir := t.TempDir()
	ln := proxytest.Listen(t)
	text := func(addr net.Addr) string {
		return route + fmt.Sprintf("listeners: [{role: plain, addr: \"%s\"}]\n", addr)
	}
	out, err := checks(t, dir, text(ln.Addr()), "")
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprintf("%s is right\nnote: %[1]s:2:27: listeners[0].addr: \"%s\" is in use. "+
		"That is right if the proxy that runs with this file uses it; -against tells\n", filepath.Join(dir, "proxy.yaml"), ln.Addr()), out)

	own, other := filepath.Join(dir, "own.yaml"), filepath.Join(dir, "other.yaml")
	write(t, own, "%s", text(ln.Addr()))
	write(t, other, "%s", route+plain)
	out, err = checks(t, dir, text(ln.Addr()), own)
	require.NoError(t, err)
	assert.Equal(t, "no changes\n", out)
	_, err = checks(t, dir, text(ln.Addr()), other)
	assert.ErrorContains(t, err, fmt.Sprintf("listeners[0].addr: \"%s\" is in use, and the configuration to compare with does not have this port", ln.Addr()))

	require.NoError(t, ln.Close())
	out, err = checks(t, dir, text(ln.Addr()), "")
	require.NoError(t, err)
	assert.NotContains(t, out, "note")
}

// Check must not listen: a client that connected then would be lost.
func TestCheckAcceptsNoConnection(t *testing.T) {
	ln := proxytest.Listen(t)
	addr := ln.Addr().String()
	require.NoError(t, ln.Close())
	require.NoError(t, reload.Bindable(addr))
	again, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	require.Error(t, reload.Bindable(addr))
	require.NoError(t, again.Close())
}
