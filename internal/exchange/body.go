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
// the client sends; each attempt reads it from its beginning. The rules of an
// upload are here: ReplayLimit bytes are kept for another attempt, there is a
// bound of what may come, and a client must not be too slow. The first error of
// the source, or breach of a rule, is the client's failure.
//
// One attempt reads at a time. Rewind ends its turn without waiting for a Read
// that goes on: what that still gets is kept for the next attempt.
type Body struct {
	Patient bool // the client owes no haste

	src      io.Reader
	length   int64 // -1 if it is not known
	max      int64 // bytes that may come; 0 means no bound
	whole    atomic.Bool
	lost     atomic.Bool // something was read that is not kept
	answered atomic.Bool // the response has begun
	turn     atomic.Int32
	count    atomic.Int64
	failure  atomic.Pointer[error]

	mu     sync.Mutex // held during a Read; guards what follows
	closed bool
	keeps  bool
	first  bool // keeps no more than the first read has brought
	limit  int  // of what is kept
	kept   []byte
	page   *[ReplayLimit]byte // what kept is in; nil if that is the source's
	waited time.Duration      // for the client, in all
	pace   Pace
}

var bodyPages = sync.Pool{New: func() any { return new([ReplayLimit]byte) }}

// Open makes b the body that src brings. length is -1 if it is not known; then
// the body may be one side of a long conversation, and is kept only for an
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

// Keep keeps a body whose length is not known, whatever the method.
func (b *Body) Keep() { b.keeps, b.first = b.keeps || b.length < 0, false }

// KeepFirst keeps a body whose length is not known as long as one read has
// brought all of it: a small message that came at once, and nothing of a
// stream.
func (b *Body) KeepFirst() {
	if b.length < 0 && !b.keeps {
		b.keeps, b.first = true, true
	}
}

// Begin notes what of the body was read from its source already, with that
// error. first stays as it is until Close.
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

// Bound makes n the bytes that may come; 0 means no bound.
func (b *Body) Bound(n int64) {
	if b.max = n; n > 0 && b.count.Load() > n {
		b.Fail(ErrBodyTooLarge)
	}
}

// Answer notes that the response has begun: the client owes no haste any more.
func (b *Body) Answer() { b.answered.Store(true) }

// Whole reports whether the body has been read to its end.
func (b *Body) Whole() bool { return b.whole.Load() }

// Count is how many bytes have been read.
func (b *Body) Count() int64 { return b.count.Load() }

// Fail notes a failure of the client's side. The first one counts.
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

// Rewind ends the turn of the attempt that reads, and reports whether there can
// be another one: all that was read is kept.
func (b *Body) Rewind() bool {
	b.turn.Add(1)
	return !b.lost.Load()
}

// Replays reports whether all that was read is kept.
func (b *Body) Replays() bool { return !b.lost.Load() }

// Kept returns what was read, if Replays reports so. It is valid until the next
// Read, or Close.
func (b *Body) Kept() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept
}

// Close ends all reading. If a Read is in progress, wake has to end it; wake
// returns false if it cannot. wake may be nil if no reader is left.
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

// drop forgets what is kept. b.mu is held.
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
	at   int64 // how much it has read
}

// Close implements io.Closer. The client's body stays open, for another
// attempt.
func (r *BodyReader) Close() error { return nil }

// Ready returns what of the body can be had without waiting, from its
// beginning, so that Read goes on behind that. It has to be the attempt's first
// call; the result is valid until the next one.
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
// that nothing has come.
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

// excused is how long, in all, the client was not free to send: see Client.
func (b *Body) excused() time.Duration {
	if src, ok := b.src.(interface{ Excused() time.Duration }); ok {
		return src.Excused()
	}
	return 0
}

// contained is Read of a source that middleware may have made. A panic in it is
// an error, because on the goroutines that read a body it would end the
// program.
func (b *Body) contained(p []byte) (n int, err error) {
	defer Contain("a request body", &err)
	return b.src.Read(p)
}

// retain keeps what r has read. If a Rewind came meanwhile, the next attempt
// has to find it, however much that is. b.mu is held.
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
		b.lost.Store(false) // not to r, whose turn is over
	}
	if !b.first { // or else the call that p begins may last, and a page is large
		b.turnPage()
	}
	b.kept = append(b.kept, p...)
}

// turnPage makes kept a part of page. b.mu is held.
func (b *Body) turnPage() {
	if b.page == nil {
		b.page = bodyPages.Get().(*[ReplayLimit]byte)
		b.kept = append(b.page[:0], b.kept...)
	}
}
