package h2

// Sizes of windows (RFC 9113, 6.9).
const (
	InitialWindow = 1<<16 - 1 // of a connection, and of a stream without SETTINGS_INITIAL_WINDOW_SIZE
	MaxWindow     = 1<<31 - 1
)

// A Window is how many bytes of DATA we may send on a stream or a connection. A change
// of the peer's settings can make it negative.
type Window int32

// Grow adds the increment of a WINDOW_UPDATE. A window of more than MaxWindow is a
// *Fault, and leaves w as it was.
func (w *Window) Grow(increment uint32) error { return w.Shift(int64(increment)) }

// Shift adds what Settings.Apply returns. Its error is that of Grow.
func (w *Window) Shift(by int64) error {
	n := int64(*w) + by
	if n > MaxWindow {
		return errOverflow
	}
	*w = Window(n)
	return nil
}

// Take takes up to n bytes out of the windows of a stream and of its connection, none
// if one of them is not open, and returns how many. They have to be sent: until then
// the peer may have made the windows too large for them to be put back.
func Take(n int, stream, connection *Window) int {
	n = max(0, min(n, int(*stream), int(*connection)))
	*stream -= Window(n)
	*connection -= Window(n)
	return n
}

// An Inflow is how many bytes of DATA the peer may send us on a stream or a connection.
//
// At any time Open, Owed and what has come but was not passed to Return add up to Size.
type Inflow struct {
	size int64 // the bytes that may be on their way or with us
	open int64 // what the peer may still send
	owed int64 // what it may send again, but was not told
}

// NewInflow returns the Inflow of a peer that may send size bytes.
func NewInflow(size uint32) Inflow { return Inflow{size: int64(size), open: int64(size)} }

// Size is the size of the window.
func (f *Inflow) Size() int64 { return f.size }

// Open is what the peer may still send.
func (f *Inflow) Open() int64 { return f.open }

// Owed is what the peer may send again but has not been told.
func (f *Inflow) Owed() int64 { return f.owed }

// Receive counts n bytes that have come: Frame.Counted. More than the peer may send
// is a *Fault.
func (f *Inflow) Receive(n uint32) error {
	if int64(n) > f.open {
		return errOverrun
	}
	f.open -= int64(n)
	return nil
}

// Return gives back n of the bytes that have come, since they are dealt with. It
// returns the increment of a WINDOW_UPDATE to be sent, 0 as long as less than half of
// the window is owed.
func (f *Inflow) Return(n uint32) (increment uint32) {
	f.owed += int64(n)
	if f.owed < (f.size+1)/2 {
		return 0
	}
	return f.Settle()
}

// Settle returns the increment of a WINDOW_UPDATE for all that is owed, 0 if that is
// nothing.
func (f *Inflow) Settle() (increment uint32) {
	increment = uint32(f.owed)
	f.open += f.owed
	f.owed = 0
	return increment
}

// Widen makes the window larger, up to size, and owes the peer the difference.
func (f *Inflow) Widen(size uint32) {
	if by := min(int64(size), MaxWindow) - f.size; by > 0 {
		f.size += by
		f.owed += by
	}
}
