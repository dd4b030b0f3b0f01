// Package h1 is the HTTP/1.1 wire format (RFC 9112): it parses heads and
// chunked bodies in the caller's buffer and appends them to the caller's
// buffer. It holds no policy, does no I/O and keeps no bytes of its own.
//
// The parsers are strict: input that two implementations might read differently
// is refused, not repaired. Input that they accept, net/http reads in the same
// way.
//
// Hot path: no locks, no allocation in the steady state.
//
//   - h1.go: limits, and the reasons for refusals
//   - head.go, request.go, response.go: heads
//   - fill.go: requests that arrived in another version of HTTP
//   - chunks.go: chunked bodies
//   - append.go: writing
//   - ascii.go: classes of bytes
package h1

import "errors"

// Limits on what a peer may send.
const (
	DefaultMaxHead = 16 << 10 // bytes of a head, start line and final CRLF included
	MaxFields      = 100      // field lines in a head, and in a trailer section
	MaxTrailer     = 4 << 10  // bytes of a trailer section, final CRLF included
)

// ErrMore means that the bytes so far are the valid beginning of a message:
// call again with more.
var ErrMore = errors.New("h1: message incomplete")

// ErrUnusual means that a request head is complete and allowed, but outside the
// plain subset; Request.Unusual says why.
var ErrUnusual = errors.New("h1: unusual request")

// A Field is one field line: name as sent, value without surrounding
// whitespace. Both are slices into the buffer that was parsed.
type Field struct{ Name, Value []byte }

// A Refusal is the error for a message that must not be forwarded. Its
// connection must be closed.
type Refusal struct {
	Status int    // status for a client; a refused response always becomes a 502
	Reason string // short and constant: safe for logs and for the client
}

// Error returns the reason.
func (r *Refusal) Error() string { return "HTTP/1.1: " + r.Reason }

// Framing says how the end of a body is found.
type Framing uint8

// The framings of RFC 9112, section 6.3.
const (
	NoBody      Framing = iota // the message ends with its head
	SizedBody                  // ContentLength bytes follow
	ChunkedBody                // chunks follow; see Chunks
	UntilClose                 // everything until the connection ends (responses only)
)

// Refusals. Numbers in brackets are sections of RFC 9112.
var (
	errStartLine  = &Refusal{400, "malformed request line"}                   // [3]
	errVersion    = &Refusal{505, "unsupported HTTP version"}                 // [2.3]
	errMethod     = &Refusal{400, "method is not a token"}                    // [3.1]
	errConnect    = &Refusal{501, "CONNECT is not supported"}                 // [3.2.3]
	errTarget     = &Refusal{400, "invalid request target"}                   // [3.2]
	errTargetSize = &Refusal{414, "request target too long"}                  // [3]
	errFragment   = &Refusal{400, "fragment in request target"}               // [3.2]
	errEscape     = &Refusal{400, "invalid percent-encoding in request path"} // RFC 3986, 2.1
	errStatusLine = &Refusal{502, "malformed status line"}                    // [4]
	errBareLF     = &Refusal{400, "line does not end in CRLF"}                // [2.2]
	errFold       = &Refusal{400, "header line starts with white space"}      // [5.2]
	errColonSpace = &Refusal{400, "white space before the colon of a header"} // [5.1]
	errName       = &Refusal{400, "header name is not a token"}               // [5]
	// [5], RFC 9110, 5.5
	errValue       = &Refusal{400, "control character in a header value"}
	errHeadSize    = &Refusal{431, "head too large"}                            // RFC 6585, 5
	errFieldCount  = &Refusal{431, "too many headers"}                          // RFC 6585, 5
	errNoHost      = &Refusal{400, "Host is missing"}                           // [3.2]
	errHosts       = &Refusal{400, "more than one Host"}                        // [3.2]
	errHost        = &Refusal{400, "invalid Host"}                              // [3.2]
	errHostDiffers = &Refusal{400, "Host is not the authority"}                 // RFC 9113, 8.3.1
	errProtocol    = &Refusal{400, "protocol is not a token"}                   // RFC 8441, 4
	errConnectBody = &Refusal{400, "Content-Length with CONNECT"}               // RFC 9110, 9.3.6
	errLength      = &Refusal{400, "invalid Content-Length"}                    // [6.3]
	errLengths     = &Refusal{400, "more than one Content-Length"}              // [6.3]
	errCoding      = &Refusal{400, "Transfer-Encoding does not end in chunked"} // [6.3]
	errCodings     = &Refusal{501, "Transfer-Encoding is not chunked alone"}    // [6.1]
	errLengthCoded = &Refusal{400, "Content-Length with Transfer-Encoding"}     // [6.1]
	errCoding10    = &Refusal{400, "Transfer-Encoding on HTTP/1.0"}             // [6.1]
	errChunkSize   = &Refusal{400, "invalid chunk size"}                        // [7.1]
	errChunkExt    = &Refusal{400, "invalid chunk extension"}                   // [7.1.1]
	errChunkEnd    = &Refusal{400, "chunk does not end in CRLF"}                // [7.1]
	errChunkWaste  = &Refusal{400, "chunked body is mostly overhead"}           // [7.1.1]
	errTrailerSize = &Refusal{431, "trailer section too large"}                 // [7.1.2]
)
