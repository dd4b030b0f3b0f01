package reload

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/hostproxy/hostproxy"
)

// maxSettle limits the wait for a file that keeps changing, in multiples of
// Settle.
const maxSettle = 10

// A fingerprint has the state of files; nil for a missing one.
type fingerprint map[string]fs.FileInfo

// stamp returns the current state of the file, following symbolic links.
func stamp(path string) fs.FileInfo {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return info
}

// same reports whether the files have not changed.
func (f fingerprint) same() bool {
	for path, was := range f {
		now := stamp(path)
		if (was == nil) != (now == nil) {
			return false
		}
		if was != nil && (!os.SameFile(was, now) || was.Size() != now.Size() || !was.ModTime().Equal(now.ModTime()) || was.Mode() != now.Mode()) {
			return false
		}
	}
	return true
}

// dirs returns the directories to watch: those of the files, and those of each
// symbolic link on the way to them. Editors and Kubernetes replace a file or a
// link, which a watch on the file itself does not show.
func (f fingerprint) dirs() map[string]bool {
	all := map[string]bool{}
	for path := range f {
		if path, err := filepath.Abs(path); err == nil {
			chain(path, all, 40)
		}
	}
	return all
}

// chain adds the directories to watch for an absolute path. It follows at most
// n links.
func chain(path string, all map[string]bool, n int) {
	dir := string(filepath.Separator)
	if v := filepath.VolumeName(path); v != "" {
		dir = v + dir
	}
	rest := path[len(dir):]
	for rest != "" {
		var name string
		if i := indexSeparator(rest); i >= 0 {
			name, rest = rest[:i], rest[i+1:]
		} else {
			name, rest = rest, ""
		}
		if name == "" {
			continue
		}
		next := filepath.Join(dir, name)
		target, err := os.Readlink(next)
		switch {
		case err == nil && n > 0:
			all[dir] = true
			if !filepath.IsAbs(target) {
				target = filepath.Join(dir, target)
			}
			chain(filepath.Join(target, rest), all, n-1)
			return
		case rest == "":
			all[dir] = true
		default:
			if _, err := os.Stat(next); err != nil { // the directory is gone, but may come back
				all[dir] = true
				return
			}
		}
		dir = next
	}
}

func indexSeparator(s string) int {
	for i := range len(s) {
		if os.IsPathSeparator(s[i]) {
			return i
		}
	}
	return -1
}

// A watcher waits for changes of files.
type watcher struct {
	*serving
	system  *fsnotify.Watcher // nil if the system does not report changes
	watched map[string]bool
	settle  *time.Timer
	waiting bool
	since   time.Time // begin of the burst that settle is for
}

// watch reloads the file when it has changed, and at each signal from hup,
// until ctx is done.
func (s *serving) watch(ctx context.Context, hup <-chan os.Signal) {
	w := &watcher{serving: s, watched: map[string]bool{}, settle: time.NewTimer(time.Hour)}
	defer w.settle.Stop()
	var events chan fsnotify.Event
	var errs chan error
	system, err := fsnotify.NewWatcher()
	if err != nil {
		s.logs.logger.Warn("changes of files are noticed late: the system reports none; raise fs.inotify.max_user_instances", "every", s.p.poll(), "error", err)
	} else {
		defer system.Close()
		w.system, events, errs = system, system.Events, system.Errors
	}
	w.polled()
	w.changed() // it may have changed before
	poll := time.NewTicker(s.p.poll())
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			w.signaled()
		case <-events:
			w.changed()
		case err := <-errs:
			s.logs.logger.Warn("some changes of files were not reported; looking at them now", "error", err)
			w.changed()
		case <-w.settle.C:
			w.waiting = false
			w.look()
		case <-poll.C:
			w.polled()
		}
	}
}

// changed starts or extends the wait for the end of a burst.
func (w *watcher) changed() {
	if !w.waiting {
		w.waiting, w.since = true, time.Now()
	}
	if time.Since(w.since) < maxSettle*w.p.settle() {
		w.settle.Reset(w.p.settle())
	}
}

// polled checks for changes that the system has not reported.
func (w *watcher) polled() {
	w.p.mu.Lock()
	w.follow()
	same := w.looked.same()
	w.p.mu.Unlock()
	if !w.waiting && !same {
		w.changed()
	}
}

// look reloads the configuration if one of the files has changed.
func (w *watcher) look() {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	if !w.looked.same() {
		_ = w.reload() // reload logs its error
		w.follow()
	}
}

// signaled reloads the file even if it has not changed, and reports this to the
// service manager.
func (w *watcher) signaled() {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	err := hostproxy.Notify("RELOADING=1")
	status := "STATUS=configuration in force"
	if w.reload() != nil {
		status = "STATUS=configuration refused; the old one stays in force"
	}
	if err = errors.Join(err, hostproxy.Notify("READY=1\n"+status)); err != nil {
		w.logs.logger.Warn("the service manager was not told", "error", err)
	}
	w.follow()
}

// follow watches the current set of directories. The poll covers those that
// cannot be watched.
func (w *watcher) follow() {
	if w.system == nil {
		return
	}
	dirs := w.looked.dirs()
	for dir := range w.watched {
		if !dirs[dir] {
			_ = w.system.Remove(dir) // fails if the directory is gone
			delete(w.watched, dir)
		}
	}
	for dir := range dirs {
		// repeated, since it may be another directory by now
		if err := w.system.Add(dir); err == nil {
			w.watched[dir] = true
		}
	}
}

func (p *Proxy) settle() time.Duration {
	if p.Settle > 0 {
		return p.Settle
	}
	return 200 * time.Millisecond
}

func (p *Proxy) poll() time.Duration {
	if p.Poll > 0 {
		return p.Poll
	}
	return 10 * time.Second
}
