package serve

import (
	"bufio"
	"io"
	"net"
	"time"
	"unsafe"

	"github.com/hostproxy/hostproxy/internal/exchange"
	"github.com/hostproxy/hostproxy/internal/h1"
	"github.com/hostproxy/hostproxy/internal/header"
)

// A front is what the server of one request sees of its client: how a response is
// spelled and framed is the front's own affair. One goroutine uses it at a time,
// except for what says otherwise. The first failed write makes all others fail.
type front interface {
	// interim sends an interim response at once, unless the client knows none.
	interim(status int, fields []h1.Field) error

	// reuses reports whether the connection can carry another request behind a
	// response with that head.
	reuses(h *head) bool

	// head begins the final response. It may go out with what follows.
	head(h *head) error

	// data sends some of the body, maybe with what follows. It keeps nothing of p. n
	// is how much of p it has taken.
	data(p []byte) (n int, err error)

	// readFrom sends what comes from r as some of the body, by a short cut of the
	// system's. done is false, and nothing read, if there is none, or r is not ready
	// all the time, as files are.
	readFrom(r io.Reader) (n int64, done bool, err error)

	// flush sends what was held back.
	flush() error

	// end ends the response, and trails reports whether the one that has begun can carry
	// trailers.
	end(trailers []h1.Field) error
	trails() bool

	// cut ends a response that is not whole, in a way that the client notices. sever is
	// for one that somebody else is writing, whose writes then fail. It may be called
	// concurrently.
	cut()
	sever()

	// body is the request's.
	body() source

	// text is the head of the request, of which its fields are parts, and major the
	// version of HTTP that it came by.
	text() []byte
	major() int

	// handle lets the sweeper see to the request that a handler answers by w, and handled
	// ends that.
	handle(w *response)
	handled()

	// client is what that request's context knows of the client.
	client(w *response) exchange.Client

	// lookOut begins to look out for the end of the client while a handler serves a
	// request that has been read to its end, if nobody does otherwise, and comeBack
	// ends that. looksOut reports whether somebody does.
	lookOut(w *response)
	looksOut() bool
	comeBack()

	// keeps reports whether the connection can carry another request behind the
	// response that has begun.
	keeps() bool

	// next says what becomes of the connection behind the response. whole means that
	// the body has been read to its end.
	next(whole bool) step

	// patience bounds how long the client may take nothing; 0 means the server's bound.
	patience(stall time.Duration)

	// piece is how much of a large body to give to data at a time.
	piece() int

	// closed reports whether the client has closed its side, and hungUp the same for a
	// request whose body is not read. They take none of its bytes, and may be called
	// concurrently. Where the system does not tell, they read ahead until lookBack.
	closed() bool
	hungUp() bool
	lookBack()

	// readBy and writeBy bound reads of the body and writes; the zero time ends
	// the bound. They may be called concurrently.
	readBy(t time.Time) error
	writeBy(t time.Time) error

	// release undoes writeBy.
	release()

	// hijacks reports whether hijack gives the connection away, with what was read
	// ahead.
	hijacks() bool
	hijack() (net.Conn, *bufio.ReadWriter)
}

// A head is the head of a final response, without what a front says by itself. Its
// fields are valid.
type head struct {
	status     int
	fields     []h1.Field
	undated    bool     // no Date is added to fields
	connection []string // the values of Connection; for HTTP/1.x only
	length     int64    // of the body; unknownLength if it is not known
	trails     bool     // trailers may follow a body of known length
	last       bool     // the connection is not to be used again
	unframed   bool     // the body is to end with the connection, if it can
}

// dated reports whether there is a Date among fields.
func dated(fields []h1.Field) bool {
	for i := range fields {
		if n := fields[i].Name; len(n) == len("date") && header.EqualFold(n, "date") {
			return true
		}
	}
	return false
}

// bytesOf is s as bytes that must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// unknownLength is the length of a body that nobody knows yet.
const unknownLength = -1

// hasBody reports whether a response with that status may have a body (RFC 9110, 6.4.1).
func hasBody(status int) bool { return status >= 200 && status != 204 && status != 304 }
