package forward

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
)

// A PanicError is a panic in a hook of the embedding program. It is the failure
// of one exchange, with the stack for whoever reads the log.
type PanicError struct {
	Hook  string // the field that holds it
	Value any
	Stack []byte
}

// Error returns what the hook panicked with, and where.
func (e *PanicError) Error() string {
	return fmt.Sprintf("panic in %s: %v\n%s", e.Hook, e.Value, e.Stack)
}

// Contain, deferred around a hook, makes a panic in it the error.
func Contain(hook string, err *error) {
	if p := recover(); p != nil {
		*err = &PanicError{hook, p, debug.Stack()}
	}
}

// containTLS returns a copy of c in which a panic of a hook is its error: some
// handshakes have a goroutine of their own, where it would be the program's end.
func containTLS(c *tls.Config) *tls.Config {
	c = c.Clone()
	if hook := c.GetClientCertificate; hook != nil {
		c.GetClientCertificate = func(q *tls.CertificateRequestInfo) (cert *tls.Certificate, err error) {
			defer Contain("TLS.GetClientCertificate", &err)
			return hook(q)
		}
	}
	if hook := c.VerifyPeerCertificate; hook != nil {
		c.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) (err error) {
			defer Contain("TLS.VerifyPeerCertificate", &err)
			return hook(raw, chains)
		}
	}
	if hook := c.VerifyConnection; hook != nil {
		c.VerifyConnection = func(state tls.ConnectionState) (err error) {
			defer Contain("TLS.VerifyConnection", &err)
			return hook(state)
		}
	}
	if hook := c.EncryptedClientHelloRejectionVerify; hook != nil {
		c.EncryptedClientHelloRejectionVerify = func(state tls.ConnectionState) (err error) {
			defer Contain("TLS.EncryptedClientHelloRejectionVerify", &err)
			return hook(state)
		}
	}
	return c
}

// hookStatus is what the client is answered when a hook has failed: what it
// refused is no good answer of the target's, and a panic is a fault of ours.
func hookStatus(err error) int {
	var p *PanicError
	if errors.As(err, &p) {
		return http.StatusInternalServerError
	}
	return http.StatusBadGateway
}

// tell lets the user's ErrorHandler answer. What it panics with is answered like
// the failure of any hook, if the answer has not begun, and becomes the
// exchange's failure.
func (f *Forwarder) tell(w *watcher, q *http.Request, x *Exchange, fail *Failure) {
	var err error
	func() {
		defer Contain("ErrorHandler", &err)
		f.ErrorHandler(w, q, fail)
	}()
	if err == nil {
		return
	}
	x.Err = &Failure{Op: fail.Op, Target: fail.Target, Side: SideProxy, Err: fmt.Errorf("%w, about: %w", err, fail.Err)}
	if w.wrote {
		panic(http.ErrAbortHandler)
	}
	Reply(w, q, hookStatus(err), "proxy_internal_error")
}
