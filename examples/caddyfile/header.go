package caddyfile

import (
	"net/http"
	"path"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// framing are headers that delimit or route a message. Only the proxy may set
// them. Read-only.
var framing = []string{"Connection", "Upgrade", "Keep-Alive", "Transfer-Encoding", "Content-Length", "Te", "Trailer", "Proxy-Connection", "Expect"}

// header translates changes to responses. Defaults (?Name) are handled
// separately.
func (t *translator) header(d directive, _ *scope) func(http.Handler) http.Handler {
	h := site.Header{}
	lines := d.block
	if len(d.args()) > 0 {
		lines = append([]directive{{place: d.args()[0].place, words: d.args()}}, lines...)
	} else if len(d.block) == 0 {
		t.fault(d.place, "header", "want a header and a value, or a block with one per line")
	}
	for i, line := range lines {
		name := line.name()
		switch {
		case name == "defer" && len(line.words) == 1 && (i > 0 || len(d.args()) == 0):
			h.Deferred = true
		case name == "match" && line.open || name == "match" && len(d.args()) == 0 && len(line.words) > 2:
			t.fault(line.place, name, "not supported: conditions on the response; use Upstream.ModifyResponse in the program that -go prints")
		case len(d.args()) > 0 && i > 0:
			t.fault(line.place, name, "want headers on the line of the directive or in its block, not both")
		default:
			t.headerLine(line, &h)
		}
	}
	outer := h
	outer.Default = nil
	empty := len(outer.Edits.Add)+len(outer.Edits.Set)+len(outer.Edits.Remove)+len(outer.Edits.Replace) == 0
	return func(next http.Handler) http.Handler {
		if h.Default != nil {
			next = &site.Header{Default: h.Default, Next: next}
		}
		if empty {
			return next
		}
		o := outer
		o.Next = next
		return &o
	}
}

// headerLine adds one change of a response.
func (t *translator) headerLine(d directive, h *site.Header) {
	name := d.name()
	if field, ok := strings.CutPrefix(name, "?"); ok {
		if f := t.field(d, field); f != "" && len(d.args()) == 1 && t.noBlock(d) {
			if h.Default == nil {
				h.Default = http.Header{}
			}
			h.Default.Set(f, t.text(d.args()[0], name))
			return
		}
		t.fault(d.place, name, "want a header and one value")
		return
	}
	if field, ok := strings.CutPrefix(name, ">"); ok {
		h.Deferred = true
		d.words = slices.Clone(d.words)
		d.words[0].text = field
	}
	if strings.HasPrefix(name, "-") {
		h.Deferred = true
	}
	t.edit(d, &h.Edits)
}

// field returns the canonical name of a header, or "" if it is invalid.
func (t *translator) field(d directive, name string) string {
	name = strings.TrimSuffix(name, ":")
	valid := name != ""
	for _, r := range name {
		valid = valid && r < 0x7f && r > ' ' && !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	}
	if !valid {
		t.fault(d.place, d.name(), "%q is not the name of a header", name)
		return ""
	}
	return http.CanonicalHeaderKey(name)
}

// edit adds one change: "Name value", "+Name value", "-Name", or "Name regexp
// replacement".
func (t *translator) edit(d directive, e *site.Edits) {
	name, args := d.name(), d.args()
	f := t.field(d, strings.TrimLeft(name, "+-"))
	if f == "" || !t.noBlock(d) {
		return
	}
	if slices.Contains(framing, f) {
		t.fault(d.place, name, "the proxy sets this header itself: delete the line. WebSockets work without it")
		return
	}
	if strings.Contains(strings.Trim(f, "*"), "*") || strings.Contains(f, "*") && name[0] != '-' {
		t.fault(d.place, name, "a star may stand at the start or end of the name of a header that is removed, as in -X-*")
		return
	}
	switch {
	case name[0] == '-' && len(args) == 0:
		e.Remove = append(e.Remove, strings.TrimPrefix(name, "-"))
	case name[0] == '-':
		t.fault(args[0].place, name, "want no value for a header that is removed")
	case len(args) > 2:
		t.fault(args[2].place, name, "want a value, or a regular expression and its replacement: %q is too much; write a value with spaces in quotes", args[2].text)
	case len(args) == 2 && name[0] != '+':
		e.Replace = append(e.Replace, site.ReplaceValue{Field: f, Find: t.expr(args[0], name), With: t.text(args[1], name)})
	case len(args) != 1:
		t.fault(d.place, name, "want a value")
	case name[0] == '+':
		if e.Add == nil {
			e.Add = http.Header{}
		}
		e.Add.Add(f, t.text(args[0], name))
	default:
		if e.Set == nil {
			e.Set = http.Header{}
		}
		e.Set.Set(f, t.text(args[0], name))
	}
}

func (t *translator) requestHeader(d directive, _ *scope) func(http.Handler) http.Handler {
	if len(d.args()) == 0 {
		t.fault(d.place, "request_header", "want a header and a value")
		return nil
	}
	t.noBlock(d)
	var e site.Edits
	t.edit(directive{place: d.args()[0].place, words: d.args()}, &e)
	if e.Set["Host"] != nil || e.Add["Host"] != nil || slices.ContainsFunc(e.Remove, holdsHost) ||
		slices.ContainsFunc(e.Replace, func(r site.ReplaceValue) bool { return r.Field == "Host" }) {
		t.fault(d.place, "request_header", "not supported: the Host header here; write header_up Host in reverse_proxy")
	}
	return func(next http.Handler) http.Handler { return &site.RequestHeader{Edits: e, Next: next} }
}

// holdsHost reports whether a header to remove, such as X-*, is or includes
// Host.
func holdsHost(name string) bool {
	ok, err := path.Match(strings.ToLower(strings.TrimSuffix(name, ":")), "host")
	return ok && err == nil
}
