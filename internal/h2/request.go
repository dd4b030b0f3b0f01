package h2

import "github.com/hostproxy/hostproxy/internal/h1"

// errScheme refuses a request for another scheme.
var errScheme = &h1.Refusal{Status: 400, Reason: "scheme is neither http nor https"}

// Request fills r from the decoded fields of a request (RFC 9113, 8.3.1).
// Everything in r is a part of Text. Several cookie fields are joined into one.
//
// The errors are those of h1.Request.Fill, including h1.ErrUnusual; an
// *h1.Refusal for fields beyond the limits; and a *Fault that is a stream
// error. After a refusal r has the fields that could be parsed.
func (l *List) Request(r *h1.Request) error {
	l.joinCrumbs()
	l.Scheme = nil
	fields := l.Fields()
	s := h1.Start{Ended: l.EndStream}
	n, fault := l.pseudo(fields, &s)
	if fault == nil {
		fault = l.complete(&s)
	}
	if fault == nil {
		fault = checkFields(fields[n:])
	}
	err := r.Fill(&s, fields[n:])
	switch _, refused := err.(*h1.Refusal); {
	case l.refusal != nil: // a missing pseudo-header may have been dropped
		return l.refusal
	case fault != nil:
		return fault
	case refused:
		return err
	case l.EndStream && r.ContentLength > 0:
		return errEnded
	}
	return err
}

// Trailers returns the decoded fields of a trailer section (RFC 9113, 8.1),
// valid until the next Decode. The error is a *Fault or an *h1.Refusal.
func (l *List) Trailers() ([]h1.Field, error) {
	fields := l.Fields()
	if l.refusal != nil {
		return nil, l.refusal
	}
	if err := checkFields(fields); err != nil {
		return nil, err
	}
	return fields, h1.CheckFields(fields)
}

// pseudo takes the pseudo-headers at the start of fields, and returns their
// number.
func (l *List) pseudo(fields []h1.Field, s *h1.Start) (n int, err error) {
	for ; n < len(fields); n++ {
		f := &fields[n]
		var to *[]byte
		switch string(f.Name) {
		case ":method":
			to = &s.Method
		case ":scheme":
			to = &l.Scheme
		case ":authority":
			to = &s.Authority
		case ":path":
			to = &s.Target
		case ":protocol":
			to = &s.Protocol
		default:
			return n, nil // checkFields finds unknown ones
		}
		if *to != nil {
			return n, errPseudo
		}
		*to = f.Value
	}
	return n, nil
}

// complete checks that a request has all required pseudo-headers, and no
// others.
func (l *List) complete(s *h1.Start) error {
	connect := string(s.Method) == "CONNECT"
	switch {
	case s.Method == nil:
		return errNoPseudo
	case s.Protocol != nil && !connect:
		return errPseudo
	case s.Protocol != nil && s.Authority == nil:
		return errNoPseudo
	case connect && s.Protocol == nil: // RFC 9113, 8.5
		if s.Target != nil || l.Scheme != nil {
			return errPseudo
		}
		return nil
	case s.Target == nil, l.Scheme == nil:
		return errNoPseudo
	case len(s.Target) == 0 || s.Target[0] != '/' && string(s.Target) != "*":
		return errPath
	case !equalFold(l.Scheme, "http") && !equalFold(l.Scheme, "https"):
		return errScheme
	}
	return nil
}

// checkFields checks rules for other fields than pseudo-headers that only
// HTTP/2 has.
func checkFields(fields []h1.Field) error {
	for i := range fields {
		f := &fields[i]
		if err := checkName(f); err != nil {
			return err
		}
		if n := len(f.Value); n > 0 && (blank(f.Value[0]) || blank(f.Value[n-1])) {
			return errBlank
		}
	}
	return nil
}

func checkName(f *h1.Field) error {
	for _, c := range f.Name {
		if 'A' <= c && c <= 'Z' {
			return errUpper
		}
	}
	switch len(f.Name) {
	case 0:
		return nil // h1 refuses it as not a token
	case len("te"):
		if string(f.Name) == "te" && !equalFold(f.Value, "trailers") {
			return errConnection
		}
	case len("upgrade"), len("connection"), len("proxy-connection"), len("transfer-encoding"):
		// and len("keep-alive")
		if classify(f.Name)&unsendable != 0 {
			return errConnection
		}
	}
	if f.Name[0] == ':' {
		return errPseudo
	}
	return nil
}
