package certs

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// levelTrace is below slog.LevelDebug: it is for certmagic's debug records.
const levelTrace = slog.LevelDebug - 4

// returned names the loggers of certmagic whose errors are also returned as
// error values. The Manager logs those, once. Read-only.
var returned = []string{"obtain", "renew", ".acme_client"}

// A bridge is a zapcore.Core that writes to a slog.Handler, so that certmagic,
// which uses zap, logs to the same place as everything else. certmagic's
// records are details here and arrive two levels lower; its errors arrive as
// warnings.
type bridge struct{ handler slog.Handler }

// newZap returns a logger for certmagic over l.
func newZap(l *slog.Logger) *zap.Logger {
	return zap.New(bridge{l.Handler()})
}

// Enabled implements zapcore.Core.
func (b bridge) Enabled(l zapcore.Level) bool {
	return b.handler.Enabled(context.Background(), slogLevel(l, ""))
}

// With implements zapcore.Core.
func (b bridge) With(fields []zapcore.Field) zapcore.Core {
	return bridge{b.handler.WithAttrs(attrs(fields))}
}

// Check implements zapcore.Core.
func (b bridge) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.handler.Enabled(context.Background(), slogLevel(e.Level, e.LoggerName)) {
		return c.AddCore(e, b)
	}
	return c
}

// Write implements zapcore.Core.
func (b bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	r := slog.NewRecord(e.Time, slogLevel(e.Level, e.LoggerName), e.Message, 0)
	r.AddAttrs(slog.String("engine", "certmagic"))
	r.AddAttrs(attrs(fields)...)
	return b.handler.Handle(context.Background(), r)
}

// Sync implements zapcore.Core.
func (bridge) Sync() error { return nil }

func slogLevel(l zapcore.Level, logger string) slog.Level {
	switch {
	case l < zapcore.InfoLevel:
		return levelTrace
	case l < zapcore.ErrorLevel, l == zapcore.ErrorLevel && slices.Contains(returned, logger):
		return slog.LevelDebug
	case l == zapcore.ErrorLevel:
		return slog.LevelWarn
	}
	return slog.LevelError
}

func attrs(fields []zapcore.Field) []slog.Attr {
	as := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		enc := zapcore.NewMapObjectEncoder()
		f.AddTo(enc)
		as = append(as, members(enc.Fields)...)
	}
	return as
}

// members returns the attributes of an object, sorted by key. Nested objects
// become groups, since a map would be logged as a dump; empty values are
// omitted.
func members(object map[string]any) []slog.Attr {
	as := make([]slog.Attr, 0, len(object))
	for _, k := range slices.Sorted(maps.Keys(object)) {
		switch v := object[k].(type) {
		case nil:
		case string:
			if v != "" {
				as = append(as, slog.String(k, v))
			}
		case map[string]any:
			as = append(as, slog.Attr{Key: k, Value: slog.GroupValue(members(v)...)})
		case []any:
			as = append(as, elements(k, v)...)
		default:
			as = append(as, slog.Any(k, v))
		}
	}
	return as
}

// elements returns an array as one attribute, or as a group if it contains
// objects; nil if it is empty.
func elements(key string, array []any) []slog.Attr {
	if len(array) == 0 {
		return nil
	}
	if !slices.ContainsFunc(array, isObject) {
		return []slog.Attr{slog.Any(key, array)}
	}
	byIndex := make(map[string]any, len(array))
	for i, v := range array {
		byIndex[strconv.Itoa(i)] = v
	}
	return []slog.Attr{{Key: key, Value: slog.GroupValue(members(byIndex)...)}}
}

func isObject(v any) bool {
	_, ok := v.(map[string]any)
	return ok
}

// at returns the attribute of a time, and an empty one for the zero time.
func at(key string, t time.Time) slog.Attr {
	if t.IsZero() {
		return slog.Attr{} // handlers omit it
	}
	return slog.Time(key, t)
}
