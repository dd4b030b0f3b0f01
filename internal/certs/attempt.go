package certs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/caddyserver/certmagic"
)

// errElsewhere ends an attempt that is no longer needed.
var errElsewhere = errors.New("another process has obtained the certificate")

// A placement is one attempt of a host at one authority: one type of challenge
// and one order. There is a second order if the first was refused for what it
// replaces, or for an account that the CA has forgotten.
type placement struct {
	*authority
	order     order
	history   history
	offered   []string
	challenge string

	before []byte    // the certificate in storage when it began; nil if none
	begun  time.Time // when the attempt was written to the history
}

// place makes an attempt. It returns a heldError if it made none.
func (a *authority) place(ctx context.Context, o order) error {
	offered, err := a.offered()
	if err != nil {
		return err
	}
	p := &placement{authority: a, order: o, history: a.historyOf(o.name), offered: offered, challenge: offered[0]}
	if a.remembers() {
		r := p.history.read(ctx)
		if r.ahead { // rewrite once: times ahead would count as recent forever
			p.note(ctx, func(*record) {})
		}
		if until := r.spent(); !until.IsZero() {
			return p.held(until)
		}
		p.challenge = r.challengeOf(offered)
		if a.probes(r) {
			if err := p.probe(ctx); err != nil {
				return err
			}
		}
	}
	if p.before, err = p.stored(ctx); err != nil {
		return err
	}
	if p.order.chain.renewed(ctx, p.order) {
		return errNotAsked // another process has stored this certificate
	}
	err = p.run(ctx)
	var held *heldError
	if errors.As(err, &held) {
		return held
	}
	return p.conclude(ctx, err)
}

// remembers reports whether failed attempts can count as failed validations.
func (a *authority) remembers() bool {
	return !a.local()
}

func (p *placement) held(until time.Time) error {
	return &heldError{until: until, err: fmt.Errorf("%d validations at the CA %s failed within an hour", maxFailures, p.directory())}
}

// stored returns the certificate in storage, nil if there is none.
func (p *placement) stored(ctx context.Context) ([]byte, error) {
	b, err := p.engine.storage.Load(ctx, p.siteKey(p.order.name, certFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// replaces reports whether certmagic tells the CA which certificate is
// replaced.
func (p *placement) replaces() bool {
	_, isACME := p.template.(*certmagic.ACMEIssuer)
	return isACME && p.before != nil && !p.engine.noARI
}

// run places the order, and a second one if that can help.
func (p *placement) run(ctx context.Context) error {
	cfg, err := p.config(p.variant(p.order.name, p.challenge))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, maxIssueTime, errors.New("the CA did not respond in time"))
	defer cancel()
	counter, renounced := 1, false
	for {
		t := &attempt{begin: p.begin}
		err := p.once(ctx, t, cfg, counter)
		switch {
		case t.held != nil:
			return t.held
		case t.lost() && !renounced:
			renounced, counter = true, 2 // the next account has no certificate to replace
			if err := p.account.renounce(ctx, p.engine.storage, t, p.engine.log); err != nil {
				return fmt.Errorf("%w: %w", errForgotten, err)
			}
		case counter == 1 && p.replaces() && refusedReplacing(err):
			counter = 2
		default:
			return err
		}
		p.engine.log.Debug("repeating the order", "host", p.order.name, "cause", err)
		if err := p.account.pace.await(ctx); err != nil {
			return ended(ctx, err)
		}
	}
}

// once places one order. At counter 1 certmagic contacts the CA immediately and
// tells it which certificate is replaced; at 2 it does not tell. (At 0 it waits
// for its own pace, which is shared by the whole process.) Storages with leases
// renew them only for attempts that are counted.
func (p *placement) once(ctx context.Context, t *attempt, cfg *certmagic.Config, counter int) (err error) {
	defer t.release(ctx, p.engine.storage)
	defer func() {
		if l, ok := readLimit(err, p.order.name); ok {
			p.account.holds.set(l)
			p.account.met.write(ctx, p.account.holds, p.engine.log)
		}
		t.judge(err, p.account)
	}()
	defer rescue("issuer", &err)
	ctx = context.WithValue(t.context(ctx), certmagic.AttemptsCtxKey, &counter)
	// Without a certificate, renewing means obtaining. Sync is one attempt;
	// Async would sleep between attempts, for up to 30 days, and hold the lock
	// of the host.
	ctx, mark := markStorage(ctx)
	err = mark(cfg.RenewCertSync(ctx, p.order.name, p.order.serial != nil || p.order.force))
	if errors.Is(err, errElsewhere) {
		return nil
	}
	return ended(ctx, err)
}

// begin is called before the CA is contacted, under the lock of the host.
func (p *placement) begin(ctx context.Context) error {
	now, err := p.stored(ctx)
	switch {
	case err != nil:
		return err
	case !bytes.Equal(now, p.before):
		return errElsewhere
	}
	if until := p.limited(); !until.IsZero() {
		return p.usedUp(until)
	}
	if !p.begun.IsZero() || !p.remembers() {
		return nil
	}
	var held error
	p.note(ctx, func(r *record) {
		if until := r.spent(); !until.IsZero() {
			held = p.held(until)
			return
		}
		p.begun = time.Now().UTC().Round(0)
		r.begin(p.begun)
	})
	return held
}

// limited returns until when a rate limit holds the order, if another host has
// run into that limit since this order was let through; zero if none does.
func (p *placement) limited() time.Time {
	if p.order.due {
		return time.Time{}
	}
	about := slices.DeleteFunc(subjects(p.order.name), func(s subject) bool { return s.scope == addressScope })
	return p.account.holds.until(about...)
}

// note changes the history.
func (p *placement) note(ctx context.Context, f func(*record)) {
	if err := p.history.change(ctx, f); err != nil {
		p.engine.log.Debug("attempts not saved", "host", p.order.name, "cause", err)
	}
}

// conclude notes how the attempt ended and explains its error.
func (p *placement) conclude(ctx context.Context, err error) error {
	failures := 0
	if !p.begun.IsZero() {
		p.note(ctx, func(r *record) {
			switch {
			case err == nil:
				r.succeeded(p.challenge, p.offered)
			case failedValidation(err):
				r.Failures++
			case unsolvable(err):
				r.forgive(p.begun)
				r.Failures++
			case !validating(err):
				r.forgive(p.begun)
			}
			failures = r.Failures
		})
	}
	if err == nil {
		return p.verify(ctx)
	}
	failed := failedValidation(err) || unsolvable(err)
	useless := p.account.own && deactivated(err)
	err = explain(err, p.directory(), p.order.name)
	if useless {
		err = fmt.Errorf("%w: set AccountKeyPEM to the key of another account, or leave it empty", err)
	}
	switch {
	case failed && failures > 0 && failures < len(p.offered):
		return &paceError{first: brokenFirst, last: brokenFirst, err: err}
	case failed && p.staging != nil:
		return &paceError{first: probeFirst, last: probeLast, err: err}
	}
	return err
}

// verify returns an error if the issuer returned the certificate that is
// already in use.
func (p *placement) verify(ctx context.Context) error {
	if p.order.serial == nil {
		return nil
	}
	if now := p.leaf(ctx, p.order.name); now != nil && now.SerialNumber.Cmp(p.order.serial) == 0 {
		err := fmt.Errorf("issuer %s returned the current certificate instead of a new one", p.key)
		return &paceError{first: refusedFirst, last: refusedLast, err: err}
	}
	return nil
}
