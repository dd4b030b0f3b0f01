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

// A front is a request and its response in one version of HTTP: it reads the
// body, and writes and frames the response. One goroutine uses it at a time,
// except where a method says otherwise. After a failed write all further writes
// fail.
type front interface {
	// interim sends an interim response immediately; HTTP/1.0 has none.
	interim(status int, fields []h1.Field) error

	// reuses reports whether the connection can carry another request after a
	// response with that head.
	reuses(h *head) bool

	// head begins the final response. It may hold the head back until flush.
	head(h *head) error

	// data sends the next part of the body, or holds it back until flush. It
	// keeps no reference to p. n is how much of p it has taken.
	data(p []byte) (n int, err error)

	// readFrom sends r as the next part of the body, by sendfile or the like.
	// It reads nothing, and done is false, if the system cannot, or if r is no
	// file: reading it could wait.
	readFrom(r io.Reader) (n int64, done bool, err error)

	// flush sends what head and data have held back.
	flush() error

	// end ends the response. trails reports whether the response that has begun
	// can carry trailers.
	end(trailers []h1.Field) error
	trails() bool

	// cut ends an incomplete response in a way that the client notices. sever
	// does so while another goroutine writes, whose writes then fail: it may be
	// called concurrently.
	cut()
	sever()

	// body returns the body of the request.
	body() source

	// text returns the head of the request; its fields are slices of it. major
	// returns the major version of HTTP.
	text() []byte
	major() int

	// handle lets the sweeper watch the request that a handler answers by w.
	// handled ends that.
	handle(w *response)
	handled()

	// client returns the client of that request, for its context.
	client(w *response) exchange.Client

	// why returns what the client's Why returns.
	why() error

	// lookOut starts to read ahead, to notice a client that leaves while a
	// handler serves a request that has been read to its end. It does nothing
	// if the client is watched otherwise. comeBack ends it, and looksOut
	// reports whether it runs.
	lookOut(w *response)
	looksOut() bool
	comeBack()

	// keeps reports whether the connection can carry another request after the
	// response that has begun.
	keeps() bool

	// next returns what to do with the connection after the response. whole
	// means that the body has been read to its end.
	next(whole bool) step

	// patience limits how long a write may make no progress; 0 means the
	// server's limit.
	patience(stall time.Duration)

	// piece returns how many bytes of a large body to give to data at a time.
	piece() int

	// closed reports whether the client has closed its side, and hungUp the
	// same for a request whose body is not read. They consume none of its
	// bytes, and may be called concurrently. Where sockets cannot be peeked at,
	// they read ahead until lookBack.
	closed() bool
	hungUp() bool
	lookBack()

	// readBy and writeBy set the deadlines of reads of the body and of writes;
	// the zero time removes them. They may be called concurrently.
	readBy(t time.Time) error
	writeBy(t time.Time) error

	// release removes the deadline of writeBy.
	release()

	// conn returns the client's connection.
	conn() *conn

	// hijacks reports whether hijack can give the connection away, with the
	// bytes read ahead.
	hijacks() bool
	hijack() (net.Conn, *bufio.ReadWriter)
}

// A head is the head of a final response, without the fields that a front adds.
// Its fields are valid.
type head struct {
	status     int
	fields     []h1.Field
	undated    bool     // no Date is added to fields
	connection []string // the values of Connection; for HTTP/1.x only
	length     int64    // length of the body, or unknownLength
	trails     bool     // trailers may follow a body of known length
	last       bool     // the connection is not to be used again
	unframed   bool     // the body should end with the connection, if that is possible
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

// bytesOf returns s as bytes, which must not be changed.
func bytesOf(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// unknownLength stands for a body length that is not known yet.
const unknownLength = -1

// hasBody reports whether a response with that status may have a body (RFC
// 9110, 6.4.1).
func hasBody(status int) bool { return status >= 200 && status != 204 && status != 304 }
