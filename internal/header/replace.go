package header

import "net/http"

// A Replacement is a header that replaces the peer's own, in every spelling
// that CGI reads as the same.
type Replacement struct {
	Name, Value string
	Gone        bool // the header is removed
}

// Replaces reports whether one of rs replaces a field of that name.
func Replaces[N Text](rs []Replacement, name N) bool {
	for i := range rs {
		if SameVariable(rs[i].Name, name) {
			return true
		}
	}
	return false
}

// Replace makes the replacements in h.
func Replace(h http.Header, rs []Replacement) {
	for i := range rs {
		r := &rs[i]
		Drop(h, r.Name)
		if !r.Gone {
			h[http.CanonicalHeaderKey(r.Name)] = []string{r.Value}
		}
	}
}
