package h1

// A Response is a parsed response head. The zero value is ready for use. A
// Response can be reused for the next head.
type Response struct {
	Head
	Status  int    // 100 to 999
	Reason  []byte // may be empty
	Upgrade bool   // an Upgrade field
	Trailer bool   // a Trailer field
}

// Parse parses the response head at the start of b and returns its length. It
// returns ErrMore or a *Refusal under the rules of Request.Parse. Lines that
// repeat the same Content-Length count as one.
func (r *Response) Parse(b []byte) (n int, err error) {
	if !r.ripe(b) {
		return 0, ErrMore
	}
	n, err = r.parse(b)
	r.done(b, err)
	return n, err
}

func (r *Response) parse(b []byte) (int, error) {
	r.clear()
	*r = Response{Head: r.Head}
	i, err := r.statusLine(b)
	if err != nil {
		return 0, err
	}
	for {
		line, next, err := r.line(b, i)
		if err != nil {
			return 0, err
		}
		i = next
		if len(line) == 0 {
			break
		}
		if err := r.field(line); err != nil {
			return 0, err
		}
	}
	return i, r.framingFault()
}

// statusLine parses the first line and returns the index after it. The space
// before an empty reason may be missing, as it often is.
func (r *Response) statusLine(b []byte) (int, error) {
	if len(b) > 0 && b[0] != 'H' {
		return 0, errStatusLine
	}
	line, next, err := r.line(b, 0)
	if err != nil {
		return 0, err
	}
	const before = len("HTTP/1.1 ")
	if len(line) < before+3 || line[before-1] != ' ' || !r.version(line[:before-1]) {
		return 0, errStatusLine
	}
	for _, c := range line[before : before+3] {
		if c < '0' || c > '9' {
			return 0, errStatusLine
		}
		r.Status = r.Status*10 + int(c-'0')
	}
	rest := line[before+3:]
	if r.Status < 100 || len(rest) > 0 && rest[0] != ' ' || !validValue(rest) {
		return 0, errStatusLine
	}
	r.Reason = trim(rest)
	return next, nil
}

// field parses one field line and evaluates it if it matters here.
func (r *Response) field(line []byte) error {
	f, err := parseField(line)
	if err != nil {
		return err
	}
	if len(r.Fields) == MaxFields {
		return errFieldCount
	}
	r.Fields = append(r.Fields, f)
	switch len(f.Name) {
	case len("upgrade"): // and len("trailer")
		r.Upgrade = r.Upgrade || equalFold(f.Name, "upgrade")
		r.Trailer = r.Trailer || equalFold(f.Name, "trailer")
	case len("connection"):
		if equalFold(f.Name, "connection") {
			r.connection(f.Value)
		}
	case len("content-length"):
		if equalFold(f.Name, "content-length") {
			return r.contentLength(f.Value)
		}
	case len("transfer-encoding"):
		if equalFold(f.Name, "transfer-encoding") {
			r.transferEncoding(f.Value)
		}
	}
	return nil
}

// Framing returns how the body of a response to a request with that method is
// framed (RFC 9112, 6.3). Responses to HEAD, 1xx, 204 and 304 have no body,
// regardless of their fields.
func (r *Response) Framing(method string) Framing {
	switch {
	case method == "HEAD", r.Status < 200, r.Status == 204, r.Status == 304:
		return NoBody
	case r.Chunked:
		return ChunkedBody
	case r.ContentLength > 0:
		return SizedBody
	case r.ContentLength == 0:
		return NoBody
	}
	return UntilClose
}

// Persistent reports whether the connection can carry another exchange after
// the body of the response to a request with that method has been read to its
// end.
func (r *Response) Persistent(method string) bool {
	return r.persistent() && r.Status >= 200 && r.Framing(method) != UntilClose
}
