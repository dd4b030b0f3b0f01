package h2

// Sizes of windows (RFC 9113, 6.9).
const (
	// of a connection, and of a stream without SETTINGS_INITIAL_WINDOW_SIZE
	InitialWindow = 1<<16 - 1
	MaxWindow     = 1<<31 - 1
)

// A Window is how many bytes of DATA we may send on a stream or a connection. A
// change of the peer's settings can make it negative.
type Window int32

// Grow adds the increment of a WINDOW_UPDATE. A window of more than MaxWindow
// is a *Fault, and leaves w as it was.
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

// Take takes up to n bytes from the windows of a stream and its connection, and
// returns how many; 0 if one of them is not open. The caller must send them:
// they cannot be put back, since the peer may have grown the windows to their
// limit meanwhile.
func Take(n int, stream, connection *Window) int {
	n = max(0, min(n, int(*stream), int(*connection)))
	*stream -= Window(n)
	*connection -= Window(n)
	return n
}

// An Inflow is how many bytes of DATA the peer may send us on a stream or a
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

// Receive counts n bytes that have arrived: Frame.Counted. More than the peer
// may send is a *Fault.
func (f *Inflow) Receive(n uint32) error {
	if int64(n) > f.open {
		return errOverrun
	}
	f.open -= int64(n)
	return nil
}

// Return gives n received bytes back. It returns the increment of a
// WINDOW_UPDATE to be sent, or 0 while less than half of the window is owed.
func (f *Inflow) Return(n uint32) (increment uint32) {
	f.owed += int64(n)
	if f.owed < (f.size+1)/2 {
		return 0
	}
	return f.Settle()
}

// Settle returns the increment of a WINDOW_UPDATE for all owed bytes; 0 if
// there are none.
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
