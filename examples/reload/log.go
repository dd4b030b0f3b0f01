package reload

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hostproxy/hostproxy"
)

// logs is a logger whose settings can change.
type logs struct {
	mu  sync.Mutex
	out io.Writer // guarded by mu, also during writes
	end func()    // closes out; guarded by mu

	level  slog.LevelVar
	json   atomic.Bool
	access atomic.Pointer[Access] // nil logs only failures
	logger *slog.Logger
	lines  func(*hostproxy.Exchange)
}

func newLogs(w io.Writer) *logs {
	l := &logs{out: w, end: func() {}}
	o := &slog.HandlerOptions{Level: &l.level}
	l.logger = slog.New(either{&l.json, slog.NewTextHandler(l, o), slog.NewJSONHandler(l, o)})
	l.lines = hostproxy.AccessLog(l.logger)
	return l
}

// Write writes a line to the current output.
func (l *logs) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.out.Write(line)
}

// openLog opens the output of c, or returns w if none is set. It does not
// block: a named pipe without a reader is an error. Otherwise a reload would
// hang, and the end of Run with it.
func (f *file) openLog(w io.Writer) (io.Writer, func(), error) {
	if f.Log.Output == "" {
		return w, func() {}, nil
	}
	out, err := os.OpenFile(f.path(f.Log.Output), os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, nil, err
	}
	return out, func() { _ = out.Close() }, nil
}

// set puts the settings in force.
func (l *logs) set(c *Log, out io.Writer, end func()) {
	l.mu.Lock()
	old := l.end
	l.out, l.end = out, end
	l.mu.Unlock()
	old()
	level := slog.LevelInfo
	if c.Level != "" {
		_ = level.UnmarshalText([]byte(c.Level)) // Level is a valid name
	}
	l.level.Set(level)
	l.json.Store(c.Format == "json")
	l.access.Store(c.Access)
}

// close closes the output. Later lines go to w.
func (l *logs) close(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end()
	l.out, l.end = w, func() {}
}

// observe logs an exchange. It is for Router.Observe.
func (l *logs) observe(e *hostproxy.Exchange) {
	a := l.access.Load()
	if a == nil {
		var f *hostproxy.Error
		if e.Err == nil || errors.As(e.Err, &f) && f.Side == hostproxy.SideClient {
			return
		}
		a = &Access{OmitQuery: true, OmitReferer: true}
	}
	c := *e
	if a.OmitQuery {
		c.Query = ""
	}
	if a.OmitReferer {
		c.Referer = ""
	}
	l.lines(&c)
}

// An either is a handler that uses one of two others.
type either struct {
	second *atomic.Bool
	a, b   slog.Handler
}

func (e either) now() slog.Handler {
	if e.second.Load() {
		return e.b
	}
	return e.a
}

// Enabled implements slog.Handler.
func (e either) Enabled(ctx context.Context, l slog.Level) bool { return e.now().Enabled(ctx, l) }

// Handle implements slog.Handler.
func (e either) Handle(ctx context.Context, r slog.Record) error { return e.now().Handle(ctx, r) }

// WithAttrs implements slog.Handler.
func (e either) WithAttrs(as []slog.Attr) slog.Handler {
	return either{e.second, e.a.WithAttrs(as), e.b.WithAttrs(as)}
}

// WithGroup implements slog.Handler.
func (e either) WithGroup(name string) slog.Handler {
	return either{e.second, e.a.WithGroup(name), e.b.WithGroup(name)}
}
