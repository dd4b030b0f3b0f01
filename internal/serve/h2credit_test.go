package serve_test

import (
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// A client that respects its windows can send a body past unread bodies, as
// long as these leave it any window.
func TestABodyPassesUnreadBodiesOfOtherStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 2 << 20
		release := make(chan struct{})
		dial, _ := dialBubble(t, nil, func(w http.ResponseWriter, q *http.Request) {
			if q.URL.Path == "/stuck" {
				<-release
				return
			}
			n, err := io.Copy(io.Discard, q.Body)
			assert.EqualValues(t, size, n)
			assert.NoError(t, err)
		})
		p := newPeer(t, dial())
		p.listen()
		p.frame("window", func(s seen) bool { return s.kind == http2.FrameWindowUpdate && s.stream == 0 })
		sent := map[uint32]int{}
		room := func(stream uint32) int {
			synctest.Wait()
			stay, whole := 64<<10, 65535
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, s := range p.seen {
				if s.kind == http2.FrameWindowUpdate && s.stream == stream {
					stay += int(s.by)
				}
				if s.kind == http2.FrameWindowUpdate && s.stream == 0 {
					whole += int(s.by)
				}
			}
			return min(stay-sent[stream], whole-sent[0], 16<<10)
		}
		send := func(stream uint32, n int, last bool) {
			require.NoError(t, p.WriteData(stream, last, make([]byte, n)))
			sent[stream] += n
			sent[0] += n
		}
		for i := range uint32(12) { // three quarters of the connection's window
			p.ask(2*i+1, true, of("POST", "/stuck")...)
			for range 4 {
				send(2*i+1, 16<<10, false)
			}
		}
		p.ask(101, true, of("POST", "/")...)
		for start := time.Now(); sent[101] < size && assert.Less(t, time.Since(start), time.Second, "after %d bytes", sent[101]); {
			n := min(room(101), size-sent[101])
			if n <= 0 {
				time.Sleep(10 * time.Millisecond)
				continue
			}
			send(101, n, sent[101]+n == size)
		}
		if sent[101] == size {
			assert.Equal(t, "200", p.reply(101).status)
		}
		close(release)
		p.c.Close()
	})
}
