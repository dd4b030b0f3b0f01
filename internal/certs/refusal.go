package certs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	"github.com/mholt/acmez/v3/acme"
)

// maxReason limits the text of a failure: part of it comes from the CA.
const maxReason = 400

// A refusalError is a failure in one sentence. The wrapped error has the
// details.
type refusalError struct {
	text string
	err  error
}

func (e *refusalError) Error() string { return e.text }
func (e *refusalError) Unwrap() error { return e.err }

// explain turns the error of an order at a CA into one sentence.
func explain(err error, directory, name string) error {
	ca := directory
	if u, perr := url.Parse(directory); perr == nil && u.Host != "" {
		ca = u.Host
	}
	var p acme.Problem
	if !errors.As(err, &p) {
		return &refusalError{text: oneLine(plainText(err, name)), err: err}
	}
	what := "refused"
	if failedValidation(err) {
		what = fmt.Sprintf("could not validate %q", name)
	}
	why := p.Detail
	for _, sub := range p.Subproblems {
		if sub.Detail != "" && !strings.Contains(why, sub.Detail) {
			why += "; " + sub.Detail
		}
	}
	kind := strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace)
	if kind == "" {
		kind = fmt.Sprintf("HTTP %d", p.Status)
	}
	if why == "" {
		return &refusalError{text: oneLine(fmt.Sprintf("the CA %s %s: %s", ca, what, kind)), err: err}
	}
	return &refusalError{text: fmt.Sprintf("the CA %s %s: %s (%s)", ca, what, oneLine(why), oneLine(kind)), err: err}
}

// plainText removes what certmagic and acmez add before and after an error's
// text.
func plainText(err error, name string) string {
	text := err.Error()
	for _, prefix := range []string{"[" + name + "] Obtain: ", "[" + name + "] Renew: ", "[" + name + "] "} {
		text = strings.TrimPrefix(text, prefix)
	}
	if i := strings.LastIndex(text, " (ca="); i > 0 {
		text = text[:i]
	}
	return text
}

// oneLine shortens a text and joins its lines.
func oneLine(text string) string {
	var parts []string
	for line := range strings.Lines(text) {
		line = strings.Join(strings.FieldsFunc(line, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
		if line != "" {
			parts = append(parts, line)
		}
	}
	text = strings.ToValidUTF8(strings.Join(parts, "; "), "?")
	if len(text) > maxReason {
		text = strings.ToValidUTF8(text[:maxReason], "") + "..."
	}
	return text
}

// failedValidation reports whether a CA has checked the answer to a challenge
// and did not accept it.
func failedValidation(err error) bool {
	var p acme.Problem
	if !errors.As(err, &p) {
		return false
	}
	_, ok := p.Resource.(acme.Authorization)
	return ok
}

// validating reports whether an attempt ended while a CA may have been checking
// the answer to a challenge: the CA may count it as a failed validation. The
// texts are acmez's.
func validating(err error) bool {
	if failedValidation(err) {
		return true
	}
	text := errorText(err)
	return strings.Contains(text, "solving challenge") && !unsolvable(err) &&
		!strings.Contains(text, "presenting for challenge") && !strings.Contains(text, "waiting for solver") &&
		!strings.Contains(text, "getting authorization at")
}

// unsolvable reports whether the CA does not offer the challenge type.
func unsolvable(err error) bool { return strings.Contains(errorText(err), "no solvers available") }

// orderTaken reports whether a CA has accepted an order, whatever its outcome:
// so no rate limit refused it.
func orderTaken(err error) bool {
	if err == nil || validating(err) {
		return true
	}
	text := errorText(err)
	return strings.Contains(text, "solving challenge") || strings.Contains(text, "finalizing order") || strings.Contains(text, "downloading certificate")
}

// refusedReplacing reports whether a CA refused an order because of the
// certificate that it replaces: RFC 9773, 5, binds that to one account. An
// order without that reference may succeed.
func refusedReplacing(err error) bool {
	var p acme.Problem
	if !errors.As(err, &p) || failedValidation(err) || !strings.Contains(errorText(err), "creating new order") {
		return false
	}
	switch p.Type {
	case acme.ProblemTypeUnauthorized, acme.ProblemTypeMalformed, acme.ProblemTypeAlreadyReplaced, acme.ProblemTypeNamespace + "conflict":
		return true
	case acme.ProblemTypeServerInternal:
		// Pebble's answer for a certificate it does not know
		return p.Status == http.StatusInternalServerError
	}
	return p.Status == http.StatusNotFound || p.Status == http.StatusConflict
}

// deactivated reports whether a CA refused an order because its account is
// deactivated (RFC 8555, 7.3.6). Only the text tells this from other refusals:
// Boulder's "Account is not valid, has status "deactivated"" and Pebble's
// "Account has been deactivated". An account that the CA has revoked does not
// count: a new one would circumvent that.
func deactivated(err error) bool {
	var p acme.Problem
	if !errors.As(err, &p) || failedValidation(err) || p.Type != acme.ProblemTypeUnauthorized {
		return false
	}
	text := strings.ToLower(p.Detail)
	return strings.Contains(text, "account") && strings.Contains(text, "deactivated")
}

// refused reports whether a CA has answered with a refusal.
func refused(err error) bool {
	var p acme.Problem
	return errors.As(err, &p) && !busy(p)
}

// errorText returns the original text of an error that explain may have
// wrapped.
func errorText(err error) string {
	var r *refusalError
	if errors.As(err, &r) {
		return r.err.Error()
	}
	if err == nil {
		return ""
	}
	return err.Error()
}

// ended adds the cause of ctx's end to an error, if ctx has ended.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}
