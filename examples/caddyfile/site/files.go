package site

import (
	"errors"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A Root sets the directory for any Files or TryFiles behind it. Dir may have
// placeholders.
type Root struct {
	Dir  string
	Next http.Handler
}

// ServeHTTP serves q by Next.
func (s *Root) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	dir := Expand(s.Dir, q)
	s.Next.ServeHTTP(w, with(q, func(st *state) { st.root = dir }))
}

// Unwrap returns Next.
func (s *Root) Unwrap() http.Handler { return s.Next }

// A Files serves the files of a directory. It follows links, even out of the
// directory.
type Files struct {
	// Root is the directory. "" means the directory of a Root in front or,
	// without one, the working directory. It may have placeholders.
	Root  string
	Index []string // files to serve for their directory; nil means index.html and index.txt

	// Hide lists files that are not served. An entry with a slash is a path,
	// any other entry a name. A star matches any text.
	Hide []string
}

// ServeHTTP serves the file at q's path. Unless the path was rewritten, a
// directory redirects to its path with a slash at the end, and a file to its
// path without one.
func (s *Files) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.Method != http.MethodGet && q.Method != http.MethodHead && stateOf(q).status == 0 {
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, q, http.StatusMethodNotAllowed)
		return
	}
	root := directory(s.Root, q)
	if strings.ContainsRune(q.URL.Path, 0) {
		fail(w, q, http.StatusBadRequest)
		return
	}
	name := filepath.Join(root, filepath.FromSlash(path.Clean("/"+q.URL.Path)))
	info, index, err := s.find(&name)
	switch {
	case errors.Is(err, fs.ErrPermission):
		fail(w, q, http.StatusForbidden)
	case err != nil || !info.Mode().IsRegular() || s.hidden(name): // a pipe would block
		fail(w, q, http.StatusNotFound)
	case s.redirects(w, q, index):
	default:
		serveFile(w, q, name, info)
	}
}

// find looks up a file. For a directory, it sets name to the directory's index.
func (s *Files) find(name *string) (info fs.FileInfo, index bool, err error) {
	info, err = os.Stat(*name)
	if err != nil || !info.IsDir() {
		return info, false, err
	}
	names := s.Index
	if names == nil {
		names = []string{"index.html", "index.txt"}
	}
	for _, n := range names {
		file := filepath.Join(*name, n)
		if i, err := os.Stat(file); err == nil && !s.hidden(file) {
			*name = file
			return i, true, nil
		}
	}
	return info, false, nil
}

// hidden reports whether a file must not be served.
func (s *Files) hidden(name string) bool {
	whole, err := filepath.Abs(name)
	if err != nil {
		return true
	}
	return slices.ContainsFunc(s.Hide, func(h string) bool {
		if !strings.Contains(h, "/") {
			return slices.ContainsFunc(strings.Split(whole, string(filepath.Separator)), func(part string) bool {
				ok, err := filepath.Match(h, part)
				return ok && err == nil
			})
		}
		h, err := filepath.Abs(h)
		if err != nil {
			return true
		}
		match, _ := filepath.Match(h, whole)
		return match || whole == h || strings.HasPrefix(whole, h+string(filepath.Separator))
	})
}

// redirects sends the client to the canonical path. It reports whether it did.
func (s *Files) redirects(w http.ResponseWriter, q *http.Request, index bool) bool {
	asked := q.URL
	if o := stateOf(q).original; o != nil {
		asked = o
	}
	slash := strings.HasSuffix(asked.Path, "/")
	if path.Base(asked.Path) != path.Base(q.URL.Path) || index == slash {
		return false
	}
	to := &url.URL{Path: strings.TrimRight(asked.Path, "/"), RawQuery: asked.RawQuery}
	if index {
		to.Path += "/"
	}
	for strings.HasPrefix(to.Path, "//") { // a client would take the start of the path for a host
		to.Path = to.Path[1:]
	}
	http.Redirect(w, q, to.String(), http.StatusPermanentRedirect)
	return true
}

// serveFile sends a file, or the range of it that the client requests.
func serveFile(w http.ResponseWriter, q *http.Request, name string, info fs.FileInfo) {
	f, err := os.Open(name)
	if err != nil {
		fail(w, q, http.StatusForbidden)
		return
	}
	defer f.Close()
	h := w.Header()
	h.Add("Vary", "Accept-Encoding")
	if h.Get("Etag") == "" {
		h.Set("Etag", `"`+strconv.FormatInt(info.ModTime().UnixNano(), 36)+strconv.FormatInt(info.Size(), 36)+`"`)
	}
	if h.Get("Content-Type") == "" {
		if t := mime.TypeByExtension(filepath.Ext(name)); t != "" {
			h.Set("Content-Type", t)
		} else {
			h["Content-Type"] = nil // prevents a guess
		}
	}
	if status := stateOf(q).status; status != 0 { // the page of a failure is sent as a whole
		h.Set("Content-Length", strconv.FormatInt(info.Size(), 10))
		w.WriteHeader(status)
		if q.Method != http.MethodHead {
			_, _ = io.CopyN(w, f, info.Size()) // fails if the client has disconnected
		}
		return
	}
	http.ServeContent(w, q, name, info.ModTime(), f)
}

// directory returns the directory of files for q.
func directory(own string, q *http.Request) string {
	if own == "" {
		own = stateOf(q).root
	}
	if own == "" {
		return "."
	}
	return Expand(own, q)
}

// A TryFiles rewrites the path to the first of its files that exists in the
// directory of a Root.
type TryFiles struct {
	// Files are paths, such as {path} or /index.html. They may have
	// placeholders and a query. A slash at the end means a directory. A last
	// element such as =404 answers with that status.
	Files []string
	Next  http.Handler
}

// ServeHTTP passes q to Next, with the path of the file if one exists.
func (s *TryFiles) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	root := directory("", q)
	for _, f := range s.Files {
		if code, ok := strings.CutPrefix(f, "="); ok {
			status, _ := strconv.Atoi(code)
			fail(w, q, status)
			return
		}
		name, query, hasQuery := strings.Cut(f, "?")
		p := path.Clean("/" + Expand(name, q))
		wantDir := strings.HasSuffix(name, "/")
		info, err := os.Stat(filepath.Join(root, filepath.FromSlash(p)))
		if err != nil || strings.ContainsRune(p, 0) || info.IsDir() != wantDir || !wantDir && strings.HasSuffix(Expand(name, q), "/") {
			continue
		}
		if wantDir && p != "/" {
			p += "/"
		}
		u := *q.URL
		u.Path, u.RawPath = p, ""
		if hasQuery {
			u.RawQuery = rewriteQuery(query, q)
		}
		s.Next.ServeHTTP(w, withURL(q, &u))
		return
	}
	s.Next.ServeHTTP(w, q)
}

// Unwrap returns Next.
func (s *TryFiles) Unwrap() http.Handler { return s.Next }
