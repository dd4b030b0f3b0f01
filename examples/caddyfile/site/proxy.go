package site

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
)

// To returns an Upstream with Caddy's defaults where these differ from package
// hostproxy: no limit for the wait for a response or for a pause in a body, 3 s
// for a connection, and no retries. It panics on an invalid target, as
// hostproxy.To does.
func To(targets ...string) *hostproxy.Upstream {
	u := hostproxy.To(targets...)
	u.ResponseHeaderTimeout, u.IdleTimeout, u.DialTimeout = -1, -1, 3*time.Second
	u.Retry.Attempts = 1
	return u
}

// A Redial tries to connect again while a target refuses connections. Its
// method Dial is for Upstream.Dial. Upstream.DialTimeout limits all tries
// together.
type Redial struct {
	For   time.Duration // no try starts after this time
	Every time.Duration // pause between tries
}

// Dial connects to addr.
func (r Redial) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	end := time.Now().Add(r.For)
	for {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil || time.Now().Add(r.Every).After(end) {
			return c, err
		}
		pause := time.NewTimer(r.Every)
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil, err
		case <-pause.C:
		}
	}
}

// RootCAs returns a pool with the certificates of PEM files.
func RootCAs(files ...string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("CA file %q has no certificate: want PEM", f)
		}
	}
	return pool, nil
}

// Statuses returns the statuses in classes such as "2xx", and single statuses
// such as "404". It panics on other words.
func Statuses(words ...string) (codes []int) {
	for _, w := range words {
		first, last := strings.ReplaceAll(w, "x", "0"), strings.ReplaceAll(w, "x", "9")
		low, err := strconv.Atoi(first)
		high, err2 := strconv.Atoi(last)
		if err != nil || err2 != nil || low < 100 || high > 599 {
			panic(fmt.Sprintf("site: %q is not a status: want a number such as 404, or a class such as 5xx", w))
		}
		for ; low <= high; low++ {
			codes = append(codes, low)
		}
	}
	return codes
}
