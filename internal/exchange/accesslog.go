package exchange

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/netip"
	"sync"
)

// LogTo returns a function that writes one line per exchange to h, from its
// record and its failure. The failure may be nil. The function may be called
// concurrently. The level is Warn if the exchange failed and the client is not
// to blame, and otherwise Info.
func LogTo(h slog.Handler) func(*Record, *Failure) {
	lines := sync.Pool{New: func() any { return new(logLine) }}
	writesAtOnce := false // other handlers may keep the attributes
	switch h.(type) {
	case *slog.JSONHandler, *slog.TextHandler:
		writesAtOnce = true
	}
	return func(x *Record, f *Failure) {
		ctx := context.Background()
		line := lines.Get().(*logLine)
		// A Logger would look up its caller for each line, which is always
		// this function. So the handler is called directly.
		if level := line.fill(x, f); h.Enabled(ctx, level) {
			r := slog.NewRecord(x.Start.Add(x.Duration), level, "exchange", 0)
			// A group without a name is written as its members, and costs no
			// allocation.
			r.AddAttrs(slog.Attr{Value: slog.GroupValue(line.attrs...)})
			_ = h.Handle(ctx, r)
		}
		if writesAtOnce {
			lines.Put(line)
		}
	}
}

// A logLine is the reused memory of one line of the access log.
type logLine struct {
	attrs  []slog.Attr
	client netip.Addr // the next line is often from the same client
	name   string     // client as text
}

func (l *logLine) fill(x *Record, f *Failure) slog.Level {
	if l.client != x.Client || l.name == "" {
		l.client, l.name = x.Client, x.Client.String()
	}
	l.attrs = append(l.attrs[:0],
		slog.String("client", l.name),
		slog.String("method", logged(x.Method)),
		slog.String("scheme", x.Scheme),
		slog.String("host", logged(x.Host)),
		slog.String("path", logged(x.Path)))
	l.add("query", logged(x.Query))
	l.attrs = append(l.attrs,
		slog.String("proto", x.Proto),
		slog.Int("status", x.Status),
		slog.Int64("request_bytes", x.RequestBytes),
		slog.Int64("response_bytes", x.ResponseBytes),
		slog.Duration("duration", x.Duration),
		slog.String("pattern", x.Pattern),
		slog.String("target", x.Target),
		slog.Int("attempts", x.Attempts))
	l.add("request_id", x.RequestID)
	l.add("user", x.User)
	l.add("user_agent", x.UserAgent)
	l.add("referer", x.Referer)
	if x.TLSVersion != 0 {
		l.add("tls", tls.VersionName(x.TLSVersion))
	}
	l.add("server_name", x.ServerName)
	return l.fail(f)
}

// add adds an attribute that is not empty.
func (l *logLine) add(key, value string) {
	if value != "" {
		l.attrs = append(l.attrs, slog.String(key, value))
	}
}

// logged returns s, cut to the length that a line has room for.
func logged(s string) string { return s[:min(len(s), 4<<10)] }

// fail adds the failure of the exchange, if any, and returns the level of the
// line.
func (l *logLine) fail(f *Failure) slog.Level {
	if f == nil {
		return slog.LevelInfo
	}
	l.attrs = append(l.attrs, slog.String("op", f.Op), slog.String("side", string(f.Side)), slog.Any("cause", f.Err))
	if f.Side == SideClient {
		return slog.LevelInfo
	}
	return slog.LevelWarn
}
