package caddyfile

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
	"github.com/hostproxy/hostproxy/examples/compress"
)

// A printer writes values as Go expressions. It declares variables for handlers
// that are used more than once, and for Upstreams with settings.
type printer struct {
	plan    *plan
	uses    map[any]int    // how often each handler is used
	names   map[any]string // names of variables
	lines   []string       // declarations of variables
	imports map[string]bool
	count   map[string]int
}

func newPrinter(p *plan) *printer {
	return &printer{plan: p, uses: map[any]int{}, names: map[any]string{}, imports: map[string]bool{}, count: map[string]int{}}
}

// identity returns a key for a handler that is a pointer, and nil for others.
func identity(h http.Handler) any {
	if v := reflect.ValueOf(h); v.Kind() == reflect.Pointer {
		return v.Pointer()
	}
	return nil
}

// children returns the handlers that a handler can call.
func (p *printer) children(h http.Handler) (hs []http.Handler) {
	if c, ok := h.(*compress.Handler); ok {
		if e, ok := p.plan.encoded[c]; ok {
			return []http.Handler{e.next}
		}
		return nil
	}
	v := reflect.Indirect(reflect.ValueOf(h))
	switch {
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			hs = append(hs, v.Index(i).FieldByName("Next").Interface().(http.Handler))
		}
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[hostproxy.Upstream]():
		for i := range v.NumField() {
			if f := v.Field(i); v.Type().Field(i).IsExported() && f.CanInterface() && !f.IsZero() {
				if child, ok := f.Interface().(http.Handler); ok && identity(child) != nil {
					hs = append(hs, child)
				}
			}
		}
	}
	return hs
}

// tally counts the uses of a handler and of those behind it.
func (p *printer) tally(h http.Handler) {
	key := identity(h)
	if key != nil {
		if p.uses[key]++; p.uses[key] > 1 {
			return
		}
	}
	for _, c := range p.children(h) {
		p.tally(c)
	}
}

// handler returns the expression for a handler.
func (p *printer) handler(h http.Handler) string {
	key := identity(h)
	if name, ok := p.names[key]; ok && key != nil {
		return name
	}
	if u, ok := h.(*hostproxy.Upstream); ok {
		return p.upstream(u)
	}
	var text string
	switch c := h.(type) {
	case *compress.Handler:
		e := p.plan.encoded[c]
		text = p.pkg("site") + ".Must(" + p.pkg("compress") + ".New(" + p.handler(e.next) + ", " + p.value(reflect.ValueOf(e.options)) + "))"
	default:
		text = p.value(reflect.ValueOf(h))
	}
	if key == nil || p.uses[key] < 2 {
		return text
	}
	return p.declare(key, "handler", text)
}

// declare declares a variable and returns its name.
func (p *printer) declare(key any, kind, text string) string {
	p.count[kind]++
	name := kind + strconv.Itoa(p.count[kind])
	p.names[key] = name
	p.lines = append(p.lines, name+" := "+text)
	return name
}

// upstream returns the expression for an Upstream. If it has settings, that is
// a variable.
func (p *printer) upstream(u *hostproxy.Upstream) string {
	h := p.plan.hooks[u]
	var quoted []string
	for _, target := range h.targets {
		quoted = append(quoted, strconv.Quote(target))
	}
	text := p.pkg("site") + ".To(" + strings.Join(quoted, ", ") + ")"
	settings := p.settings(u, h)
	if key := identity(u); len(settings) > 0 || p.uses[key] > 1 {
		text = p.declare(key, "upstream", text)
		for _, s := range settings {
			p.lines = append(p.lines, text+"."+s)
		}
	}
	return text
}

// settings returns assignments for the funcs, and for the fields that differ
// from those of site.To.
func (p *printer) settings(u *hostproxy.Upstream, h *hooks) (lines []string) {
	v, base := reflect.ValueOf(u).Elem(), reflect.ValueOf(site.To(h.targets...)).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !f.IsExported() || f.Type.Kind() == reflect.Func || f.Name == "Targets" || f.Name == "TLS" ||
			reflect.DeepEqual(v.Field(i).Interface(), base.Field(i).Interface()) {
			continue
		}
		lines = append(lines, f.Name+" = "+p.value(v.Field(i)))
	}
	if u.TLS != nil {
		lines = append(lines, "TLS = "+p.targetTLS(u, h))
	}
	if h.up != nil {
		lines = append(lines, "Rewrite = "+p.value(reflect.ValueOf(*h.up))+".Rewrite")
	}
	if h.down != nil {
		lines = append(lines, "ModifyResponse = "+p.value(reflect.ValueOf(*h.down))+".ModifyResponse")
	}
	if h.redial != nil {
		lines = append(lines, "Dial = "+p.value(reflect.ValueOf(*h.redial))+".Dial")
	}
	if h.failed {
		lines = append(lines, "ErrorHandler = "+p.pkg("site")+".UpstreamFailed")
	}
	if h.discover != "" {
		lines = append(lines, fmt.Sprintf("Discover = %s.DNSSource(%q, %s)", p.pkg("hostproxy"), h.discover, p.value(reflect.ValueOf(h.refresh))))
	}
	return lines
}

// targetTLS returns the TLS settings of an Upstream.
func (p *printer) targetTLS(u *hostproxy.Upstream, h *hooks) string {
	var fields []string
	if u.TLS.InsecureSkipVerify {
		fields = append(fields, "InsecureSkipVerify: true")
	}
	if u.TLS.ServerName != "" {
		fields = append(fields, fmt.Sprintf("ServerName: %q", u.TLS.ServerName))
	}
	if h.rootCAs != nil {
		fields = append(fields, fmt.Sprintf("RootCAs: %s.Must(site.RootCAs(%s))", p.pkg("site"), quote(h.rootCAs)))
	}
	if h.keys[0] != "" {
		fields = append(fields, fmt.Sprintf("Certificates: []tls.Certificate{%s.Must(tls.LoadX509KeyPair(%q, %q))}", p.pkg("site"), h.keys[0], h.keys[1]))
	}
	return "&" + p.pkg("tls") + ".Config{" + strings.Join(fields, ", ") + "}"
}

func quote(texts []string) string {
	var quoted []string
	for _, s := range texts {
		quoted = append(quoted, strconv.Quote(s))
	}
	return strings.Join(quoted, ", ")
}

// pkg records that a package is used and returns its name.
func (p *printer) pkg(name string) string {
	p.imports[name] = true
	return name
}

// value returns the expression for a value.
func (p *printer) value(v reflect.Value) string {
	if text, ok := p.known(v); ok {
		return text
	}
	switch v.Kind() {
	case reflect.String:
		return strconv.Quote(v.String())
	case reflect.Interface:
		if h, ok := v.Interface().(http.Handler); ok {
			return p.handler(h)
		}
		return p.value(v.Elem())
	case reflect.Pointer:
		if h, ok := v.Interface().(*hostproxy.Upstream); ok {
			return p.handler(h)
		}
		return "&" + p.value(v.Elem())
	case reflect.Struct:
		return p.composite(v, p.fields(v))
	case reflect.Slice:
		var parts []string
		for i := range v.Len() {
			part := p.value(v.Index(i))
			if v.Type().Elem().Kind() == reflect.Struct {
				part = strings.TrimPrefix(part, v.Type().Elem().String())
			}
			if v.Type().Elem().Kind() == reflect.Pointer {
				part = strings.TrimPrefix(part, "&"+v.Type().Elem().Elem().String())
			}
			parts = append(parts, part)
		}
		return p.composite(v, parts)
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return cmp.Compare(a.String(), b.String()) })
		var parts []string
		for _, k := range keys {
			text := p.value(v.MapIndex(k))
			if v.Type().Elem().Kind() != reflect.String {
				text = strings.TrimPrefix(text, v.Type().Elem().String())
			}
			parts = append(parts, strconv.Quote(k.String())+": "+text)
		}
		return p.composite(v, parts)
	}
	return fmt.Sprint(v.Interface())
}

// known returns the expression for a value whose type has a form of its own.
func (p *printer) known(v reflect.Value) (string, bool) {
	switch x := v.Interface().(type) {
	case time.Duration:
		return p.duration(x), true
	case netip.Prefix:
		return fmt.Sprintf("%s.MustParsePrefix(%q)", p.pkg("netip"), x), true
	case *regexp.Regexp:
		return p.pkg("regexp") + ".MustCompile(" + strconv.Quote(x.String()) + ")", true
	case hostproxy.Policy:
		return p.pkg("hostproxy") + "." + []string{"LessBusy", "RoundRobin", "Random", "LeastInFlight", "FirstAvailable", "ConsistentHash"}[x], true
	case slog.Level:
		return p.pkg("slog") + ".Level" + map[slog.Level]string{slog.LevelDebug: "Debug", slog.LevelInfo: "Info", slog.LevelWarn: "Warn", slog.LevelError: "Error"}[x], true
	case tls.ClientAuthType:
		return p.pkg("tls") + "." + x.String(), true
	case []byte:
		return fmt.Sprintf("[]byte(%q)", x), true
	case []int:
		return p.statuses(x), true
	case hostproxy.Role:
		return p.pkg("hostproxy") + "." + map[hostproxy.Role]string{hostproxy.RolePlain: "RolePlain", hostproxy.RoleRedirects: "RoleRedirects"}[x], true
	}
	return "", false
}

// statuses writes a list of statuses as site.Statuses, where most are whole
// classes, or as numbers.
func (p *printer) statuses(codes []int) string {
	var words, numbers []string
	for i := 0; i < len(codes); i++ {
		numbers = append(numbers, strconv.Itoa(codes[i]))
		word := strconv.Itoa(codes[i])
		if codes[i]%100 == 0 && i+99 < len(codes) && codes[i+99] == codes[i]+99 {
			word = word[:1] + "xx"
			i += 99
		}
		words = append(words, word)
	}
	if len(words) == len(codes) {
		return "[]int{" + strings.Join(numbers, ", ") + "}"
	}
	return p.pkg("site") + ".Statuses(" + quote(words) + ")"
}

func (p *printer) duration(d time.Duration) string {
	for _, unit := range []struct {
		d    time.Duration
		name string
	}{{time.Hour, "Hour"}, {time.Minute, "Minute"}, {time.Second, "Second"}, {time.Millisecond, "Millisecond"}} {
		if d > 0 && d%unit.d == 0 {
			if d == unit.d {
				return p.pkg("time") + "." + unit.name
			}
			return fmt.Sprintf("%d * %s.%s", d/unit.d, p.pkg("time"), unit.name)
		}
	}
	return strconv.FormatInt(int64(d), 10)
}

// fields returns the set fields of a struct.
func (p *printer) fields(v reflect.Value) (parts []string) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.IsExported() && f.Type.Kind() != reflect.Func && !v.Field(i).IsZero() {
			parts = append(parts, f.Name+": "+p.value(v.Field(i)))
		}
	}
	return parts
}

// composite returns a composite literal of v's type.
func (p *printer) composite(v reflect.Value, parts []string) string {
	text := p.typeName(v.Type()) + "{" + strings.Join(parts, ", ") + "}"
	if len(text) < 100 && !strings.Contains(text, "\n") {
		return text
	}
	return p.typeName(v.Type()) + "{\n" + strings.Join(parts, ",\n") + ",\n}"
}

// typeName returns the name of a type and records its package.
func (p *printer) typeName(t reflect.Type) string {
	if t.Name() != "" {
		if pkg, _, ok := strings.Cut(t.String(), "."); ok {
			p.pkg(pkg)
		}
		return t.String()
	}
	switch t.Kind() {
	case reflect.Slice:
		return "[]" + p.typeName(t.Elem())
	case reflect.Map:
		return "map[" + p.typeName(t.Key()) + "]" + p.typeName(t.Elem())
	case reflect.Pointer:
		return "*" + p.typeName(t.Elem())
	}
	return t.String()
}
