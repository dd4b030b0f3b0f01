package hostproxy_test

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing/fstest"

	"github.com/hostproxy/hostproxy"
)

// A noList is a file system whose directories have an index.html or do not
// exist: http.FileServer would list the others.
type noList struct{ fs.FS }

func (n noList) Open(name string) (fs.File, error) {
	f, err := n.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if s, err := f.Stat(); err == nil && s.IsDir() {
		if _, err := fs.Stat(n.FS, path.Join(name, "index.html")); err != nil {
			f.Close()
			return nil, fs.ErrNotExist
		}
	}
	return f, nil
}

// A handler of net/http is a route like any other: it gets a certificate, and
// is in the access log. http.FileServer answers Range and If-Modified-Since,
// and redirects /docs to /docs/.
func Example_staticFiles() {
	files := fstest.MapFS{ // your program: os.DirFS("/srv/www"), or an embed.FS
		"index.html":      {Data: []byte("home")},
		"docs/index.html": {Data: []byte("the docs")},
		"img/logo.svg":    {Data: []byte("<svg/>")},
	}
	var r hostproxy.Router
	r.Handle("www.example.com", http.FileServerFS(noList{files}))
	for _, p := range []string{"/", "/docs/", "/img/logo.svg", "/img/", "/nothing"} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest("GET", "https://www.example.com"+p, nil))
		fmt.Println(w.Code, w.Header().Get("Content-Type"), strings.TrimSpace(w.Body.String()))
	}
	// Output:
	// 200 text/html; charset=utf-8 home
	// 200 text/html; charset=utf-8 the docs
	// 200 image/svg+xml <svg/>
	// 404 text/plain; charset=utf-8 404 page not found
	// 404 text/plain; charset=utf-8 404 page not found
}
