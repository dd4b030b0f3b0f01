// Package certs keeps one certificate per host: it obtains, stores, serves and
// renews them, and says how each is doing.
//
// certmagic is the engine for what it is best at: ACME accounts and orders,
// challenge solvers, the layout of the storage and the locks that let a cluster
// share it. What a proxy with many hosts needs besides lives here: the gate
// (only hosts of a route cost anything), the table that handshakes read, the
// schedule (bounded work, urgent first, failures on their own clock), timeouts
// around storage, and a status per host. certmagic's certificate cache stays
// empty and its maintenance idle: a certificate is served exactly as long as
// its host is in the table.
//
// Storage has, besides what certmagic keeps there: acme/<CA>/users-<digest>
// with the accounts that the e-mail does not tell apart, and
// hostproxy/attempts/<issuer>/<host>.json with the failed validations of a host
// within the last hour and the type of challenge that works. The latter may be
// deleted when the host has no route any more. hostproxy/limits has the limits
// of CAs that were met and are in force, per account.
//
//   - certs.go, settings.go: what is configured
//   - manager.go, close.go: a Manager, and its end
//   - lifecycle.go, share.go, ports.go: a Keeper, which opens and closes
//     Managers as listeners come and go
//   - follow.go, routing.go, apply.go, zones.go: from changes of routes, by
//     what they want of a name, to the table
//   - table.go, host.go, memory.go: the hosts, and the certificates in memory
//   - queue.go, steps.go, outcome.go, doze.go, reload.go, backoff.go, clock.go:
//     what a host does, what came of it, and when it does what next
//   - preflight.go, issuers.go, authority.go, attempt.go, probe.go, history.go,
//     downtime.go, release.go: an order, from the look-up of its host to an
//     answer
//   - identity.go, templates.go, reserved.go: issuers as the program gives
//     them, and what each signs
//   - account.go, limits.go, ledger.go, pacer.go: ACME accounts, and the limits
//     that CAs set them
//   - engine.go, challenge.go, challengelookup.go, challengeport.go: certmagic,
//     and the answers to challenges
//   - localca.go, followroot.go, localsigner.go, mint.go: the local CA, and its
//     work in a Manager
//   - static.go, pairfile.go: certificates of the program
//   - choices.go, choice.go, inquiry.go: what the program says per host
//   - realm.go, clientauth.go, clientcert.go: client authentication
//   - config.go, handshake.go, lobby.go, pauser.go: handshakes, and those that
//     wait
//   - ondemand.go, recall.go: hosts without a route of their own
//   - passthrough.go, clienthello.go, passerror.go: connections that go
//     elsewhere as they are
//   - tickets.go: the keys of session tickets
//   - storage.go, outage.go, filestorage.go, filenames.go, sitekey.go,
//     keepsakes.go: storage
//   - stored.go, bundle.go, shapes.go, metadata.go: a certificate there, and
//     whether it is damaged
//   - witness.go, writeback.go, cleanup.go: what storage has lost, and what is
//     of no use there
//   - status.go, outlook.go, renew.go: what is shown, and what can be asked for
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
	// Fault is what is wrong with the settings that these are made from. New
	// returns it with the rest.
	Fault error

	// Hosts yields the host patterns of all routes: hosts and wildcards in
	// canonical form, and "*", which only on-demand certificates can serve.
	// Required; called at start and after Changed without names, and
	// concurrently.
	Hosts func() iter.Seq[string]

	// Wants reports whether a host pattern, as Hosts yields it, is that of a
	// route whose TLS ends here. Required; called concurrently.
	Wants func(pattern string) bool

	// Passes reports whether a host pattern is that of a route whose
	// connections are carried elsewhere as they are. Called concurrently. Nil
	// means that none are.
	Passes func(pattern string) bool

	// Knows is the gate: it reports whether a canonical host has a route. No
	// other name costs more than this call, but for challenges, whose look-ups
	// in storage are bounded. Required; called concurrently.
	Knows func(host string) bool

	// Storage keeps certificates, accounts, challenges and locks. Nil means
	// that of Files.
	Storage certmagic.Storage

	// Public issues for names a public CA would sign, each tried in turn
	// until one succeeds. A *certmagic.ACMEIssuer is a template: it is copied
	// and bound to Storage; it need not come from NewACMEIssuer.
	Public []certmagic.Issuer

	// Internal issues for the names of hostname.IsInternal. Nil means a
	// LocalCA on Storage.
	Internal certmagic.Issuer

	// Choose says how TLS is done for a host pattern of a route, as Hosts
	// yields them, or for a host that comes on demand, which has the settings
	// of its pattern where the answer leaves them zero. It is consulted once
	// when the pattern gets its first route, and again by ReloadTLS. An error,
	// a panic, or a call that takes longer than 10 s leaves what counts for the
	// pattern; a new one is closed, and asked about again after some seconds,
	// later after minutes. It is called concurrently. Nil means that Options
	// say all.
	Choose func(pattern string) (Choice, error)

	// DisableARI ignores the renewal information of CAs (RFC 9773).
	DisableARI bool

	// Policy allows on-demand certificates for public names that match a
	// wildcard. Nil error means yes, ErrNotAllowed no, and any other error that
	// it does not know: then what there is stays. A nil Policy allows none.
	Policy func(ctx context.Context, host string) error

	// PolicyTTL is how long a refusal of Policy is remembered. 0 means a
	// minute, negative not at all.
	PolicyTTL time.Duration

	// Lazy leaves hosts of routes without a certificate until a handshake asks
	// for it. What is in storage is served and renewed all the same.
	Lazy bool

	// Files are more static certificates, in PEM files. They are read again
	// when they change; what cannot be read then leaves the old one in place.
	Files []KeyPair

	// Addresses are those under which CAs reach this machine, for preflights.
	// Empty means those of its interfaces, if all of them are public. Zero
	// addresses are an error, and so are Addresses with DisablePreflight.
	Addresses []netip.Addr

	// DisablePreflight turns off the look-up of a host before an order.
	DisablePreflight bool

	// Resolve returns the addresses of a host, for preflights. Nil means DNS.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)

	// Interfaces returns the addresses of this machine. Nil means those that
	// the system knows.
	Interfaces func() []netip.Addr

	// Config is the base settings of TLSConfig. Nil means none. Its
	// Certificates are static ones: they are served before any other, for the
	// names they hold, and those names are not managed.
	Config *tls.Config

	// Hello is shown each ClientHello first; an error ends the handshake. Nil
	// looks at none.
	Hello func(*tls.ClientHelloInfo) error

	// DefaultHost is the host whose certificate clients get that send no SNI,
	// and whose client authentication they meet. "" means that of the IP
	// address they connected to, if it has a route, and else none.
	DefaultHost string

	// ShareTickets keeps the keys of session tickets in Storage.
	ShareTickets bool

	// Logger gets one record per change of a host's state, and certmagic's
	// own records, most of them at debug level. Required.
	Logger *slog.Logger

	// Observe is called after each change of a host's state, one call at a time
	// and in order. One that panics is logged; one that is slow loses the
	// oldest reports. Nil means that nothing is reported.
	Observe func(Status)

	// StorageTimeout bounds each storage operation but Lock. 0 means 10 s.
	StorageTimeout time.Duration
}

// A KeyPair names the PEM files of a certificate chain and its key.
type KeyPair struct{ CertFile, KeyFile string }

// The bounds of a Manager. They are per Router.
const (
	maxLoads         = 8                // storage reads of hosts at a time
	maxPublicIssues  = 16               // public issuances at a time
	maxLocalIssues   = 4                // internal issuances at a time
	maxIssueTime     = 5 * time.Minute  // of one attempt with one issuer
	maxLoaded        = 10_000           // certificates in memory
	maxWaiters       = 1_024            // handshakes that wait for a certificate
	maxHostWaiters   = 64               // of them for the certificate of one host
	maxOnDemand      = 64               // on-demand names being decided or issued
	maxRefused       = 10_000           // refused names remembered
	maxMinted        = 1_024            // internal certificates kept in memory only
	maxChallengeRead = 16               // look-ups of challenges of wanted hosts at a time
	filesPause       = 30 * time.Second // between two looks at files
)
