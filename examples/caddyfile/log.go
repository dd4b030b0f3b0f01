package caddyfile

import (
	"log/slog"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// log translates the directive log.
func (t *translator) log(d directive, s *siteScope) {
	l := &site.AccessLog{}
	if len(d.args()) > 0 {
		t.fault(d.args()[0].place, "log", "not supported: the name of a logger")
	}
	t.once(d.block)
	for _, line := range d.block {
		args := line.args()
		switch {
		case line.name() == "output" && len(args) > 0:
			t.output(line, l)
		case line.name() == "format" && len(args) == 1 && !line.open:
			switch args[0].text {
			case "json":
			case "console":
				l.Text = true
			default:
				t.fault(args[0].place, "format", "not supported: the format %q; want json or console. Set Router.Observe in the program that -go prints", args[0].text)
			}
		case line.name() == "format" && line.open:
			t.fault(line.place, "format", "not supported: options of a format; set Router.Observe in the program that -go prints")
		case line.name() == "level" && len(args) == 1 && !line.open:
			levels := map[string]slog.Level{"DEBUG": slog.LevelDebug, "INFO": slog.LevelInfo, "WARN": slog.LevelWarn, "ERROR": slog.LevelError}
			level, ok := levels[strings.ToUpper(args[0].text)]
			if !ok {
				t.fault(args[0].place, "level", "want DEBUG, INFO, WARN or ERROR, got %q", args[0].text)
			}
			l.Level = level
		default:
			t.fault(line.place, line.name(), "not supported: of the options of log, output, format and level are, each with an argument; set Router.Observe in the program that -go prints")
		}
	}
	s.logs = append(s.logs, l)
}

// output reads where the log is written.
func (t *translator) output(d directive, l *site.AccessLog) {
	args := d.args()
	switch name := args[0].text; {
	case (name == "stdout" || name == "stderr" || name == "discard") && len(args) == 1 && !d.open:
		l.Output = name
	case name == "file" && len(args) == 2:
		l.Output = t.literal(args[1], "output")
		t.once(d.block)
		for _, line := range d.block {
			t.roll(line, &l.Roll)
		}
	default:
		t.fault(args[0].place, "output", "not supported: %q; want stdout, stderr, discard or file PATH", name)
	}
}

func (t *translator) roll(d directive, r *site.Roll) {
	switch d.name() {
	case "roll_disabled":
		r.Disabled = t.none(d)
	case "roll_size":
		r.Size = t.size(d)
	case "roll_keep":
		r.Keep = t.number(d, 1)
	case "roll_keep_for":
		r.KeepFor = t.positive(d)
	case "roll_uncompressed": // rolled files are never compressed
		t.none(d)
	case "roll_local_time", "mode", "dir_mode", "roll_minutes", "roll_at":
		t.fault(d.place, d.name(), "not supported: times are UTC, files have the mode 0600, and they roll by size")
	default:
		t.fault(d.place, d.name(), "this is not an option of output file: want roll_size, roll_keep, roll_keep_for or roll_disabled")
	}
	if r.KeepFor > 100*365*24*time.Hour {
		t.fault(d.place, d.name(), "more than a century: want less")
	}
}
