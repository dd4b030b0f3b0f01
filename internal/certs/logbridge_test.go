package certs_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hostproxy/hostproxy/internal/certs"
)

func TestCertmagicLogsThroughTheRoutersLogger(t *testing.T) {
	var log logBuffer
	z := certs.Zap(log.logger(slog.LevelDebug))
	z.Debug("trace")
	z.Info("detail", zap.String("identifier", "a.test"))
	z.Warn("strange")
	z.Error("broken", zap.Error(errors.New("no disk")), zap.Strings("names", []string{"a", "b"}))
	z.Named("obtain").Error("will retry")
	z.With(zap.Int("n", 1)).Named("maintenance").Error("more")
	lines := log.String()
	assert.NotContains(t, lines, "trace")
	assert.Contains(t, lines, `level=DEBUG msg=detail engine=certmagic identifier=a.test`)
	assert.Contains(t, lines, `level=DEBUG msg=strange`)
	assert.Contains(t, lines, `level=WARN msg=broken engine=certmagic error="no disk" names="[a b]"`)
	assert.Contains(t, lines, `level=DEBUG msg="will retry"`)
	assert.Contains(t, lines, `level=WARN msg=more n=1 engine=certmagic`)

	var quiet logBuffer
	z = certs.Zap(quiet.logger(slog.LevelInfo))
	z.Info("detail")
	assert.Empty(t, quiet.String())
	assert.Nil(t, z.Check(zap.InfoLevel, "detail"))
}

func TestObjectsAreLoggedAsAttributes(t *testing.T) {
	var log logBuffer
	z := certs.Zap(log.logger(slog.LevelDebug))
	z.Error("broken", zap.Dict("problem", zap.String("type", "urn:x"), zap.String("title", ""), zap.String("detail", "no record"),
		zap.Objects("subproblems", []zapcore.ObjectMarshaler{}),
		zap.Objects("more", []zapcore.ObjectMarshaler{zapcore.ObjectMarshalerFunc(func(e zapcore.ObjectEncoder) error {
			e.AddString("identifier", "a.test")
			return nil
		})})))
	assert.Contains(t, log.String(), `engine=certmagic problem.detail="no record" problem.more.0.identifier=a.test problem.type=urn:x`+"\n")
}

func TestAFailureWithoutACertificateIsLoggedWithoutAnExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		ca := newIssuer(t, "ca", day(90))
		ca.hook(failing("the CA says no"))
		o := with(ca)
		o.Logger = log.logger(slog.LevelInfo)
		start(t, o, "a.example.com")
		synctest.Wait()
		assert.Contains(t, log.String(), "certificate failed")
		assert.NotContains(t, log.String(), "not_after")
	})
}

func TestEachEventIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		ca := newIssuer(t, "ca", day(90))
		o := with(ca)
		o.Logger = log.logger(slog.LevelInfo)
		m, r := start(t, o, "a.example.com")
		require.NoError(t, m.Await(t.Context()))
		synctest.Wait()
		line := `level=INFO msg="certificate ready" host=a.example.com issuer=ca not_after=2000-03-31T00:00:00.000Z`
		assert.Regexp(t, `^time=\S+ `+line+"\n$", log.String())

		time.Sleep(day(64)) // a renewal
		assert.Regexp(t, `^(time=\S+ level=INFO msg="certificate ready"[^\n]*\n){2}$`, log.String())

		before := log.String()
		ca.hook(failing("the CA says no"))
		r.set("a.example.com", "b.example.com")
		synctest.Wait()
		time.Sleep(100 * time.Millisecond)
		synctest.Wait()
		assert.Regexp(t, `^time=\S+ level=WARN msg="certificate failed" host=b.example.com attempts=1 next_try=\S+ [^\n]*the CA says no"\n$`, strings.TrimPrefix(log.String(), before))
	})
}
