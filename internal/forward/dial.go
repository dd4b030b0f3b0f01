package forward

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/proxyproto"
)

// A DialFunc connects to an address, as [net.Dialer.DialContext] does.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

var errNoConn = errors.New("Upstream.Dial returned nil and no error: return a connection or an error")

// Dialer returns a DialFunc that calls the user's hook, within timeout if that
// is positive. A failure of the hook that is no *net.OpError, and a panic,
// becomes one with the Op "dial". If the hook ignores its context, the call
// returns without it, and closes the connection when it comes.
func Dialer(hook DialFunc, timeout time.Duration) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		nc, err := attend(ctx, func() (nc net.Conn, err error) {
			defer exchange.Contain("Dial", &err)
			if nc, err = hook(ctx, network, addr); err == nil && isNil(nc) {
				err = errNoConn
			}
			return nc, err
		}, func(nc net.Conn) { nc.Close() })
		var op *net.OpError
		if err != nil && !errors.As(err, &op) {
			err = &net.OpError{Op: "dial", Net: network, Err: err}
		}
		return nc, err
	}
}

// isNil reports whether nc is nil, or a nil pointer to a socket.
func isNil(nc net.Conn) bool {
	switch c := nc.(type) {
	case *net.TCPConn:
		return c == nil
	case *net.UnixConn:
		return c == nil
	}
	return nc == nil
}

// introducing returns a dial that also sends the context's header of the PROXY
// protocol.
func introducing(dial func(context.Context) (net.Conn, error), c *Config) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		if c.DialTimeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, c.DialTimeout)
			defer cancel()
		}
		nc, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		if err := introduce(ctx, nc, c.ProxyProtocol); err != nil {
			containConn(nc).Close()
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}
		return nc, nil
	}
}

// introduce sends the header on nc. A panic of the user's connection becomes an
// error.
func introduce(ctx context.Context, nc net.Conn, version int) (err error) {
	defer exchange.Contain("a connection", &err)
	stop := context.AfterFunc(ctx, func() {
		defer exchange.Contain("a connection", new(error))
		_ = nc.SetWriteDeadline(time.Unix(1, 0))
	})
	_, err = nc.Write(proxyproto.Append(nil, version, proxyproto.FromContext(ctx)))
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("sending the PROXY header: %w", err)
	}
	return nil
}

// attend runs f on its own goroutine, and returns its result. If ctx is done
// first it returns the cause; if f succeeds after that, late gets the result.
func attend[T any](ctx context.Context, f func() (T, error), late func(T)) (got T, err error) {
	type result struct {
		got T
		err error
	}
	done := make(chan result)
	go func() {
		r := result{err: errExited}
		defer func() { // also if f ends its goroutine
			select {
			case done <- r:
			case <-ctx.Done():
				if r.err == nil {
					defer exchange.Contain("Close", &r.err)
					late(r.got)
				}
			}
		}()
		r.got, r.err = f()
	}()
	select {
	case r := <-done:
		return r.got, r.err
	case <-ctx.Done():
		return got, context.Cause(ctx)
	}
}

// containTLS returns a copy of c in which a panic of a hook becomes its error.
// Some handshakes run on a goroutine of their own, where a panic would end the
// program.
func containTLS(c *tls.Config) *tls.Config {
	c = c.Clone()
	if hook := c.GetClientCertificate; hook != nil {
		c.GetClientCertificate = func(q *tls.CertificateRequestInfo) (cert *tls.Certificate, err error) {
			defer exchange.Contain("TLS.GetClientCertificate", &err)
			return hook(q)
		}
	}
	if hook := c.VerifyPeerCertificate; hook != nil {
		c.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) (err error) {
			defer exchange.Contain("TLS.VerifyPeerCertificate", &err)
			return hook(raw, chains)
		}
	}
	if hook := c.VerifyConnection; hook != nil {
		c.VerifyConnection = func(state tls.ConnectionState) (err error) {
			defer exchange.Contain("TLS.VerifyConnection", &err)
			return hook(state)
		}
	}
	if hook := c.EncryptedClientHelloRejectionVerify; hook != nil {
		c.EncryptedClientHelloRejectionVerify = func(state tls.ConnectionState) (err error) {
			defer exchange.Contain("TLS.EncryptedClientHelloRejectionVerify", &err)
			return hook(state)
		}
	}
	return c
}
