package certs_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/examples/storagetest"
	"github.com/hostproxy/hostproxy/internal/certs"
)

// long returns a host of n bytes; first is its first label.
func long(n int, first string) string {
	const suffix = ".example.com"
	name := first
	for len(name)+len(suffix) < n {
		name += "." + strings.Repeat("x", min(60, n-len(name)-len(suffix)-1))
	}
	return name + suffix
}

// DNS names can have 253 bytes, file names 255.
func TestHostNamesOfAnyLengthFitIntoFileNames(t *testing.T) {
	dir := t.TempDir()
	ca := newIssuer(t, "ca", day(90))
	o := with(ca)
	o.Storage = &certmagic.FileStorage{Path: dir}
	hosts := []string{long(253, "a"), long(253, "b"), long(240, "c"), long(239, "d"), "*." + long(251, "e")}
	require.Len(t, hosts[0], 253)
	for range 2 { // the second time, stored data is found
		m, _ := startOnce(t, o, hosts...)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		require.NoError(t, m.Await(ctx))
		require.NoError(t, m.Close())
	}
	assert.Len(t, ca.issued(), len(hosts))
	assert.FileExists(t, filepath.Join(dir, "certificates", "ca", hosts[3], hosts[3]+".crt"), "a name that fits is not shortened")
	locks, err := os.ReadDir(filepath.Join(dir, "locks"))
	require.NoError(t, err)
	assert.Empty(t, locks)
}

// A route for any host must not mistake the digest of a name for a host.
func TestAShortenedFileNameIsNotTakenForAHost(t *testing.T) {
	ca := newIssuer(t, "ca", day(90))
	o := with(ca)
	o.Storage = &certmagic.FileStorage{Path: t.TempDir()}
	o.Policy = func(context.Context, string) error { return nil }
	host := long(253, "a")
	m, _ := startOnce(t, o, "*")
	_, err := shake(t, m, host)
	require.NoError(t, err)
	require.NoError(t, m.Close())
	m, _ = start(t, o, "*")
	_, err = shake(t, m, host)
	require.NoError(t, err)
	assert.Len(t, m.Statuses(), 1)
	assert.Equal(t, []string{host}, ca.issued())
}

func TestFilesWithRoomForLongNamesPassTheStorageTests(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	storagetest.Run(t, func(*testing.T) certmagic.Storage {
		return certs.Bounded(&certmagic.FileStorage{Path: dir}, 10*time.Second)
	})
}
