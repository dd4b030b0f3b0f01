package h2_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"

	"github.com/hostproxy/hostproxy/internal/h2"
)

func TestSettingsAreAppliedInOrder(t *testing.T) {
	s := h2.DefaultSettings()
	shift := s.Apply([]byte("\x00\x01\x00\x00\x00\x00" + "\x00\x02\x00\x00\x00\x00" + "\x00\x03\x00\x00\x00\x64" +
		"\x00\x04\x7f\xff\xff\xff" + "\x00\x04\x00\x00\xff\xfe" + "\x00\x05\x00\x00\x40\x01" + "\x00\x06\x00\x00\x10\x00" +
		"\x00\x08\x00\x00\x00\x01" + "\x00\x09\x00\x00\x00\x01" + "\xab\xcd\xff\xff\xff\xff"))
	assert.EqualValues(t, -1, shift, "the last value of a setting counts")
	assert.Equal(t, h2.Settings{NoPush: true, MaxStreams: 100, InitialWindow: 65534, MaxFrame: 16385, MaxList: 4096, Connect: true, NoPriorities: true}, s)
	assert.Zero(t, s.Apply(nil))
}

func TestOnlySettingsThatDifferAreSent(t *testing.T) {
	s := h2.DefaultSettings()
	assert.Equal(t, h2.AppendHead(nil, h2.SettingsFrame, 0, 0, 0), h2.AppendSettings(nil, &s))

	want := h2.Settings{TableSize: 1, NoPush: true, MaxStreams: 250, InitialWindow: 1 << 20, MaxFrame: 1 << 20, MaxList: 16384, Connect: true, NoPriorities: true}
	b := h2.AppendSettings([]byte("before"), &want)[len("before"):]
	events, err := parseAll(t, new(h2.Parser), b, len(b))
	require.ErrorIs(t, err, h2.ErrMore)
	require.Len(t, events, 1)
	shift := s.Apply([]byte(events[0].Payload))
	assert.Equal(t, want, s)
	assert.EqualValues(t, 1<<20-65535, shift)
	assert.Equal(t, uint16(http2.SettingNoRFC7540Priorities), uint16(9))
}

func TestAWindowStaysWithinItsLimits(t *testing.T) {
	w, connection := h2.Window(h2.InitialWindow), h2.Window(70000)
	assert.Equal(t, 65535, h2.Take(1<<20, &w, &connection), "no more than is open")
	assert.Zero(t, h2.Take(1, &w, &connection))
	assert.EqualValues(t, 70000-65535, connection)
	other := h2.Window(h2.InitialWindow)
	assert.Equal(t, 70000-65535, h2.Take(1<<20, &other, &connection), "no more than the connection has")
	assert.Zero(t, connection)
	connection = h2.MaxWindow
	require.NoError(t, w.Shift(-65535))
	assert.EqualValues(t, -65535, w, "RFC 9113, 6.9.2: a window can be negative")
	assert.Zero(t, h2.Take(1, &w, &connection))
	require.NoError(t, w.Grow(65536))
	assert.Equal(t, 1, h2.Take(2, &w, &connection))
	require.NoError(t, w.Grow(h2.MaxWindow))
	var fault *h2.Fault
	require.ErrorAs(t, w.Grow(1), &fault)
	assert.Equal(t, h2.FlowControlError, fault.Code)
	assert.EqualValues(t, h2.MaxWindow, w)
}

func TestAReceiveWindowIsExtendedInLargePieces(t *testing.T) {
	f := h2.NewInflow(100)
	require.NoError(t, f.Receive(100))
	assert.Error(t, f.Receive(1), "the window is used up")
	assert.Zero(t, f.Return(49))
	assert.EqualValues(t, 50, f.Return(1))
	require.NoError(t, f.Receive(50))
	assert.Error(t, f.Receive(1))
	f.Widen(150)
	f.Widen(20)
	assert.EqualValues(t, 50, f.Settle(), "a window only widens")
	assert.Zero(t, f.Settle())
}

// FuzzWindows runs two peers, and checks that no byte of credit is created or
// lost.
func FuzzWindows(f *testing.F) {
	f.Add([]byte{0, 200, 1, 90, 2, 0, 3, 7, 4, 9, 0, 255, 1, 255})
	f.Fuzz(func(t *testing.T, steps []byte) {
		out, in := h2.Window(300), h2.NewInflow(300) // of the sender, and of the receiver
		connection := h2.Window(h2.MaxWindow)
		wire, held, told := uint32(0), uint32(0), int64(0)
		for ; len(steps) > 1; steps = steps[2:] {
			n := int(steps[1])
			switch steps[0] % 6 {
			case 0:
				wire += uint32(h2.Take(n, &out, &connection))
			case 1:
				k := min(wire, uint32(n))
				require.NoError(t, in.Receive(k), "the sender obeys the window")
				wire -= k
				held += k
			case 2:
				k := min(held, uint32(n))
				told += int64(in.Return(k))
				held -= k
			case 3:
				in.Widen(uint32(in.Size()) + uint32(n))
			case 4:
				told += int64(in.Settle())
			case 5:
				require.NoError(t, out.Grow(uint32(told)))
				told = 0
			}
			require.Equal(t, in.Size(), in.Open()+in.Owed()+int64(held))
			require.Equal(t, in.Open(), int64(out)+int64(wire)+told)
		}
	})
}
