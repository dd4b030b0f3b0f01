package certs_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

const cannotKeep = "the local CA cannot store its root"

// The first problem of a developer may be a directory that is not writable.
func TestALocalCAThatCannotWriteLogsTheRemedyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs logBuffer
		storage := inFiles{newMemStorage()}
		storage.fails("store")
		o := certs.Options{Storage: storage, Logger: logs.logger(slog.LevelInfo)}
		m, _ := start(t, o, "app.localhost", "*.localhost", "shop.test")
		for range 100 {
			_, err := shake(t, m, "any.localhost")
			require.Error(t, err)
			time.Sleep(time.Minute)
		}
		lines := logs.String()
		assert.Equal(t, 1, strings.Count(lines, "level=ERROR"), lines)
		assert.Equal(t, 1, strings.Count(lines, cannotKeep), lines)
		assert.Contains(t, lines, "make TLS.Storage")
		assert.NotContains(t, lines, "XDG_DATA_HOME", "it has no effect here")
		assert.Contains(t, lines, errNoDisk.Error())
		assert.NotContains(t, lines, "a local CA signs")

		storage.heal()
		time.Sleep(5 * time.Second)
		assert.Equal(t, 1, strings.Count(logs.String(), "root=/data/localca/root.crt"), "the root is logged as soon as it exists")
		_, err := shake(t, m, "any.localhost")
		require.NoError(t, err)
		time.Sleep(time.Hour)
		assert.Equal(t, 1, strings.Count(logs.String(), "a local CA signs"))
	})
}

func TestALocalCAThatCannotWriteToAStorageWithoutFilesLogsTheRemedyToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logs logBuffer
		storage := newMemStorage()
		storage.fails("lock")
		start(t, certs.Options{Storage: storage, Logger: logs.logger(slog.LevelInfo)}, "app.localhost")
		time.Sleep(time.Minute)
		assert.Equal(t, 1, strings.Count(logs.String(), cannotKeep), logs.String())
		assert.Contains(t, logs.String(), "make TLS.Storage")
	})
}

// A real directory that cannot be created. The remedy names the setting that it
// comes from.
func TestALocalCAInADirectoryThatCannotBeCreatedLogsTheRemedy(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	t.Setenv("XDG_DATA_HOME", filepath.Join(file, "home"))
	below := &certmagic.FileStorage{Path: filepath.Join(file, "below")}
	for name, c := range map[string]struct {
		o    certs.Options
		want string
	}{
		"TLS.Storage":     {certs.Options{Storage: below}, "below\\\" (TLS.Storage) writable"},
		"LocalCA.Storage": {certs.Options{Storage: newMemStorage(), Internal: &certs.LocalCA{Storage: below}}, "below\\\" (LocalCA.Storage) writable"},
		"neither":         {certs.Options{Storage: inHome}, "set XDG_DATA_HOME to a directory that this process can write to, or TLS.Storage"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var logs logBuffer
				c.o.Logger = logs.logger(slog.LevelError)
				m, _ := start(t, c.o, "app.localhost")
				_, err := shake(t, m, "app.localhost")
				require.Error(t, err)
				time.Sleep(time.Minute)
				assert.Equal(t, 1, strings.Count(logs.String(), cannotKeep), logs.String())
				assert.Contains(t, logs.String(), c.want)
			})
		})
	}
}
