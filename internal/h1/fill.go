package h1

// A Start replaces the request line in other versions of HTTP.
type Start struct {
	Method    []byte
	Target    []byte // in origin-form, or *
	Authority []byte // nil if only a Host field names the host
	Protocol  []byte // of an extended CONNECT (RFC 8441); nil otherwise
	Ended     bool   // no body follows
}

// Fill makes r the request that arrived in another version of HTTP as s and
// fields. It has the rules and errors of Parse. r keeps parts of its arguments;
// after a *Refusal it has what could be parsed.
//
// It also refuses a Host that differs from the authority. A body without
// Content-Length is Chunked, as HTTP/1.1 servers require. An extended CONNECT
// is UnusualConnect, and has no body: its Protocol defines the bytes of the
// stream.
func (r *Request) Fill(s *Start, fields []Field) error {
	r.Head.Reset()
	*r = Request{Head: r.Head, Method: s.Method, Target: s.Target, Protocol: s.Protocol}
	r.Minor = 1
	err := r.fillStart()
	for i := 0; i < len(fields) && err == nil; i++ {
		if err = fields[i].fault(); err == nil {
			err = r.note(&fields[i])
		}
	}
	r.Fields = append(r.Fields, fields[:min(len(fields), MaxFields)]...)
	n := len(fields)
	if s.Authority != nil && r.Host == nil { // it becomes a Host field for the target
		n++
	}
	if err == nil && n > MaxFields {
		err = errFieldCount
	}
	if err != nil {
		if r.Host == nil && ValidHost(s.Authority) { // for the record
			r.Host = s.Authority
		}
		return err
	}
	if err := r.fillHost(s.Authority); err != nil {
		return err
	}
	switch {
	case r.codings > 0:
		return errCoding
	case r.Protocol != nil && r.ContentLength >= 0:
		return errConnectBody
	}
	r.Chunked = !s.Ended && r.ContentLength < 0 && r.Protocol == nil
	return r.conclude()
}

func (r *Request) fillStart() error {
	if r.Protocol != nil && string(r.Method) == "CONNECT" {
		r.Unusual |= UnusualConnect
		if !ValidToken(r.Protocol) {
			return errProtocol
		}
	} else if err := r.method(); err != nil {
		return err
	}
	if len(r.Target) > 0 && r.Target[0] != '/' && string(r.Target) != "*" {
		return errTarget
	}
	return r.target()
}

// fillHost sets the host to the authority, which a Host field may repeat.
func (r *Request) fillHost(authority []byte) error {
	switch {
	case authority == nil:
		return nil
	case !ValidHost(authority):
		return errHost
	case r.Host != nil && !sameFold(r.Host, authority):
		return errHostDiffers
	}
	r.Host = authority
	return nil
}

// CheckFields returns why a trailer section with these fields is refused, or
// nil.
func CheckFields(fields []Field) error {
	if len(fields) > MaxFields {
		return errFieldCount
	}
	size := len("\r\n")
	for i := range fields {
		f := &fields[i]
		if err := f.fault(); err != nil {
			return err
		}
		if size += len(f.Name) + len(": ") + len(f.Value) + len("\r\n"); size > MaxTrailer {
			return errTrailerSize
		}
	}
	return nil
}

// fault returns the error that parseField would return.
func (f *Field) fault() error {
	switch {
	case !ValidToken(f.Name):
		return errName
	case !validValue(f.Value):
		return errValue
	}
	return nil
}

// sameFold reports whether a and b are equal, ignoring case.
func sameFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower(a[i]) != lower(b[i]) {
			return false
		}
	}
	return true
}
