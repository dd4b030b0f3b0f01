package site

import (
	"cmp"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hostproxy/hostproxy"
)

// An AccessLog writes a line for each request of some routes. Its method
// Observe is for Router.Observe. Requests of other routes are logged only if
// they failed, and not because of the client.
type AccessLog struct {
	Patterns []string // patterns of the routes; nil means all
	Output   string   // "stderr", "stdout", "discard", or the path of a file; "" means stderr
	Text     bool     // lines of key=value pairs; false means JSON
	Level    slog.Level
	Roll     Roll // for files
}

// A Roll limits the size of log files. Older files have their time in their
// name.
type Roll struct {
	Disabled bool
	Size     int64         // maximum size; 0 means 100 MiB
	Keep     int           // number of older files; 0 means 10
	KeepFor  time.Duration // maximum age of older files; 0 means 90 days
}

// Observe returns the function for Router.Observe. It returns an error if a
// file cannot be opened.
func Observe(logs ...*AccessLog) (func(*hostproxy.Exchange), error) {
	var all []func(*hostproxy.Exchange)
	for _, l := range logs {
		w, err := l.open()
		if err != nil {
			return nil, err
		}
		var h slog.Handler = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l.Level})
		if l.Text {
			h = slog.NewTextHandler(w, &slog.HandlerOptions{Level: l.Level})
		}
		all = append(all, hostproxy.AccessLog(slog.New(h)))
	}
	failed := hostproxy.AccessLog(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	return func(x *hostproxy.Exchange) {
		logged := false
		for i, l := range logs {
			if l.Patterns == nil || slices.Contains(l.Patterns, x.Pattern) {
				all[i](x)
				logged = true
			}
		}
		if e, ok := x.Err.(*hostproxy.Error); ok && !logged && e.Side != hostproxy.SideClient {
			failed(x)
		}
	}, nil
}

// open opens the output.
func (l *AccessLog) open() (io.Writer, error) {
	switch l.Output {
	case "", "stderr":
		return os.Stderr, nil
	case "stdout":
		return os.Stdout, nil
	case "discard":
		return io.Discard, nil
	}
	f := &rollingFile{name: l.Output, roll: l.Roll}
	return f, f.open()
}

// A rollingFile is a log file that is renamed when it is full.
type rollingFile struct {
	name string
	roll Roll

	mu   sync.Mutex
	file *os.File
	info os.FileInfo // of file, taken when it was opened
}

// open opens the file and creates its directory.
func (f *rollingFile) open() error {
	if err := os.MkdirAll(filepath.Dir(f.name), 0o755); err != nil {
		return fmt.Errorf("log directory: %w", err)
	}
	file, err := os.OpenFile(f.name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		file.Close()
		return fmt.Errorf("log file: %w", err)
	}
	f.file, f.info = file, info
	return nil
}

// Write appends a line. If the file is full, it goes to a new one. If another
// log or a program such as logrotate has renamed the file, it is created again.
func (f *rollingFile) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	info, err := os.Stat(f.name)
	if f.file != nil && (err != nil || !os.SameFile(info, f.info)) {
		f.file.Close()
		f.file = nil
	}
	if f.file != nil && !f.roll.Disabled && info.Size() > 0 && info.Size()+int64(len(b)) > cmp.Or(f.roll.Size, 100<<20) {
		if err := f.rotate(); err != nil {
			return 0, err
		}
	}
	if f.file == nil {
		if err := f.open(); err != nil {
			return 0, err
		}
	}
	return f.file.Write(b)
}

// rotate renames the file, removes the oldest ones, and opens a new one.
func (f *rollingFile) rotate() error {
	f.file.Close()
	f.file = nil
	ext := filepath.Ext(f.name)
	stem := strings.TrimSuffix(f.name, ext)
	if err := os.Rename(f.name, stem+"-"+time.Now().UTC().Format("2006-01-02T15-04-05.000000000")+ext); err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	older, err := filepath.Glob(stem + "-[0-9]*" + ext)
	if err != nil {
		return fmt.Errorf("log file: %w", err)
	}
	slices.Sort(older)
	slices.Reverse(older)
	oldest := time.Now().Add(-cmp.Or(f.roll.KeepFor, 90*24*time.Hour))
	for i, name := range older {
		info, err := os.Stat(name)
		if i >= cmp.Or(f.roll.Keep, 10) || err == nil && info.ModTime().Before(oldest) {
			os.Remove(name)
		}
	}
	return f.open()
}
