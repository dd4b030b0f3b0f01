package exchange_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/exchange"
)

// open opens the body of a PUT request without a length.
func open(src io.Reader, first string) *exchange.Body {
	b := new(exchange.Body)
	b.Open(src, http.MethodPut, -1)
	b.Begin([]byte(first), nil)
	return b
}

// pass opens a body that is not kept.
func pass(src io.Reader, first string) *exchange.Body {
	b := new(exchange.Body)
	b.Open(src, http.MethodPost, -1)
	b.Begin([]byte(first), nil)
	return b
}

func TestEachAttemptReadsABodyFromItsBeginning(t *testing.T) {
	b := open(iotest.OneByteReader(strings.NewReader("lo, world")), "hel")
	a := b.Attempt()
	_, err := io.ReadFull(&a, make([]byte, 5))
	require.NoError(t, err)

	require.True(t, b.Rewind(), "what was read is kept")
	_, err = a.Read(make([]byte, 1))
	assert.ErrorIs(t, err, http.ErrBodyReadAfterClose, "the first attempt is over")

	for range 2 {
		a = b.Attempt()
		all, err := io.ReadAll(&a)
		require.NoError(t, err)
		assert.Equal(t, "hello, world", string(all))
	}
	assert.True(t, b.Whole())
	assert.Equal(t, "hello, world", string(b.Kept()))
	assert.EqualValues(t, 12, b.Count())
	assert.NoError(t, b.Failed())
}

func TestABodyIsKeptUpToTheReplayLimit(t *testing.T) {
	for _, beyond := range []int{0, 1} {
		b := open(bytes.NewReader(make([]byte, exchange.ReplayLimit-3+beyond)), "abc")
		a := b.Attempt()
		n, err := io.Copy(io.Discard, &a)
		require.NoError(t, err)
		assert.EqualValues(t, exchange.ReplayLimit+beyond, n)
		assert.Equal(t, beyond == 0, b.Replays())
		assert.Equal(t, beyond == 0, b.Rewind())
	}
}

func TestAnAttemptNeverReadsABodyFromItsMiddle(t *testing.T) {
	b := pass(strings.NewReader("once"), "")
	a := b.Attempt()
	_, err := a.Read(make([]byte, 2))
	require.NoError(t, err)
	assert.False(t, b.Rewind())

	a = b.Attempt()
	n, err := a.Read(make([]byte, 2))
	assert.Zero(t, n)
	assert.ErrorContains(t, err, "not kept")
}

func TestBytesOfALateReadGoToTheNextAttempt(t *testing.T) {
	for _, first := range []int{0, exchange.ReplayLimit - 1} { // below and beyond the limit
		synctest.Test(t, func(t *testing.T) {
			client, src := io.Pipe()
			b := open(client, strings.Repeat("x", first))
			a := b.Attempt()
			_, err := io.ReadFull(&a, make([]byte, first))
			require.NoError(t, err)
			go func() { _, _ = a.Read(make([]byte, 8)) }()
			synctest.Wait() // the source is being read now
			require.True(t, b.Rewind())
			_, err = src.Write([]byte("abc"))
			require.NoError(t, err)
			src.Close()

			next := b.Attempt()
			all, err := io.ReadAll(&next)
			require.NoError(t, err)
			assert.Equal(t, strings.Repeat("x", first)+"abc", string(all))
		})
	}
}

func TestOnlyBodiesThatMayBeReplayedAreKept(t *testing.T) {
	for _, c := range []struct {
		method string
		length int64
		kept   bool
	}{
		{http.MethodPost, 4, true},
		{http.MethodPut, exchange.ReplayLimit, true},
		{http.MethodPut, exchange.ReplayLimit + 1, false},
		{http.MethodPut, -1, true},
		{http.MethodPost, -1, false}, // may be a conversation
	} {
		for _, wanted := range []bool{false, true} { // whether Keep is called
			b := new(exchange.Body)
			b.Open(strings.NewReader("body"), c.method, c.length)
			if wanted {
				b.Keep()
			}
			a := b.Attempt()
			_, err := io.ReadAll(&a)
			require.NoError(t, err)
			assert.Equal(t, c.kept || wanted && c.length < 0, b.Replays(), "%s %d", c.method, c.length)
		}
	}
}

func TestABodyBeyondItsLimitIsAClientFailure(t *testing.T) {
	b := open(strings.NewReader("more"), "abc")
	b.Bound(6)
	a := b.Attempt()
	all, err := io.ReadAll(&a)
	assert.ErrorIs(t, err, exchange.ErrBodyTooLarge)
	assert.Equal(t, "abc", string(all))
	assert.ErrorIs(t, b.Failed(), exchange.ErrBodyTooLarge)
	a = b.Attempt()
	_, err = io.ReadAll(&a)
	assert.ErrorIs(t, err, exchange.ErrBodyTooLarge, "the next attempt fails too")

	b = open(strings.NewReader(""), "abc")
	b.Bound(2)
	assert.ErrorIs(t, b.Failed(), exchange.ErrBodyTooLarge, "bytes already received count")
	b = open(strings.NewReader(""), "abc")
	b.Bound(0)
	assert.NoError(t, b.Failed(), "0 means no limit")
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestASlowBodyIsAClientFailureUntilTheResponseBegins(t *testing.T) {
	for _, c := range []struct {
		name  string
		let   func(b *exchange.Body)
		fails bool
	}{
		{"waited for", func(*exchange.Body) {}, true},
		{"answered", (*exchange.Body).Answer, false},
		{"of HTTP/2", func(b *exchange.Body) { b.Patient = true }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				left := 60
				b := open(readerFunc(func(p []byte) (int, error) {
					if left--; left < 0 {
						return 0, io.EOF
					}
					time.Sleep(time.Second)
					return copy(p, "x"), nil
				}), "")
				c.let(b)
				a := b.Attempt()
				_, err := io.ReadAll(&a)
				if !c.fails {
					assert.NoError(t, err)
					assert.NoError(t, b.Failed())
					return
				}
				assert.ErrorIs(t, err, exchange.ErrSlowBody)
				assert.ErrorIs(t, b.Failed(), exchange.ErrSlowBody)
			})
		})
	}
}

func TestAPanickingSourceFailsOnlyItsRequest(t *testing.T) {
	b := open(nil, "")
	a := b.Attempt()
	_, err := a.Read(make([]byte, 1))
	var hook *exchange.PanicError
	require.ErrorAs(t, err, &hook)
	assert.ErrorAs(t, b.Failed(), &hook)
}

func TestAnInterruptedReadIsNotAFailure(t *testing.T) {
	b := open(io.MultiReader(iotest.ErrReader(http.ErrBodyReadAfterClose)), "")
	a := b.Attempt()
	_, err := a.Read(make([]byte, 1))
	assert.ErrorIs(t, err, http.ErrBodyReadAfterClose)
	assert.NoError(t, b.Failed())
}

func TestAClosedBodyCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, src := io.Pipe()
		b := open(client, "")
		a := b.Attempt()
		woken := errors.New("woken")
		go func() {
			_, err := a.Read(make([]byte, 1))
			assert.ErrorIs(t, err, woken)
		}()
		synctest.Wait() // the source is being read now
		b.Close(func() bool { return src.CloseWithError(woken) == nil })
		_, err := a.Read(make([]byte, 1))
		assert.ErrorIs(t, err, http.ErrBodyReadAfterClose)
		assert.Nil(t, b.Kept())
	})
}

// A prompt source returns everything immediately when read without waiting.
type prompt struct{ io.Reader }

func (p prompt) ReadNow(b []byte) (int, error) {
	n, err := io.ReadFull(p.Reader, b)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

func TestReadyReturnsTheBytesAvailableWithoutWaiting(t *testing.T) {
	b := open(prompt{strings.NewReader("def")}, "abc")
	for range 2 {
		a := b.Attempt()
		assert.Equal(t, "abcdef", string(a.Ready()))
		assert.True(t, b.Whole())
		_, err := a.Read(make([]byte, 1))
		assert.Equal(t, io.EOF, err)
	}

	b = pass(prompt{strings.NewReader("def")}, "abc") // a body that is not kept is not read ahead
	a := b.Attempt()
	assert.Equal(t, "abc", string(a.Ready()))
	rest, err := io.ReadAll(&a)
	require.NoError(t, err)
	assert.Equal(t, "def", string(rest))
}

func TestABodyIsBufferedUpToTheMemoryLimit(t *testing.T) {
	text := strings.Repeat("0123456789", 20_000)
	for _, tt := range []struct {
		name    string
		n, room int
		kept    int
		whole   bool
	}{
		{"all of it", 1 << 20, 1 << 20, 200_000, true},
		{"no more than asked for", 100_000, 1 << 20, 100_000, false},
		{"less than a page", 10, 0, 10, false},
		{"without memory", 1 << 20, 0, exchange.ReplayLimit, false},
		{"with some", 1 << 20, 2 * exchange.ReplayLimit, 2 * exchange.ReplayLimit, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b exchange.Body
			b.Open(strings.NewReader(text), "POST", -1)
			left := tt.room
			b.Buffer(tt.n, func(n int) bool {
				if n > left {
					return false
				}
				left -= n
				return true
			})
			assert.Len(t, b.Kept(), tt.kept)
			if !tt.whole {
				assert.False(t, b.Whole())
			}
			first := b.Attempt()
			got, err := io.ReadAll(&first)
			require.NoError(t, err)
			assert.Equal(t, text, string(got))
			assert.True(t, b.Whole())
			if assert.Equal(t, tt.whole, b.Rewind()) && tt.whole {
				second := b.Attempt()
				got, err = io.ReadAll(&second)
				require.NoError(t, err)
				assert.Equal(t, text, string(got))
			}
			b.Close(nil)
		})
	}
}

func TestABodyThatFailsIsBufferedNoFurther(t *testing.T) {
	var b exchange.Body
	b.Open(io.MultiReader(strings.NewReader("some"), iotest.ErrReader(exchange.ErrClientGone)), "POST", 10)
	b.Buffer(1000, func(int) bool { return true })
	assert.Equal(t, exchange.ErrClientGone, b.Failed())
	var c exchange.Body
	c.Open(strings.NewReader(strings.Repeat("x", 100)), "POST", -1)
	c.Bound(50)
	c.Buffer(1000, func(int) bool { return true })
	assert.Equal(t, exchange.ErrBodyTooLarge, c.Failed())
}

func TestKeepFirstKeepsOnlyTheFirstRead(t *testing.T) {
	whole := new(exchange.Body)
	whole.Open(iotest.DataErrReader(strings.NewReader("message")), http.MethodPost, -1)
	whole.KeepFirst()
	a := whole.Attempt()
	_, err := a.Read(make([]byte, 100))
	require.Equal(t, io.EOF, err)
	require.True(t, whole.Rewind(), "it arrived in one read")
	a = whole.Attempt()
	all, err := io.ReadAll(&a)
	require.NoError(t, err)
	assert.Equal(t, "message", string(all))

	stream := new(exchange.Body)
	stream.Open(strings.NewReader("message"), http.MethodPost, -1)
	stream.KeepFirst()
	a = stream.Attempt()
	_, err = a.Read(make([]byte, 3))
	require.NoError(t, err)
	assert.True(t, stream.Replays())
	_, err = a.Read(make([]byte, 1))
	require.NoError(t, err)
	assert.False(t, stream.Rewind(), "later reads are not kept")
	assert.Empty(t, stream.Kept())
}
