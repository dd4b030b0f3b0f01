package caddyfile

import (
	"net/http"
	"strings"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
	"github.com/hostproxy/hostproxy/examples/compress"
)

func (t *translator) basicAuth(d directive, sc *scope) func(http.Handler) http.Handler {
	sc.site.auth = true
	auth := hostproxy.BasicAuth{Users: map[string]string{}}
	for i, a := range d.args() {
		switch {
		case i == 0 && a.text != "bcrypt":
			t.fault(a.place, "basic_auth", "not supported: the hash %q; want bcrypt hashes, as htpasswd -nB makes them", a.text)
		case i == 1:
			auth.Realm = t.literal(a, "basic_auth")
		case i > 1:
			t.fault(a.place, "basic_auth", "want bcrypt and a realm, and a block of users: %q is too much", a.text)
		}
	}
	for _, line := range d.block {
		hash, ok := t.one(line)
		switch {
		case !ok:
		case !strings.HasPrefix(hash.text, "$2"):
			t.fault(hash.place, line.name(), "this is not a bcrypt hash, which begins with $2: make one by htpasswd -nB. Never write the password itself")
		case auth.Users[line.name()] != "":
			t.fault(line.place, line.name(), "the user exists already")
		default:
			auth.Users[line.name()] = hash.text
		}
	}
	if len(d.block) == 0 {
		t.fault(d.place, "basic_auth", "want a block with users and hashes, one a line")
	}
	return func(next http.Handler) http.Handler {
		a := hostproxy.BasicAuth{Users: auth.Users, Realm: auth.Realm, Next: next}
		return &a
	}
}

func (t *translator) requestBody(d directive, _ *scope) func(http.Handler) http.Handler {
	for _, a := range d.args() {
		t.fault(a.place, "request_body", "want options in a block, such as max_size 10MB: %q is too much", a.text)
	}
	limit := int64(0)
	t.once(d.block)
	for _, line := range d.block {
		if line.name() != "max_size" {
			t.fault(line.place, line.name(), "not supported: of the options of request_body, max_size is")
			continue
		}
		if limit = t.size(line); limit == 0 {
			t.fault(line.place, "max_size", "want a size above 0")
		}
	}
	if limit == 0 {
		t.fault(d.place, "request_body", "want max_size in a block")
	}
	return func(next http.Handler) http.Handler { return &site.MaxBody{Bytes: limit, Next: next} }
}

// encode translates compression. The minimum length is the same as Caddy's.
func (t *translator) encode(d directive, _ *scope) func(http.Handler) http.Handler {
	o := compress.Options{MinSize: 512}
	formats := map[string]bool{}
	t.once(d.block)
	for _, a := range d.args() {
		t.format(a, formats)
	}
	for _, line := range d.block {
		switch line.name() {
		case "gzip", "zstd":
			if len(line.args()) > 0 {
				t.fault(line.args()[0].place, line.name(), "not supported: a level of compression; delete it")
			}
			t.format(line.words[0], formats)
		case "minimum_length":
			o.MinSize = t.number(line, 1)
		default:
			t.fault(line.place, line.name(), "not supported: of the options of encode, gzip, zstd and minimum_length are; set compress.Options.Compressible in the program that -go prints")
		}
	}
	o.GzipOnly = formats["gzip"] && !formats["zstd"]
	if formats["zstd"] && !formats["gzip"] {
		t.fault(d.place, "encode", "not supported: zstd without gzip; write encode zstd gzip")
	}
	return func(next http.Handler) http.Handler {
		h, err := compress.New(next, o)
		if err != nil {
			t.fault(d.place, "encode", "%v", err)
			return next
		}
		t.plan.encoded[h] = encoded{next, o}
		return h
	}
}

func (t *translator) format(a token, formats map[string]bool) {
	if a.text != "gzip" && a.text != "zstd" {
		t.fault(a.place, "encode", "not supported: the encoding %q; want gzip, zstd or both", a.text)
		return
	}
	if formats[a.text] {
		t.fault(a.place, "encode", "%s is written twice", a.text)
	}
	formats[a.text] = true
}
