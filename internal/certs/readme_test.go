package certs_test

import (
	"errors"
	"io/fs"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// The README describes each failure as the status and the log show it.
// Unreadable files are tested in
// TestCertificateFilesAreReadAgainWhenTheyChange.
func TestFailuresLookAsTheReadmeSays(t *testing.T) {
	broken := func(s *memStorage) *memStorage {
		s.hook(func(verb, key string) error {
			if verb == "store" {
				return errors.New("disk full")
			}
			return nil
		})
		return s
	}
	for name, tt := range map[string]struct {
		host   string
		issuer func(t *testing.T) certmagic.Issuer
		store  *memStorage
		cause  string        // in Err
		within time.Duration // until the next try; 0 means that there is none
		log    string
	}{
		"the CA cannot reach the host": {"a.example.com", refusing("urn:ietf:params:acme:error:connection: 192.0.2.1: Timeout"), newMemStorage(),
			"192.0.2.1: Timeout", time.Hour, `level=WARN msg="certificate failed" host=a.example.com attempts=1 next_try=`},
		"the CA limits the rate": {"a.example.com", refusing("urn:ietf:params:acme:error:rateLimited: too many, retry after 2000-01-01 05:00:00 UTC"), newMemStorage(),
			"rateLimited", 24 * time.Hour, `level=WARN msg="certificate failed" host=a.example.com attempts=1 next_try=`},
		"a wildcard without DNS": {"*.example.com", func(*testing.T) certmagic.Issuer { return &certmagic.ACMEIssuer{CA: "https://acme.invalid/directory"} }, newMemStorage(),
			"set a DNS provider", 0, `level=ERROR msg="no certificate possible" host=*.example.com`},
		"storage that fails": {"a.example.com", refusing(""), broken(newMemStorage()),
			"disk full", time.Hour, `level=WARN msg="certificate failed" host=a.example.com attempts=1 next_try=`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log logBuffer
				o := with(tt.issuer(t))
				o.Storage, o.Logger = tt.store, log.logger(slog.LevelWarn)
				m, _ := start(t, o, tt.host)
				synctest.Wait()
				time.Sleep(time.Second)
				synctest.Wait()
				s := m.Statuses()[0]
				assert.Equal(t, certs.Failed, s.State)
				assert.ErrorContains(t, s.Err, tt.cause)
				assert.Equal(t, tt.within == 0, s.NextTry.IsZero())
				if tt.within > 0 {
					assert.WithinRange(t, s.NextTry, time.Now(), time.Now().Add(tt.within))
				}
				assert.Contains(t, log.String(), tt.log)
				assert.Equal(t, 1, strings.Count(log.String(), "\n"), "one line: %s", log.String())
			})
		})
	}
}

// refusing returns an issuer that refuses for the given reason, or one that
// signs if why is "".
func refusing(why string) func(*testing.T) certmagic.Issuer {
	return func(t *testing.T) certmagic.Issuer {
		ca := newIssuer(t, "ca", day(90))
		if why != "" {
			ca.hook(failing(why))
		}
		return ca
	}
}

// A name without a route costs a handshake and nothing else: no storage, no
// log.
func TestANameWithoutARouteLeavesNoTrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		storage := newMemStorage()
		o := with(newIssuer(t, "ca", day(90)))
		o.Storage, o.Logger = storage, log.logger(slog.LevelDebug)
		m, _ := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		synctest.Wait()
		before, lines := storage.reads.Load(), log.String()
		_, err := shake(t, m, "b.example.com")
		assert.ErrorContains(t, err, "unrecognized name")
		assert.Equal(t, before, storage.reads.Load())
		assert.Equal(t, lines, log.String())
		_, err = storage.Load(t.Context(), "b.example.com")
		assert.ErrorIs(t, err, fs.ErrNotExist)
	})
}
