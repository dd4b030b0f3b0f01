package h1

import "bytes"

// Unusual is a set of reasons why a request is outside the plain subset.
type Unusual uint16

// The reasons.
const (
	UnusualMethod  Unusual = 1 << iota // not GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS
	UnusualTarget                      // absolute-form, or * (with OPTIONS)
	UnusualVersion                     // HTTP/1.0
	UnusualUpgrade                     // an Upgrade field
	UnusualExpect                      // an Expect field
	UnusualTrailer                     // a Trailer field
	UnusualTE                          // a TE field
	// beginning of the HTTP/2 preface; no other bit is set, and n is 0
	UnusualPreface
	UnusualForwards // a Max-Forwards field, with OPTIONS
	UnusualConnect  // an extended CONNECT (RFC 8441); only Fill sets it
)

// A Request is a parsed request head. The zero value is ready for use. A
// Request can be reused for the next head.
type Request struct {
	Head
	Method []byte
	Target []byte // as sent
	Path   []byte // of the target, up to the "?"; nil for *
	Query  []byte // of the target, from the "?" on, including it; nil if there is none
	// requested host: the authority of an absolute-form target, else the value
	// of the only Host field; nil on HTTP/1.0 without either
	Host     []byte
	Protocol []byte // protocol of an extended CONNECT; nil otherwise
	Unusual  Unusual

	authority []byte // of an absolute-form target
}

// Parse parses the request head at the start of b, and returns its length. The
// error is nil, or ErrUnusual if the head is complete and allowed but has a
// property named in Unusual; all fields of r are then set. ErrMore asks for the
// same bytes again, followed by more; the buffer may have moved. Any other
// error is a *Refusal. One empty line before the request line is skipped (RFC
// 9112, 2.2).
//
// A head has only one result: parsing any prefix of b returns ErrMore or the
// result for b. A head that arrives in pieces may be refused only once it is
// complete, so that each byte is read at most twice.
func (r *Request) Parse(b []byte) (n int, err error) {
	if !r.ripe(b) {
		return 0, ErrMore
	}
	n, err = r.parse(b)
	r.done(b, err)
	return n, err
}

func (r *Request) parse(b []byte) (int, error) {
	r.clear()
	*r = Request{Head: r.Head}
	i, err := r.requestLine(b)
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
		f, err := parseField(line)
		if err != nil {
			return 0, err
		}
		if len(r.Fields) == MaxFields {
			return 0, errFieldCount
		}
		r.Fields = append(r.Fields, f)
		if err := r.note(&f); err != nil {
			return 0, err
		}
	}
	return i, r.conclude()
}

// requestLine parses the first line and returns the index after it.
func (r *Request) requestLine(b []byte) (int, error) {
	i := 0
	if len(b) >= 2 && b[0] == '\r' && b[1] == '\n' {
		i = 2
	}
	// A first byte that cannot begin a method, such as that of a TLS handshake
	// on a plain port, is refused without waiting for a line end that may never
	// come.
	if i < len(b) && class[b[i]]&tokenByte == 0 && !(i == 0 && len(b) == 1 && b[0] == '\r') {
		return 0, errStartLine
	}
	line, next, err := r.line(b, i)
	switch {
	case err == errHeadSize:
		return 0, errTargetSize
	case err != nil:
		return 0, err
	}
	sp1, sp2 := bytes.IndexByte(line, ' '), bytes.LastIndexByte(line, ' ')
	if sp1 < 0 || sp1 == sp2 {
		return 0, errStartLine
	}
	r.Method, r.Target = line[:sp1], line[sp1+1:sp2]
	if string(line) == "PRI * HTTP/2.0" {
		return 0, r.preface(b, next)
	}
	if err := r.protocol(line[sp2+1:]); err != nil {
		return 0, err
	}
	if err := r.method(); err != nil {
		return 0, err
	}
	return next, r.target()
}

// preface looks for the empty line after "PRI * HTTP/2.0" (RFC 9113, 3.4).
func (r *Request) preface(b []byte, i int) error {
	line, _, err := r.line(b, i)
	switch {
	case err != nil:
		return err
	case len(line) > 0:
		return errVersion
	}
	r.Unusual = UnusualPreface
	return ErrUnusual
}

func (r *Request) protocol(v []byte) error {
	if !r.version(v) {
		if len(v) == 8 && string(v[:5]) == "HTTP/" && v[5]-'0' <= 9 && v[6] == '.' && v[7]-'0' <= 9 {
			return errVersion
		}
		return errStartLine
	}
	if r.Minor == 0 {
		r.Unusual |= UnusualVersion
	}
	return nil
}

func (r *Request) method() error {
	switch string(r.Method) {
	case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
	case "CONNECT":
		return errConnect
	default:
		if !ValidToken(r.Method) {
			return errMethod
		}
		r.Unusual |= UnusualMethod
	}
	return nil
}

// target checks the request target and splits it.
func (r *Request) target() error {
	t := r.Target
	if !ValidTarget(t) {
		if bytes.IndexByte(t, '#') >= 0 && all(t, targetByte|tokenByte) {
			return errFragment
		}
		return errTarget
	}
	switch {
	case t[0] == '/':
		return r.origin(t)
	case string(t) == "*":
		r.Unusual |= UnusualTarget
		if string(r.Method) != "OPTIONS" {
			return errTarget
		}
		return nil
	}
	r.Unusual |= UnusualTarget
	return r.absolute(t)
}

// origin splits an origin-form target.
func (r *Request) origin(t []byte) error {
	r.Path = t
	if i := bytes.IndexByte(t, '?'); i >= 0 {
		r.Path, r.Query = t[:i:i], t[i:]
	}
	return escapeFault(r.Path)
}

// absolute splits an absolute-form target: an http or https URL without
// userinfo. An empty path means "/" (RFC 9112, 3.2.1).
func (r *Request) absolute(t []byte) error {
	scheme, rest, ok := bytes.Cut(t, []byte("://"))
	if !ok || !equalFold(scheme, "http") && !equalFold(scheme, "https") {
		return errTarget
	}
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	r.authority = rest[:end:end]
	// some readers decode escapes in the authority, others do not
	if !ValidHost(r.authority) || bytes.IndexByte(r.authority, '%') >= 0 {
		return errTarget
	}
	if err := r.origin(rest[end:]); err != nil {
		return err
	}
	if len(r.Path) == 0 {
		r.Path = root
	}
	return nil
}

// root is the path of a URL without one. Read-only.
var root = []byte("/")

// escapeFault finds a "%" without two hex digits after it. Readers disagree on
// what such a path means, and net/http refuses it.
func escapeFault(p []byte) error {
	for {
		i := bytes.IndexByte(p, '%')
		if i < 0 {
			return nil
		}
		if len(p) < i+3 || !all(p[i+1:i+3], hexByte) {
			return errEscape
		}
		p = p[i+3:]
	}
}

// note evaluates a field if it matters here.
func (r *Request) note(f *Field) error {
	switch len(f.Name) {
	case len("te"):
		r.mark(f.Name, "te", UnusualTE)
	case len("host"):
		if equalFold(f.Name, "host") {
			return r.host(f.Value)
		}
	case len("expect"):
		r.mark(f.Name, "expect", UnusualExpect)
	case len("upgrade"): // and len("trailer")
		r.mark(f.Name, "upgrade", UnusualUpgrade)
		r.mark(f.Name, "trailer", UnusualTrailer)
	case len("connection"):
		if equalFold(f.Name, "connection") {
			r.connection(f.Value)
		}
	case len("max-forwards"):
		if string(r.Method) == "OPTIONS" {
			r.mark(f.Name, "max-forwards", UnusualForwards)
		}
	case len("content-length"):
		if equalFold(f.Name, "content-length") {
			if r.ContentLength >= 0 {
				return errLengths
			}
			return r.contentLength(f.Value)
		}
	case len("transfer-encoding"):
		if equalFold(f.Name, "transfer-encoding") {
			r.transferEncoding(f.Value)
		}
	}
	return nil
}

func (r *Request) mark(name []byte, want string, why Unusual) {
	if equalFold(name, want) {
		r.Unusual |= why
	}
}

func (r *Request) host(v []byte) error {
	switch {
	case r.Host != nil:
		return errHosts
	case !ValidHost(v):
		return errHost
	}
	r.Host = v
	return nil
}

// conclude checks the head as a whole.
func (r *Request) conclude() error {
	if err := r.framingFault(); err != nil {
		return err
	}
	if r.Host == nil && r.Minor == 1 {
		return errNoHost
	}
	if r.authority != nil { // regardless of Host (RFC 9112, 3.2.2)
		r.Host = r.authority
	}
	if r.Unusual != 0 {
		return ErrUnusual
	}
	return nil
}

// Framing returns how the request's body is framed; NoBody means that there is
// none.
func (r *Request) Framing() Framing {
	switch {
	case r.Chunked:
		return ChunkedBody
	case r.ContentLength > 0:
		return SizedBody
	}
	return NoBody
}

// Persistent reports whether the client wants to send another request on the
// same connection.
func (r *Request) Persistent() bool { return r.persistent() }
