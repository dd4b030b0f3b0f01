package exchange

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// ReplayLimit is how much of a body is kept for another attempt.
const ReplayLimit = 32 << 10

// A Body is the body of a request on its way to its targets. Its source is what
// the client sends; each attempt reads it from the beginning. The Body enforces
// the rules of uploads: ReplayLimit bytes are kept for another attempt, the
// size may be limited, and the client must not be too slow. The first error of
// the source or violation of a rule is the client's failure.
//
// One attempt reads at a time. Rewind ends its turn without waiting for a Read
// in progress: bytes of that Read are kept for the next attempt.
type Body struct {
	Patient bool // the client may be slow

	src      io.Reader
	length   int64 // -1 if it is not known
	max      int64 // maximum number of bytes; 0 means no limit
	whole    atomic.Bool
	lost     atomic.Bool // bytes were read that are not kept
	answered atomic.Bool // the response has begun
	turn     atomic.Int32
	count    atomic.Int64
	failure  atomic.Pointer[error]

	mu     sync.Mutex // held during a Read; guards the fields below
	closed bool
	keeps  bool
	first  bool // keep only a body that the first read returns whole
	limit  int  // of the kept bytes
	kept   []byte
	page   *[ReplayLimit]byte // memory of kept; nil if the source owns it
	waited time.Duration      // total time of waiting for the client
	pace   Pace
}

var bodyPages = sync.Pool{New: func() any { return new([ReplayLimit]byte) }}

// Open prepares b for the body in src. length is -1 if it is not known. The
// body may then be one side of a long conversation, and is kept only for an
// idempotent method.
func (b *Body) Open(src io.Reader, method string, length int64) {
	b.Patient, b.src, b.length, b.max = false, src, length, 0
	b.whole.Store(false)
	b.lost.Store(false)
	b.answered.Store(false)
	b.count.Store(0)
	b.failure.Store(nil)
	b.closed, b.kept, b.page = false, nil, nil
	b.first = false
	b.limit, b.keeps = ReplayLimit, length <= ReplayLimit && (length >= 0 || Idempotent(method))
	b.waited, b.pace = 0, Pace{}
}

// Keep keeps a body of unknown length, regardless of the method.
func (b *Body) Keep() { b.keeps, b.first = b.keeps || b.length < 0, false }

// KeepFirst keeps a body of unknown length if the first read returns all of it.
// That is so for a small message that came in one piece, but not for a stream.
func (b *Body) KeepFirst() {
	if b.length < 0 && !b.keeps {
		b.keeps, b.first = true, true
	}
}

// Begin notes the bytes that were already read from the source, and the error
// after them. first must not change until Close.
func (b *Body) Begin(first []byte, err error) {
	b.kept = first[:len(first):len(first)]
	b.count.Store(int64(len(first)))
	switch {
	case err == io.EOF:
		b.whole.Store(true)
	case err != nil:
		b.Fail(err)
	}
}

// Bound limits the body to n bytes; 0 means no limit.
func (b *Body) Bound(n int64) {
	if b.max = n; n > 0 && b.count.Load() > n {
		b.Fail(ErrBodyTooLarge)
	}
}

// Answer notes that the response has begun: the client may be slow from now on.
func (b *Body) Answer() { b.answered.Store(true) }

// Whole reports whether the body has been read to its end.
func (b *Body) Whole() bool { return b.whole.Load() }

// Count returns the number of bytes that have been read.
func (b *Body) Count() int64 { return b.count.Load() }

// Fail notes a failure of the client's side. Only the first one is kept.
func (b *Body) Fail(err error) { b.failure.CompareAndSwap(nil, &err) }

// Failed returns the failure of the client's side, or nil.
func (b *Body) Failed() error {
	if p := b.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// Attempt returns the body as the next attempt reads it.
func (b *Body) Attempt() BodyReader { return BodyReader{b: b, turn: b.turn.Add(1)} }

// Rewind ends the turn of the reading attempt, and reports whether another one
// is possible: all bytes that were read are kept.
func (b *Body) Rewind() bool {
	b.turn.Add(1)
	return !b.lost.Load()
}

// Replays reports whether all bytes that were read are kept.
func (b *Body) Replays() bool { return !b.lost.Load() }

// Kept returns the bytes that were read, if Replays returns true. They are
// valid until the next Read or Close.
func (b *Body) Kept() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept
}

// Close ends all reading. If a Read is in progress, it calls wake, which must
// end that Read or return false. wake may be nil if no reader is left.
func (b *Body) Close(wake func() bool) {
	if !b.mu.TryLock() {
		if !b.whole.Load() && !wake() {
			return
		}
		b.mu.Lock()
	}
	defer b.mu.Unlock()
	b.closed, b.src = true, nil
	b.drop()
}

// drop frees the kept bytes. b.mu is held.
func (b *Body) drop() {
	b.kept = nil
	if b.page != nil {
		bodyPages.Put(b.page)
		b.page = nil
	}
}

// A BodyReader is a Body as one attempt reads it.
type BodyReader struct {
	b    *Body
	turn int32
	at   int64 // number of bytes it has read
}

// Close implements io.Closer. The client's body stays open for another attempt.
func (r *BodyReader) Close() error { return nil }

// Through reports whether r has read all bytes of the body. It may report so
// before Read has returned io.EOF.
func (r *BodyReader) Through() bool {
	b := r.b
	return r.at == b.length || b.Whole() && r.at == b.Count()
}

// Ready returns the beginning of the body, as far as it can be read without
// waiting. Read then continues after it. Ready must be the attempt's first
// call; its result is valid until the next call.
func (r *BodyReader) Ready() []byte {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if src, ok := b.src.(readyReader); ok && b.keeps && !b.Whole() && b.Failed() == nil {
		b.turnPage()
		for err := error(nil); err == nil && len(b.kept) < ReplayLimit; {
			var n int
			if n, err = src.ReadNow(b.page[len(b.kept):]); n == 0 {
				break
			}
			b.kept = b.page[:len(b.kept)+n]
			b.count.Add(int64(n))
			b.whole.Store(err == io.EOF)
		}
	}
	r.at = int64(len(b.kept))
	return b.kept
}

// A readyReader is a source that can be read without waiting: 0 bytes then mean
// that nothing has arrived.
type readyReader interface {
	ReadNow(p []byte) (n int, err error)
}

// Read implements io.Reader.
func (r *BodyReader) Read(p []byte) (int, error) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed || b.turn.Load() != r.turn:
		return 0, http.ErrBodyReadAfterClose
	case r.at < int64(len(b.kept)):
		n := copy(p, b.kept[r.at:])
		r.at += int64(n)
		return n, nil
	case b.Failed() != nil:
		return 0, b.Failed()
	case r.at < b.Count():
		return 0, errNotKept
	case b.Whole():
		return 0, io.EOF
	}
	n, err := b.read(p)
	b.retain(r, p[:n])
	r.at += int64(n)
	return n, err
}

var errNotKept = errors.New("the beginning of the body is not kept for another attempt")

// read reads from the source. b.mu is held.
func (b *Body) read(p []byte) (int, error) {
	if b.first && b.count.Load() > 0 {
		b.keeps, b.first = false, false
		b.drop()
	}
	if !b.keeps {
		b.lost.Store(true)
	}
	start, excused := time.Now(), b.excused()
	n, err := b.contained(p)
	b.waited += time.Since(start) - (b.excused() - excused)
	switch total := b.count.Add(int64(n)); {
	case b.max > 0 && total > b.max:
		n, err = 0, ErrBodyTooLarge
	case err == nil && !b.Patient && !b.answered.Load() && b.pace.TooSlow(b.waited, total):
		n, err = 0, ErrSlowBody
	}
	switch {
	case err == nil, errors.Is(err, http.ErrBodyReadAfterClose):
	case errors.Is(err, io.EOF):
		b.whole.Store(true)
	default:
		b.Fail(err)
	}
	return n, err
}

// excused returns the total time in which the client was not free to send: see
// Client.
func (b *Body) excused() time.Duration {
	if src, ok := b.src.(interface{ Excused() time.Duration }); ok {
		return src.Excused()
	}
	return 0
}

// contained reads from a source that middleware may have made. It turns a panic
// into an error: on the goroutines that read a body it would end the program.
func (b *Body) contained(p []byte) (n int, err error) {
	defer Contain("a request body", &err)
	return b.src.Read(p)
}

// retain keeps what r has read. After a Rewind the next attempt needs these
// bytes, so their number is not limited then. b.mu is held.
func (b *Body) retain(r *BodyReader, p []byte) {
	if len(p) == 0 {
		return
	}
	if !b.keeps || len(b.kept)+len(p) > b.limit {
		b.lost.Store(true)
		if !b.keeps || b.turn.Load() == r.turn {
			b.keeps = false
			b.drop()
			return
		}
		b.lost.Store(false) // lost only for r, whose turn is over
	}
	if !b.first { // a call that p begins may last, and a page is large
		b.turnPage()
	}
	b.kept = append(b.kept, p...)
}

// turnPage moves kept into page. b.mu is held.
func (b *Body) turnPage() {
	if b.page == nil {
		b.page = bodyPages.Get().(*[ReplayLimit]byte)
		b.kept = append(b.page[:0], b.kept...)
	}
}
