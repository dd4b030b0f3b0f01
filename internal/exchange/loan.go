package exchange

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A Loan is the context of a request that is served by a handler of the
// program. It gives the request's exchange to handlers of ours that this one
// calls.
//
// An Exchange belongs to one goroutine. A handler of the program may call ours
// on another goroutine, and may return while they still run, as
// http.TimeoutHandler does. So handlers of ours never change the exchange of
// the lender. Each of them works on a copy, from Borrow to Return. It tells the
// loan how far it is when an attempt begins, and the rest when it returns. The
// lender takes these facts over with End, when its handler has returned. From
// then on the loan is over: what borrowers still do stays in their copies,
// which nothing else reads.
//
// Of the lender's exchange, handlers read only what the lender has set before
// the loan.
type Loan struct {
	context.Context
	x    *Exchange // the lender's
	hook bool      // the lender goes on: nothing is taken over

	paged, refused bool // the lender's Paged and Refused when the loan began

	// Another lane may have begun to serve the exchange for the Upstream that
	// the lender calls: the number of attempts, and the keys of their targets.
	resumes int
	tried   []string

	passes atomic.Uint32

	mu     sync.Mutex // guards the fields below
	over   bool
	latest *Exchange   // the copy that was borrowed last; nil if none was
	beside []*Exchange // the copies before it that had not returned then, and run
	others *Record     // what such copies counted and listed; nil if none
	notes  notes
}

// notes are facts about an exchange from handlers that borrow nothing.
type notes struct {
	user   string
	fail   *Failure
	status int
}

// Lend begins a loan of x, in ctx. The caller calls End when the handler that
// got it has returned, and does not use x before that. Its writer for the
// handler may be a Watcher of x.
func Lend(ctx context.Context, x *Exchange) *Loan {
	x.Shared = true
	l := &Loan{Context: ctx, x: x, paged: x.Paged, refused: x.Refused, resumes: x.Attempts - x.Earlier, tried: slices.Clip(x.Tried)}
	l.passes.Store(uint32(PassesOf(ctx)))
	return l
}

// NewContext returns ctx carrying x for a hook that does not serve requests: a
// loan that is over before it begins.
func NewContext(ctx context.Context, x *Exchange) context.Context {
	l := Lend(ctx, x)
	l.hook, l.over = true, true
	return l
}

type exchangeKey struct{}

// Value implements context.Context.
func (l *Loan) Value(key any) any {
	if _, ok := key.(exchangeKey); ok {
		return l
	}
	return l.Context.Value(key)
}

// String hides what other goroutines may change.
func (l *Loan) String() string { return fmt.Sprint(l.Context) + ".WithExchange" }

func loanOf(ctx context.Context) *Loan {
	l, _ := ctx.Value(exchangeKey{}).(*Loan)
	return l
}

// FromContext returns the exchange that ctx carries, or nil. It belongs to the
// lender: see Loan.
func FromContext(ctx context.Context) *Exchange {
	if l := loanOf(ctx); l != nil {
		return l.x
	}
	return nil
}

// Carries reports whether ctx carries x, or the exchange that x is a copy of.
func (x *Exchange) Carries(ctx context.Context) bool {
	l := loanOf(ctx)
	return l != nil && (l.x == x || l == x.loan)
}

// Borrow returns a copy of the exchange that ctx carries, or nil if there is
// none. The copy belongs to the caller until Return. It has what borrowers did
// that have returned. Its Err, Status and ResponseBytes are zero.
func Borrow(ctx context.Context) *Exchange {
	l := loanOf(ctx)
	if l == nil {
		return nil
	}
	x := exchanges.Get().(*Exchange)
	x.inherit(l.x)
	x.loan, x.Paged, x.Refused = l, l.paged, l.refused
	x.Watched = !l.hook && l.x.Watched // the lender of a hook may begin to watch
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		if !l.hook {
			x.Value = l.x.Value
		}
		return x
	}
	switch before := l.latest; {
	case before == nil:
		x.resume(&l.x.Record)
	case before.back:
		x.resume(&before.Record)
		before.Release()
		x.tell(nil)
	default:
		l.overtake(before, x)
	}
	x.User = cmp.Or(l.notes.user, x.User)
	x.lent = x.tally()
	x.Err = nil // lent has it
	x.Earlier, x.Tried = x.Attempts-l.resumes, l.tried
	l.latest = x
	return x
}

// overtake sets what x begins with while before still runs: what is known from
// before, but nothing that before has counted and listed. That is added at the
// end. mu is held.
func (l *Loan) overtake(before, x *Exchange) {
	if before.told == nil { // so it began with what was before the loan
		x.resume(&l.x.Record)
	} else {
		x.resume(before.told.record())
		x.Err = cmp.Or(before.lent.err, x.Err)
		x.goBack(before.lent)
		x.tell(nil)
	}
	if l.others == nil {
		l.others = new(Record)
	}
	l.beside = append(l.beside, before)
}

// A tally is how much a record counts and lists, with its failure and user.
type tally struct {
	attempts, retried, timeline int
	queue                       time.Duration
	err                         error
	user                        string
}

func (r *Record) tally() tally {
	return tally{r.Attempts, len(r.Retried), len(r.Timeline), r.Queue, r.Err, r.User}
}

// goBack makes r count and list what it did at t.
func (r *Record) goBack(t tally) {
	r.Attempts, r.Queue = t.attempts, t.queue
	r.Retried, r.Timeline = r.Retried[:t.retried], r.Timeline[:t.timeline]
}

// add adds what own counts and lists since t.
func (r *Record) add(own *Record, t tally) {
	r.Attempts += own.Attempts - t.attempts
	r.Queue += own.Queue - t.queue
	r.Retried = append(r.Retried, own.Retried[t.retried:]...)
	r.Timeline = append(r.Timeline, own.Timeline[t.timeline:]...)
}

// inherit sets what the lender's exchange x has had since before the loan.
func (x *Exchange) inherit(from *Exchange) {
	r := &from.Record
	x.Start, x.Client, x.Peer, x.Proto, x.Scheme, x.Method = r.Start, r.Client, r.Peer, r.Proto, r.Scheme, r.Method
	x.Host, x.Path, x.Query, x.Pattern = r.Host, r.Path, r.Query, r.Pattern
	x.UserAgent, x.Referer, x.RequestID = r.UserAgent, r.Referer, r.RequestID
	x.TLSVersion, x.ServerName = r.TLSVersion, r.ServerName
	x.Via, x.Name, x.Trusted = from.Via, from.Name, from.Trusted
	x.Numbering, x.Hooks, x.Set, x.begun = from.Numbering, from.Hooks, from.Set, from.begun
	x.Head, x.Owner, x.ClientScheme, x.ClientHost = from.Head, from.Owner, from.ClientScheme, from.ClientHost
	x.edited.Store(from.edited.Load())
	x.Mirrored, x.Asker, x.About = from.Mirrored, from.Asker, from.About
	x.Charged = slices.Clip(from.Charged)
	x.Lives, x.client, x.cut = from.Lives, from.client, from.cut
}

// resume sets what earlier borrowers have done. What they list is copied, since
// a hook or the next attempt may change it.
func (x *Exchange) resume(r *Record) {
	x.User, x.Value, x.Err, x.RequestBytes = r.User, r.Value, r.Err, r.RequestBytes
	x.Target, x.Attempts, x.Queue, x.Dial, x.FirstByte = r.Target, r.Attempts, r.Queue, r.Dial, r.FirstByte
	x.Retried, x.Timeline = slices.Clone(r.Retried), slices.Clone(r.Timeline)
}

// A progress is how far a borrower is.
type progress struct {
	Record           // without the attempt that runs
	running  Attempt // copied here, so that the usual case needs no other memory
	runs     bool
	waits    time.Time // since when it waits; zero means it does not
	uploaded *Body     // nil if the request has no body
}

// progresses holds those of released copies. A copy does not keep its own: its
// memory is often that of a lender next, which has none.
var progresses = sync.Pool{New: func() any { return new(progress) }}

// record returns the progress until now, with the attempt that runs.
func (p *progress) record() *Record {
	if p.runs {
		p.runs = false
		p.Timeline = append(p.Timeline, p.running)
	}
	if p.uploaded != nil {
		p.RequestBytes = p.uploaded.Count()
	}
	if !p.waits.IsZero() {
		now := time.Now()
		p.Queue += now.Sub(p.waits)
		p.waits = now
	}
	return &p.Record
}

// Tell tells the lender of x how far x is. upload is the body on its way to the
// target; nil if there is none. Tell does nothing if x is not borrowed.
func (x *Exchange) Tell(upload *Body) {
	l := x.loan
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		x.tell(upload)
	}
}

// tell is Tell in a loan that is not over. The loan's mu is held.
func (x *Exchange) tell(upload *Body) {
	if x.told == nil {
		x.told = progresses.Get().(*progress)
	}
	p := x.told
	p.Status, p.RequestBytes, p.waits = x.Status, x.RequestBytes, x.Waits
	p.User, p.Value, p.Err, p.uploaded = x.User, x.Value, x.Err, upload
	p.Target, p.Attempts, p.Queue, p.Dial, p.FirstByte = x.Target, x.Attempts, x.Queue, x.Dial, x.FirstByte
	p.Retried, p.Timeline = slices.Clone(x.Retried), nil
	if last := x.Latest(); last != nil {
		p.running, p.runs = *last, true
		p.Timeline = slices.Clone(x.Timeline[:len(x.Timeline)-1])
	}
}

// Return ends the use of x. It does nothing if x is not borrowed.
func (x *Exchange) Return() {
	l := x.loan
	if l == nil {
		return
	}
	if len(x.Timeline) > 0 {
		x.EndAttempts(time.Now()) // with its own failure, if any
	}
	x.Err = cmp.Or(x.lent.err, x.Err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if x.User != x.lent.user { // another one may have been noted meanwhile
		l.notes.user = x.User
	}
	if l.latest == x { // so it is not over
		x.back = true
		return
	}
	if i := slices.Index(l.beside, x); i >= 0 { // another one was called meanwhile
		l.others.add(&x.Record, x.lent)
		l.beside = slices.Delete(l.beside, i, i+1)
	}
	if f, ok := x.Err.(*Failure); ok {
		l.notes.note(notes{fail: f})
	}
	x.Release()
}

// End ends the loan, and notes in the lender's exchange what borrowers have
// told. Of those that ran at the same time, it notes the outcome of the one
// that was borrowed last, and the attempts of all. If that one still runs, the
// exchange ends without it: that is a failure if the client got an error, and
// so is one that the handler has canceled. Later calls do nothing.
func (l *Loan) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	x, last, first := l.x, l.latest, l.x.Err
	l.over, l.latest = true, nil
	switch {
	case last == nil:
	case last.back:
		x.takeBack(last)
		last.Release()
	default:
		x.abandon(last)
	}
	l.addOthers()
	if l.notes.user != "" {
		x.User = l.notes.user
	}
	if l.notes.fail != nil {
		x.Fail(l.notes.fail)
	}
	x.became(l.notes.status, true)
	if x.Status != 0 && x.Status < http.StatusInternalServerError && needless(x.Err) {
		x.Err = first
	}
}

// addOthers adds to the lender's exchange what the copies have counted and
// listed that ran while a later one was borrowed. mu is held.
func (l *Loan) addOthers() {
	if l.others == nil {
		return
	}
	for _, x := range l.beside { // it still runs
		if x.told != nil {
			told := x.told.record()
			told.EndAttempts(time.Now())
			l.others.add(told, x.lent)
		}
	}
	l.x.add(l.others, tally{})
	slices.SortStableFunc(l.x.Timeline, func(a, b Attempt) int { return a.Start.Compare(b.Start) })
}

// needless reports whether err is that of a borrower which the handler has
// canceled before it responded.
func needless(err error) bool {
	f, ok := err.(*Failure)
	return ok && f.Err == ErrCanceled && f.Op != "copy"
}

// takeBack notes what a borrower has done that has returned its copy.
func (x *Exchange) takeBack(from *Exchange) {
	r, first := &from.Record, x.Err
	x.User, x.Value, x.RequestBytes, x.Retried, x.Timeline = r.User, r.Value, r.RequestBytes, r.Retried, r.Timeline
	x.Target, x.Attempts, x.Queue, x.Dial, x.FirstByte = r.Target, r.Attempts, r.Queue, r.Dial, r.FirstByte
	if x.Err = r.Err; x.Err == nil {
		x.Err = first
	}
	x.Paged, x.Refused = from.Paged, from.Refused
	if r.ResponseBytes > 0 { // of an upgraded connection, which the Watcher does not see
		x.ResponseBytes = r.ResponseBytes
	}
	x.became(r.Status, from.Mapped)
}

// became notes the status of a borrower's response; 0 if there is none. The
// client has got the Watcher's, or the server's if a handler writes nothing: a
// handler may have replaced the response. A borrower knows better only that the
// client has left, and what a grpc-status means.
func (x *Exchange) became(status int, mapped bool) {
	means := mapped && x.Coded && x.Status == http.StatusOK
	if status == StatusClientClosed || means && status != 0 {
		x.Status = status
	}
}

// abandon notes what a borrower has told that still runs, and ends its
// attempts.
func (x *Exchange) abandon(from *Exchange) {
	first := x.Err
	if told := from.told; told != nil {
		x.resume(told.record())
		x.became(told.Status, false)
		first = cmp.Or(from.lent.err, x.Err, first)
	}
	if x.Status >= http.StatusInternalServerError {
		x.Fail(&Failure{Op: "read", Target: x.Target, Side: SideProxy, Status: x.Status, Err: ErrAbandoned})
	}
	x.EndAttempts(time.Now())
	x.Err = cmp.Or(first, x.Err)
}

// ErrAbandoned is the cause of an exchange's failure if a handler of the
// program has answered without waiting for the Upstream behind it.
var ErrAbandoned = errors.New("a handler in front of the Upstream, such as http.TimeoutHandler, has answered without waiting for it")

// ServeHook calls a hook of the program that may serve the request with that
// context, by handlers of ours too. It lends x, or the exchange that x is a
// question about, and returns the panic of the hook as an error.
func (x *Exchange) ServeHook(name string, ctx context.Context, hook func(*Loan)) (err error) {
	if x.About != nil {
		x = x.About
	}
	l := Lend(ctx, x)
	l.resumes, l.tried = 0, nil // the attempts of x are those of the hook's Upstream
	defer l.End()
	defer Contain(name, &err)
	hook(l)
	return nil
}

// note adds what more says. The first failure stays.
func (n *notes) note(more notes) {
	if more.user != "" {
		n.user = more.user
	}
	if n.fail == nil {
		n.fail = more.fail
	}
	if more.status != 0 {
		n.status = more.status
	}
}

func (l *Loan) note(n notes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.notes.note(n)
}

// NoteUser notes the name of the user in the exchange that ctx carries, if any.
func NoteUser(ctx context.Context, name string) {
	if l := loanOf(ctx); l != nil {
		l.note(notes{user: name})
	}
}

// NoteFailure notes f in the exchange that ctx carries, if any.
func NoteFailure(ctx context.Context, f *Failure) {
	if l := loanOf(ctx); l != nil {
		l.note(notes{fail: f})
	}
}

// noteAt notes n in the exchange of q that w responds to, if there is one.
func noteAt(w http.ResponseWriter, q *http.Request, n notes) {
	l := loanOf(q.Context())
	if w, ok := w.(*Watcher); ok && (l == nil || l.hook || l.x != w.x) {
		w.note(n) // it is the caller's own
		// the Router of w may be in a route of another one; else Return does it
		for ; l != nil && l != w.x.loan && n.status != 0; l = loanOf(l.Context) {
			l.note(notes{status: n.status})
		}
		return
	}
	if l != nil {
		l.note(n)
	}
}
