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

// maxReason bounds the text of a failure: a CA writes part of it.
const maxReason = 400

// A refusalError is a failure in one sentence. What it wraps says more.
type refusalError struct {
	text string
	err  error
}

func (e *refusalError) Error() string { return e.text }
func (e *refusalError) Unwrap() error { return e.err }

// explain puts the error of an order at a CA into one sentence.
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

// plainText takes what certmagic and acmez put before and after an error's
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

// oneLine makes a text short and of one line.
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

// failedValidation reports whether a CA has looked for the answer to a
// challenge and has not found it.
func failedValidation(err error) bool {
	var p acme.Problem
	if !errors.As(err, &p) {
		return false
	}
	_, ok := p.Resource.(acme.Authorization)
	return ok
}

// validating reports whether an attempt ended while a CA may have been looking
// for the answer to a challenge: it may count as a failed validation there. The
// text is acmez's.
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

// orderTaken reports whether a CA has taken an order, whatever became of it: it
// did not refuse it for its number.
func orderTaken(err error) bool {
	if err == nil || validating(err) {
		return true
	}
	text := errorText(err)
	return strings.Contains(text, "solving challenge") || strings.Contains(text, "finalizing order") || strings.Contains(text, "downloading certificate")
}

// refusedReplacing reports whether a CA refused an order for the certificate
// that it said it replaces: RFC 9773, 5, binds that to one account. Another
// order that says nothing of the kind may do.
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

// deactivated reports whether a CA refused an order since its account has been
// deactivated (RFC 8555, 7.3.6), which the text alone tells from other
// refusals: Boulder's "Account is not valid, has status "deactivated"" and
// Pebble's "Account has been deactivated". An account that the CA has revoked
// is not meant: another one would be a way around that.
func deactivated(err error) bool {
	var p acme.Problem
	if !errors.As(err, &p) || failedValidation(err) || p.Type != acme.ProblemTypeUnauthorized {
		return false
	}
	text := strings.ToLower(p.Detail)
	return strings.Contains(text, "account") && strings.Contains(text, "deactivated")
}

// refused reports whether a CA has answered and said no.
func refused(err error) bool {
	var p acme.Problem
	return errors.As(err, &p) && !busy(p)
}

// errorText is the text below the sentence that explain made.
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

// ended adds why ctx ended to an error that comes from it.
func ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return err
}
