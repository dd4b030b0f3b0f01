package certs_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/certs"
)

// A mute is an issuer of the program whose IssuerKey hangs until the channel is
// closed.
type mute struct {
	*fakeIssuer
	speak chan struct{}
}

func (i mute) IssuerKey() string {
	<-i.speak
	return i.fakeIssuer.IssuerKey()
}

// IssuerKey is a method of the program, like TLS.Host: if it hangs, one host
// waits. Others get their issuers, handshakes continue, and the host is asked
// about again.
func TestAnIssuerThatHangsDelaysOnlyItsHosts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, speak := newWishes(), make(chan struct{})
		for n := range 20 { // more than there are workers
			w.set(fmt.Sprintf("hangs%d.example.com", n), certs.Choice{Issuer: mute{newIssuer(t, "mute", day(90)), speak}})
		}
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = w.choose
		m, r := start(t, o, names("hangs%d.example.com", 20)...)
		time.Sleep(time.Second)
		own := newIssuer(t, "own", day(90))
		w.set("a.example.com", certs.Choice{Issuer: certmagic.Issuer(own)})
		r.add("a.example.com", "b.example.com")
		begin := time.Now()
		require.NoError(t, m.Await(t.Context(), "a.example.com", "b.example.com"))
		assert.Less(t, time.Since(begin), 30*time.Second)
		assert.Equal(t, "own", status(t, m, "a.example.com").Issuer)
		time.Sleep(30 * time.Second) // 20 calls of 10 s by 16 workers: all are called
		assert.ErrorContains(t, status(t, m, "hangs7.example.com").Err, "TLS.Host did not return in time")

		close(speak)
		require.NoError(t, m.Await(t.Context()))
		assert.Equal(t, "mute", status(t, m, "hangs7.example.com").Issuer)
	})
}

func TestAnIssuerThatPanicsIsAFaultOfItsHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWishes()
		o := with(newIssuer(t, "ca", day(90)))
		o.Choose = w.choose
		broken := make(chan struct{})
		close(broken)
		w.set("bad.example.com", certs.Choice{Issuer: mute{nil, broken}})
		m, _ := start(t, o, "bad.example.com", "good.example.com")
		require.NoError(t, m.Await(t.Context(), "good.example.com"))
		time.Sleep(time.Second)
		assert.ErrorContains(t, status(t, m, "bad.example.com").Err, "issuer")
	})
}
