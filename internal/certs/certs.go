// Package certs keeps one certificate per host: it obtains, stores, serves and
// renews it, and reports its state.
//
// certmagic is the engine for what it does best: ACME accounts and orders,
// challenge solvers, the layout of the storage and the locks that let a cluster
// share it. This package adds what a proxy with many hosts needs: the gate
// (only hosts of a route cost anything), the table that handshakes read, the
// schedule (bounded work, urgent first, failures on their own clock), timeouts
// around storage, and a status per host. certmagic's certificate cache stays
// empty and its maintenance idle: a certificate is served exactly as long as
// its host is in the table.
//
// Besides certmagic's own files, storage holds acme/<CA>/users-<digest> with
// the accounts that have a key from the program or an external account, and
// hostproxy/attempts/<issuer>/<host>.json with the host's failed validations of
// the last hour and the type of challenge that works. The latter may be deleted
// once the host has no route. hostproxy/limits has the rate limits that CAs
// have reported and that are still in force, per account.
//
//   - certs.go, settings.go: what is configured
//   - manager.go, close.go: a Manager, and its end
//   - lifecycle.go, share.go, ports.go: a Keeper, which opens and closes
//     Managers as listeners come and go
//   - follow.go, routing.go, apply.go, zones.go: what the routes want of a
//     name, and the table that follows it
//   - table.go, host.go, memory.go: the hosts, and the certificates in memory
//   - queue.go, steps.go, outcome.go, doze.go, reload.go, backoff.go, clock.go:
//     what a host does, with which outcome, and when it does it next
//   - preflight.go, issuers.go, authority.go, attempt.go, probe.go, history.go,
//     downtime.go, silence.go, release.go: an order, from the look-up of its
//     host to an answer
//   - identity.go, templates.go, reserved.go: issuers as the program gives
//     them, and what each signs
//   - account.go, limits.go, ledger.go, pacer.go: ACME accounts, and the limits
//     that CAs set for them
//   - engine.go, challenge.go, challengelookup.go, challengeport.go: certmagic,
//     and the answers to challenges
//   - localca.go, followroot.go, localsigner.go, mint.go: the local CA, and its
//     work in a Manager
//   - static.go, pairfile.go: certificates that the program provides
//   - choices.go, choice.go, inquiry.go: the program's TLS settings per host
//   - realm.go, clientauth.go, clientcert.go: client authentication
//   - config.go, handshake.go, lobby.go, pauser.go: handshakes, and how they
//     wait
//   - ondemand.go, recall.go: hosts without a route of their own
//   - passthrough.go, clienthello.go, passerror.go: connections that are
//     forwarded with their TLS
//   - tickets.go: the keys of session tickets
//   - storage.go, outage.go, filestorage.go, filenames.go, sitekey.go,
//     keepsakes.go: storage
//   - stored.go, bundle.go, shapes.go, metadata.go: a certificate in storage,
//     and whether it is damaged
//   - witness.go, writeback.go, cleanup.go: what storage has lost, and what it
//     no longer needs
//   - status.go, outlook.go, renew.go: what is shown, and what can be requested
//   - report.go, notices.go, tally.go, refusal.go, storageerror.go,
//     logbridge.go: what is logged, and errors
package certs

import (
	"context"
	"crypto/tls"
	"iter"
	"log/slog"
	"net/netip"
	"time"

	"github.com/caddyserver/certmagic"
)

// Options configure a Manager. They are read once, by New.
type Options struct {
	// Fault is an error in the settings that these are made from. New returns
	// it together with its own.
	Fault error

	// Hosts yields the host patterns of all routes: hosts and wildcards in
	// canonical form, and "*", which only on-demand certificates can serve.
	// Required; called at start and after Changed without names, and
	// concurrently.
	Hosts func() iter.Seq[string]

	// Wants reports whether a host pattern, as Hosts yields it, belongs to a
	// route that terminates TLS here. Required; called concurrently.
	Wants func(pattern string) bool

	// Passes reports whether a host pattern belongs to a route that forwards
	// connections with their TLS. Called concurrently. Nil means that none
	// does.
	Passes func(pattern string) bool

	// Knows is the gate: it reports whether a canonical host has a route. Any
	// other name costs no more than this call. Challenges are the exception;
	// their look-ups in storage are bounded. Required; called concurrently.
	Knows func(host string) bool

	// Storage keeps certificates, accounts, challenges and locks. Nil means the
	// storage of Files.
	Storage certmagic.Storage

	// Public issues for names a public CA would sign, each tried in turn
	// until one succeeds. A *certmagic.ACMEIssuer is a template: it is copied
	// and bound to Storage; it need not come from NewACMEIssuer.
	Public []certmagic.Issuer

	// Internal issues for the names of hostname.IsInternal. Nil means a
	// LocalCA on Storage.
	Internal certmagic.Issuer

	// Choose returns the TLS settings for a host pattern of a route, as Hosts
	// yields it, or for a host that comes on demand; such a host takes each
	// setting that is zero from its pattern. Choose is called once when the
	// pattern gets its first route, and again by ReloadTLS. After an error, a
	// panic, or a call that takes longer than 10 s, the pattern keeps its
	// settings; a new pattern stays closed, and is retried after some seconds,
	// later after minutes. Called concurrently. Nil means that Options apply to
	// all.
	Choose func(pattern string) (Choice, error)

	// DisableARI ignores the renewal information of CAs (RFC 9773).
	DisableARI bool

	// Policy allows on-demand certificates for public names that match a
	// wildcard. A nil error means yes and ErrNotAllowed no. Any other error
	// means that it cannot tell; existing certificates then stay. A nil Policy
	// allows none.
	Policy func(ctx context.Context, host string) error

	// PolicyTTL is how long a refusal of Policy is remembered. 0 means a
	// minute, negative not at all.
	PolicyTTL time.Duration

	// Lazy delays the first certificate of a route's host until a handshake
	// needs it. Certificates in storage are served and renewed as usual.
	Lazy bool

	// Files are more static certificates, in PEM files. They are read again
	// when they change; if that fails, the previous certificate stays.
	Files []KeyPair

	// Addresses are the ones under which CAs reach this machine, for
	// preflights. Empty means the addresses of its interfaces, if all of them
	// are public. A zero netip.Addr is an error, and so are Addresses with
	// DisablePreflight.
	Addresses []netip.Addr

	// DisablePreflight turns off the look-up of a host before an order.
	DisablePreflight bool

	// Resolve returns the addresses of a host, for preflights. Nil means DNS.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Interfaces returns the addresses of this machine. Nil means the addresses
	// that the system reports.
	Interfaces func() []netip.Addr

	// Config is the base settings of TLSConfig. Nil means none. Its
	// Certificates are static: they are served before any other for their
	// names, and those names are not managed.
	Config *tls.Config

	// Hello is called first for each ClientHello; an error ends the handshake.
	// Nil disables it.
	Hello func(*tls.ClientHelloInfo) error

	// DefaultHost is the host for clients that send no SNI: they get its
	// certificate and its client authentication. "" means the IP address that
	// the client connected to, if it has a route, and otherwise none.
	DefaultHost string

	// ShareTickets keeps the keys of session tickets in Storage.
	ShareTickets bool

	// Logger gets one record per change of a host's state, and certmagic's own
	// records, most of them at debug level. Required.
	Logger *slog.Logger

	// Observe is called after each change of a host's state, one call at a time
	// and in order. A panic in it is logged; if it is slow, the oldest reports
	// are dropped. Nil disables it.
	Observe func(Status)

	// StorageTimeout limits each storage operation except Lock. 0 means 10 s.
	StorageTimeout time.Duration
}

// A KeyPair names the PEM files of a certificate chain and its key.
type KeyPair struct{ CertFile, KeyFile string }

// The limits of a Manager. They are per Router.
const (
	maxLoads         = 8                // storage reads of hosts at a time
	maxPublicIssues  = 16               // public issuances at a time
	maxLocalIssues   = 4                // internal issuances at a time
	maxIssueTime     = 5 * time.Minute  // for one attempt with one issuer
	maxLoaded        = 10_000           // certificates in memory
	maxWaiters       = 1_024            // handshakes that wait for a certificate
	maxHostWaiters   = 64               // of these, for the certificate of one host
	maxOnDemand      = 64               // on-demand names being decided or issued
	maxRefused       = 10_000           // refused names remembered
	maxMinted        = 1_024            // internal certificates kept in memory only
	maxChallengeRead = 16               // look-ups of challenges of wanted hosts at a time
	filesPause       = 30 * time.Second // between two checks of the files
)
