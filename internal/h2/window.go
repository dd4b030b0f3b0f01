package h2

// Sizes of windows (RFC 9113, 6.9).
const (
	// initial window of a connection, and of a stream without
	// SETTINGS_INITIAL_WINDOW_SIZE
	InitialWindow = 1<<16 - 1
	MaxWindow     = 1<<31 - 1
)

// A Window is the number of bytes of DATA that we may send on a stream or a
// connection. A change of the peer's settings can make it negative.
type Window int32

// Grow adds the increment of a WINDOW_UPDATE. If the result exceeds MaxWindow,
// it returns a *Fault and leaves w unchanged.
func (w *Window) Grow(increment uint32) error { return w.Shift(int64(increment)) }

// Shift adds the result of Settings.Apply. Its error is that of Grow.
func (w *Window) Shift(by int64) error {
	n := int64(*w) + by
	if n > MaxWindow {
		return errOverflow
	}
	*w = Window(n)
	return nil
}

// Take takes up to n bytes from the windows of a stream and its connection, and
// returns their number, or 0 if one of the windows is not open. The caller must
// send these bytes. They cannot be put back: meanwhile the peer may grow the
// windows to their limit.
func Take(n int, stream, connection *Window) int {
	n = max(0, min(n, int(*stream), int(*connection)))
	*stream -= Window(n)
	*connection -= Window(n)
	return n
}

// An Inflow counts the bytes of DATA that the peer may send us on a stream or a
// connection.
//
// Size is always the sum of Open, Owed and the bytes received but not passed to
// Return.
type Inflow struct {
	size int64 // bytes that may be in flight or held by us
	open int64 // bytes that the peer may still send
	owed int64 // bytes to be given back by a WINDOW_UPDATE
}

// NewInflow returns the Inflow of a peer that may send size bytes.
func NewInflow(size uint32) Inflow { return Inflow{size: int64(size), open: int64(size)} }

// Size returns the size of the window.
func (f *Inflow) Size() int64 { return f.size }

// Open returns how many bytes the peer may still send.
func (f *Inflow) Open() int64 { return f.open }

// Owed returns how many bytes are to be given back by a WINDOW_UPDATE.
func (f *Inflow) Owed() int64 { return f.owed }

// Receive counts n bytes that have arrived: Frame.Counted. If they are more
// than the peer may send, it returns a *Fault.
func (f *Inflow) Receive(n uint32) error {
	if int64(n) > f.open {
		return errOverrun
	}
	f.open -= int64(n)
	return nil
}

// Return gives n received bytes back. It returns the increment for a
// WINDOW_UPDATE, or 0 while less than half of the window is owed.
func (f *Inflow) Return(n uint32) (increment uint32) {
	f.owed += int64(n)
	if f.owed < (f.size+1)/2 {
		return 0
	}
	return f.Settle()
}

// Settle returns the increment of a WINDOW_UPDATE for all owed bytes. It
// returns 0 if no byte is owed.
func (f *Inflow) Settle() (increment uint32) {
	increment = uint32(f.owed)
	f.open += f.owed
	f.owed = 0
	return increment
}

// Widen enlarges the window to size, up to MaxWindow. The peer is then owed the
// difference.
func (f *Inflow) Widen(size uint32) {
	if by := min(int64(size), MaxWindow) - f.size; by > 0 {
		f.size += by
		f.owed += by
	}
}
