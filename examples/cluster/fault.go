package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
)

// ErrUnreachable is wrapped by errors of [Storage.Check] that may go away by
// themselves: no server has answered, or Redis says that it cannot serve yet.
var ErrUnreachable = errors.New("cluster: redis cannot be reached")

const noTLS = "does not speak TLS: use redis:// in place of rediss://, or enable TLS in Redis"

// replies has explanations for error replies of Redis and Sentinels, by their
// beginning or a part of them. Read-only.
var replies = []struct{ has, explanation string }{
	{"WRONGPASS", "refuses the user name or the password: correct them in the URL, redis://user:password@host"},
	{"NOAUTH", "requires a password: put it into the URL, redis://:password@host or redis://user:password@host"},
	{"without any password configured", "has no password, and the URL has one: remove it, or set one in Redis"},
	{"no password is set", "has no password, and the URL has one: remove it, or set one in Redis"},
	{"DENIED", "is in protected mode and refuses other machines: set a password and bind it to an address"},
	{"READONLY", "is a replica, which takes no writes: connect to its master, or through Sentinels with master_name=…"},
	{"cluster support disabled", "is not a node of a Redis Cluster: remove cluster=true from the URL"},
	{"unknown command 'sentinel'", "is not a Sentinel: remove master_name from the URL, or give the Sentinels' addresses"},
	{"DB index is out of range", "has no database of that number: correct it in the URL, redis://host/0"},
	{"unknown command", "lacks a command: version 6.2 or later is required, or Valkey"},
	{"OOM", "has no memory left: raise its maxmemory"},
	{"MISCONF", "refuses writes since it cannot save a snapshot: see its log and its disk"},
}

// passing has the beginnings of error replies that go away by themselves.
// Read-only.
var passing = []string{"LOADING", "BUSY", "CLUSTERDOWN", "MASTERDOWN", "TRYAGAIN", "NOREPLICAS", "max number of clients"}

// A line is an error on one line. Errors of several Sentinels have several.
type line struct{ error }

func (l line) Error() string { return strings.ReplaceAll(l.error.Error(), "\n", "; ") }
func (l line) Unwrap() error { return l.error }

// explain turns a command's error into one sentence about a server.
func (s *Storage) explain(ctx context.Context, at string, err error) error {
	if err == nil {
		return nil
	}
	err = line{err}
	if sentence := sentence(err, s.options.Prefix); sentence != "" {
		return fmt.Errorf("cluster: %s %s (%w)", at, sentence, err)
	}
	for _, begins := range passing {
		if strings.Contains(err.Error(), begins) {
			return fmt.Errorf("%w: %s cannot serve at the moment, and is asked again (%w)", ErrUnreachable, at, err)
		}
	}
	var netErr net.Error
	var reply redis.Error
	if errors.As(err, &netErr) || errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil || !errors.As(err, &reply) {
		return fmt.Errorf("%w: %s does not answer: correct the address in the URL, or start it (%w)", ErrUnreachable, at, err)
	}
	return fmt.Errorf("cluster: %s refuses a command: see what it says (%w)", at, err)
}

// sentence returns the fault and its remedy, or "" if the error is unknown or
// nothing is to be changed in the settings.
func sentence(err error, prefix string) string {
	var notTLS tls.RecordHeaderError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	text := err.Error()
	switch {
	case strings.Contains(text, "all sentinels") && strings.Contains(text, redis.Nil.Error()):
		return "is unknown to them: correct master_name in the URL"
	case strings.Contains(text, "NOPERM"):
		return fmt.Sprintf("lets the user do too little: ACL SETUSER … ~{%s}:* ~%s:limit:* +@all -@dangerous +info", prefix, prefix)
	case errors.As(err, &notTLS), strings.Contains(text, "first record does not look like a TLS handshake"):
		return noTLS
	case errors.As(err, &authority), strings.Contains(text, "certificate signed by unknown authority"):
		return "has a certificate of an unknown CA: name a file with that CA in the URL, ca_file=/path/ca.pem"
	case errors.As(err, &host), errors.As(err, &invalid), strings.Contains(text, "x509: "):
		return "has a certificate that is not valid for this address: connect to a name that is in it, or renew it"
	case errors.As(err, &alert), strings.Contains(text, "remote error: tls: certificate required"):
		return "refuses the TLS handshake: if it requires client certificates, set them in UniversalOptions.TLSConfig"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), strings.HasSuffix(text, ": EOF"):
		return "closes the connection at the first command: if it speaks TLS, use rediss:// in place of redis://"
	}
	for _, r := range replies {
		if strings.Contains(text, r.has) {
			return r.explanation
		}
	}
	return ""
}
