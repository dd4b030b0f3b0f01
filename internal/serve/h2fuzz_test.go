package serve_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/hostproxy/hostproxy/internal/proxytest"
	"github.com/hostproxy/hostproxy/internal/serve"
)

// frames returns the frames of a script, which has two bytes for each: the type
// and the stream.
func frames(script []byte) []byte {
	var out, block bytes.Buffer
	f, enc := http2.NewFramer(&out, nil), hpack.NewEncoder(&block)
	f.AllowIllegalWrites = true
	paths := []string{"/echo", "/large", "/wait", "/"}
	for ; len(script) >= 2; script = script[2:] {
		what, arg := script[0], uint32(script[1])
		stream, end := 1+arg&0x1e, arg&1 != 0
		block.Reset()
		switch what % 16 {
		case 0, 1, 2:
			pairs := of("POST", paths[what/16%4])
			for i := 0; i < len(pairs); i += 2 {
				_ = enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
			}
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: end, EndHeaders: what < 0xf0})
		case 3:
			_ = enc.WriteField(hpack.HeaderField{Name: "x-trailer", Value: "1"})
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndStream: end, EndHeaders: true})
		case 4, 5, 6:
			_ = f.WriteData(stream, end, make([]byte, int(what/16)*1000))
		case 7:
			_ = f.WriteRSTStream(stream, http2.ErrCode(what/16))
		case 8:
			_ = f.WriteWindowUpdate(stream, 1<<(what/16))
		case 9:
			_ = f.WriteWindowUpdate(0, 1<<(what/16))
		case 10:
			_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: arg << (what / 16)})
		case 11:
			_ = f.WritePing(end, [8]byte{what})
		case 12:
			_ = f.WritePriority(stream, http2.PriorityParam{StreamDep: arg})
		case 13:
			_ = f.WriteContinuation(stream, end, []byte{0x82})
		case 14:
			_ = f.WriteGoAway(0, 0, nil)
		case 15:
			out.WriteByte(byte(arg))
		}
	}
	return out.Bytes()
}

// For frames in any order: nothing panics, the limit of streams holds, and all
// goroutines end with the connection.
func FuzzFrames(f *testing.F) {
	for _, s := range []string{"\x00\x01", "\x00\x00\x44\x01", "\x10\x01\x10\x03\x08\x00\x08\x02", "\x20\x00\x07\x00\x44\x00", "\x00\x00\x03\x01", "\x10\x05\x0a\x00\x78\x04",
		"\x00\x00\x54\x00\x54\x00\x54\x01\x09\x00", "\x20\x01\x20\x03\x20\x05\x0e\x00", "\xf0\x01\x0d\x01"} {
		f.Add([]byte(s))
	}
	var log bytes.Buffer
	var running, most atomic.Int64
	budget := &serve.Budget{Log: slog.New(slog.DiscardHandler)}
	s := &serve.Server{H2C: true, Budget: budget, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelError})),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			most.Store(max(most.Load(), running.Add(1)))
			defer running.Add(-1)
			switch q.URL.Path {
			case "/echo":
				_, _ = io.Copy(w, q.Body)
			case "/large":
				_, _ = w.Write(make([]byte, 200<<10))
			case "/wait":
				<-q.Context().Done()
			}
		})}
	ln := newPipes()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	f.Cleanup(func() {
		cancel()
		<-done
	})
	f.Fuzz(func(t *testing.T, script []byte) {
		c := ln.dial()
		read := make(chan struct{})
		go func() {
			defer close(read)
			_, _ = io.Copy(io.Discard, c)
		}()
		_, _ = io.WriteString(c, http2.ClientPreface+"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		_, _ = c.Write(frames(script[:min(len(script), 400)]))
		c.Close()
		<-read
		proxytest.Eventually(t, "everything to end", func() bool { return budget.Describe().Listeners[0].Open == 0 && running.Load() == 0 })
		if most.Load() > 250 || log.Len() > 0 {
			t.Fatalf("%d streams ran; %s", most.Load(), log.String())
		}
	})
}
