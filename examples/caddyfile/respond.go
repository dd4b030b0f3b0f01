package caddyfile

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// in wraps a handler that answers by itself. It ignores next.
func in(h http.Handler) func(http.Handler) http.Handler {
	return func(http.Handler) http.Handler { return h }
}

func (t *translator) redir(d directive, _ *scope) func(http.Handler) http.Handler {
	t.noBlock(d)
	args := d.args()
	if len(args) < 1 || len(args) > 2 {
		t.fault(d.place, "redir", "want a URL or path, and a status if need be; a path as the only argument is read as a matcher: write redir * /path")
		return nil
	}
	r := &site.Redirect{To: t.text(args[0], "redir")}
	if len(args) == 2 {
		r.Status = t.redirStatus(args[1])
	}
	return in(r)
}

// redirStatus reads the status of a redirect; 0 means the default.
func (t *translator) redirStatus(a token) int {
	switch a.text {
	case "permanent":
		return http.StatusMovedPermanently
	case "temporary":
		return 0
	case "html":
		t.fault(a.place, "redir", "not supported: a redirect by an HTML page; write a status such as permanent or 302")
		return 0
	}
	n, err := strconv.Atoi(a.text)
	if err != nil || (n < 300 || n > 399) && n != http.StatusUnauthorized {
		t.fault(a.place, "redir", "%q is not a status for a redirect: want permanent (301), temporary (302), or a number from 300 to 399", a.text)
	}
	return n
}

func (t *translator) respond(d directive, _ *scope) func(http.Handler) http.Handler {
	args := d.args()
	r := &site.Respond{}
	switch {
	case len(args) == 0:
		t.fault(d.place, "respond", "want a body, a status, or both; a path as the only argument is read as a matcher: write respond * /path")
	case len(args) > 2:
		t.fault(args[2].place, "respond", "want a body and a status: %q is too much; write a body with spaces in quotes", args[2].text)
	case len(args) == 1 && isStatus(args[0]):
		r.Status = t.status0(args[0], "respond")
	case len(args) == 1:
		r.Body = t.text(args[0], "respond")
	case len(args) == 2:
		r.Body, r.Status = t.text(args[0], "respond"), t.status0(args[1], "respond")
	}
	for _, line := range d.block {
		switch a := line.args(); {
		case line.name() == "body" && len(a) == 1 && r.Body == "":
			r.Body = t.text(a[0], "body")
		case line.name() == "close" && len(a) == 0:
			r.Close = true
		default:
			t.fault(line.place, line.name(), "want body with one argument, once, or close")
		}
	}
	return in(r)
}

// isStatus reports whether the only argument of respond is a status.
func isStatus(a token) bool {
	_, err := strconv.Atoi(a.text)
	return err == nil && len(a.text) == 3
}

// status0 reads the status of a response.
func (t *translator) status0(a token, word string) int {
	n, err := strconv.Atoi(a.text)
	if err != nil || n < 200 || n > 599 {
		t.fault(a.place, word, "%q is not the status of a response: want a number from 200 to 599", a.text)
	}
	return n
}

// status translates the directive error.
func (t *translator) status(d directive, _ *scope) func(http.Handler) http.Handler {
	t.noBlock(d)
	args := d.args()
	r := site.Fail{Status: http.StatusInternalServerError}
	switch {
	case len(args) == 1 && isStatus(args[0]):
		r.Status = t.status0(args[0], "error")
	case len(args) == 2:
		r.Status = t.status0(args[1], "error")
	case len(args) > 2:
		t.fault(args[2].place, "error", "want a message and a status: %q is too much", args[2].text)
	}
	return in(r)
}

func (t *translator) abort(d directive, _ *scope) func(http.Handler) http.Handler {
	t.none(d)
	return in(site.Abort{})
}

func (t *translator) rewrite(d directive, _ *scope) func(http.Handler) http.Handler {
	a, ok := t.one(d)
	if !ok {
		return nil
	}
	to := t.text(a, "rewrite")
	if strings.Contains(to, "#") {
		t.fault(a.place, "rewrite", "a fragment (#) never reaches a server: delete it")
	}
	if to == "" {
		t.fault(a.place, "rewrite", "want a path, a query, or both")
	}
	return func(next http.Handler) http.Handler { return &site.Rewrite{To: to, Next: next} }
}

func (t *translator) uri(d directive, _ *scope) func(http.Handler) http.Handler {
	args := d.args()
	if len(args) < 2 || d.open {
		t.fault(d.place, "uri", "want strip_prefix, strip_suffix or replace, with arguments on the line")
		return nil
	}
	r := site.Rewrite{}
	switch op, v := args[0].text, t.literal(args[1], "uri"); {
	case op == "strip_prefix" && len(args) == 2:
		if r.StripPrefix = v; !strings.HasPrefix(v, "/") {
			r.StripPrefix = "/" + v
		}
	case op == "strip_suffix" && len(args) == 2:
		r.StripSuffix = v
	case op == "replace" && len(args) >= 3 && len(args) <= 4 && v != "":
		re := site.Replace{Find: v, With: t.text(args[2], "uri")}
		if len(args) == 4 {
			re.Limit = t.number(directive{place: args[3].place, words: []token{args[0], args[3]}}, 0)
		}
		r.Replace = []site.Replace{re}
	case op == "path_regexp" || op == "query":
		t.fault(args[0].place, "uri", "not supported: %s; change the URL in Upstream.Rewrite in the program that -go prints", op)
		return nil
	default:
		t.fault(args[0].place, "uri", "want strip_prefix PREFIX, strip_suffix SUFFIX, or replace FIND WITH [LIMIT]")
		return nil
	}
	return func(next http.Handler) http.Handler {
		h := r
		h.Next = next
		return &h
	}
}

func (t *translator) tryFiles(d directive, _ *scope) func(http.Handler) http.Handler {
	var files []string
	if len(d.args()) == 0 {
		t.fault(d.place, "try_files", "want files, such as {path} /index.html")
	}
	for i, a := range d.args() {
		f := t.text(a, "try_files")
		switch code, isCode := strings.CutPrefix(f, "="); {
		case strings.HasPrefix(f, "@"):
			t.fault(a.place, "try_files", "not supported: a matcher; write try_files in a handle block with the matcher")
		case isCode && i < len(d.args())-1:
			t.fault(a.place, "try_files", "%q must be the last argument", f)
		case isCode:
			t.status0(token{place: a.place, text: code}, "try_files")
		case strings.ContainsAny(f, "*["):
			t.fault(a.place, "try_files", "not supported: a pattern of files")
		}
		files = append(files, f)
	}
	for _, line := range d.block {
		if line.name() != "policy" || len(line.args()) != 1 || line.args()[0].text != "first_exist" {
			t.fault(line.place, line.name(), "not supported: the first file that exists is taken (policy first_exist)")
		}
	}
	return func(next http.Handler) http.Handler { return &site.TryFiles{Files: files, Next: next} }
}

func (t *translator) root(d directive, _ *scope) func(http.Handler) http.Handler {
	a, ok := t.one(d)
	if !ok {
		return nil
	}
	dir := t.text(a, "root")
	return func(next http.Handler) http.Handler { return &site.Root{Dir: dir, Next: next} }
}

func (t *translator) fileServer(d directive, sc *scope) func(http.Handler) http.Handler {
	f := &site.Files{Hide: []string{"./" + sc.site.at.file}}
	if strings.HasPrefix(sc.site.at.file, "/") {
		f.Hide[0] = sc.site.at.file
	}
	for _, a := range d.args() {
		if a.text == "browse" {
			t.fault(a.place, "file_server", "not supported: browse; use http.FileServer in the program that -go prints")
			continue
		}
		t.fault(a.place, "file_server", "want a matcher and options in a block: %q is too much", a.text)
	}
	t.once(d.block, "index", "hide")
	for _, line := range d.block {
		switch line.name() {
		case "root":
			if a, ok := t.one(line); ok {
				f.Root = t.text(a, "root")
			}
		case "index":
			for _, a := range t.some(line) {
				f.Index = append(f.Index, t.literal(a, "index"))
			}
		case "hide":
			for _, a := range t.some(line) {
				f.Hide = append(f.Hide, t.literal(a, "hide"))
			}
		default:
			t.fault(line.place, line.name(), "not supported: of the options of file_server, root, index and hide are; for others use http.FileServer in the program that -go prints")
		}
	}
	return in(f)
}
