package certs_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const silent, heard = `level=WARN msg="the CA answers no orders" ca=ca`, `level=INFO msg="the CA answers orders again" ca=ca`

// Failures of hosts on demand are no warnings: clients choose the names.
func TestACAThatIsDownCausesOneWarningForHostsOnDemand(t *testing.T) {
	t.Parallel()
	for what, answer := range silences {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ca, log := newDownCA(t, answer), new(logBuffer)
				ca.down.Store(true)
				o := onDemand(t, new(policy), ca.fakeIssuer)
				o.Logger = log.logger(slog.LevelInfo)
				m, _ := start(t, o, "*")
				visit := func(many int) { // by clients of four hosts, every ten seconds
					for i := range many {
						ctx, cancel := context.WithTimeout(t.Context(), time.Second)
						_, _ = shakeContext(ctx, t, m, fmt.Sprintf("customer%d.example.com", i%4))
						cancel()
						time.Sleep(10 * time.Second)
					}
				}
				visit(4)
				assert.NotContains(t, log.String(), "level=WARN", "it may be a short outage")
				visit(100)
				assert.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
				assert.Equal(t, 1, strings.Count(log.String(), silent), log.String())
				ca.down.Store(false)
				visit(100)
				assert.Equal(t, 1, strings.Count(log.String(), heard), log.String())
				assert.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
			})
		})
	}
}

func TestAShortOutageOfACACausesNoWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, log := newDownCA(t, silences["it cannot be reached"]), new(logBuffer)
		o := onDemand(t, new(policy), ca.fakeIssuer)
		o.Logger = log.logger(slog.LevelInfo)
		m, _ := start(t, o, "*")
		for _, host := range []string{"customer1.example.com", "customer2.example.com"} {
			ca.down.Store(true)
			_, err := shake(t, m, host)
			require.Error(t, err)
			time.Sleep(10 * time.Second)
			ca.down.Store(false)
			_, err = shake(t, m, "customer-of-"+host)
			require.NoError(t, err)
			time.Sleep(time.Hour)
		}
		assert.NotContains(t, log.String(), "the CA answers", "neither that it does not, nor that it does again")
	})
}

func TestOtherFailuresAreNotLoggedAsAnOutageOfTheCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, log := newIssuer(t, "ca", day(90)), new(logBuffer)
		ca.hook(failing("solving challenges: context deadline exceeded"))
		o := onDemand(t, new(policy), ca)
		o.Logger = log.logger(slog.LevelInfo)
		m, _ := start(t, o, "*")
		_, err := shake(t, m, "customer1.example.com")
		require.Error(t, err)
		time.Sleep(time.Hour)
		assert.NotContains(t, log.String(), "the CA answers")
	})
}
