package reload

import (
	"encoding"
	"fmt"
	"io/fs"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// String returns c as the text of a file, without comments. Parse turns it into
// c again.
func (c *Config) String() string { return text(reflect.ValueOf(c).Elem()) }

// text returns the structure v in the form that a decoder reads. The same
// settings give the same text.
func text(v reflect.Value) string { return newEncoder().text(v) }

// An encoder writes settings. It may be reused.
type encoder struct {
	b      strings.Builder
	fields map[reflect.Type][]field // of the types seen so far
}

func newEncoder() *encoder { return &encoder{fields: map[reflect.Type][]field{}} }

func (e *encoder) text(v reflect.Value) string {
	e.b.Reset()
	e.structure(v, "")
	return e.b.String()
}

// structure writes the fields of v that are set, one key per line.
func (e *encoder) structure(v reflect.Value, indent string) {
	for _, f := range e.set(v) {
		e.b.WriteString(indent + f.key + ":")
		e.value(v.FieldByIndex(f.index), indent+"  ", f.tag)
	}
}

// set returns the set fields of v.
func (e *encoder) set(v reflect.Value) (all []field) {
	fields, ok := e.fields[v.Type()]
	if !ok {
		fields = fieldsOf(v.Type())
		e.fields[v.Type()] = fields
	}
	for _, f := range fields {
		v := v.FieldByIndex(f.index)
		if v.IsZero() || v.Kind() == reflect.Struct && kindOf(v) == structure && len(e.set(v)) == 0 {
			continue
		}
		all = append(all, f)
	}
	return all
}

// value writes v after a key or a dash, and ends the line.
func (e *encoder) value(v reflect.Value, indent string, tag reflect.StructTag) {
	if v = reflect.Indirect(v); !v.CanAddr() {
		c := reflect.New(v.Type()).Elem()
		c.Set(v)
		v = c
	}
	switch kind := kindOf(v); {
	case kind == scalar:
		e.b.WriteString(" " + scalarText(v, tag) + "\n")
	case kind == list && v.Len() == 0:
		e.b.WriteString(" []\n")
	case kind == mapping && v.Len() == 0, kind == structure && len(e.set(v)) == 0:
		e.b.WriteString(" {}\n")
	case kind == list:
		e.b.WriteString("\n")
		for i := range v.Len() {
			e.b.WriteString(indent + "-")
			e.value(v.Index(i), indent+"  ", tag)
		}
	case kind == mapping:
		e.b.WriteString("\n")
		values := map[string]reflect.Value{}
		for key, value := range v.Seq2() {
			values[quote(fmt.Sprint(key))] = value
		}
		for _, key := range slices.Sorted(maps.Keys(values)) {
			e.b.WriteString(indent + key + ":")
			e.value(values[key], indent+"  ", "")
		}
	default:
		e.b.WriteString("\n")
		e.structure(v, indent)
	}
}

// scalarText returns v as it is written in a file.
func scalarText(v reflect.Value, tag reflect.StructTag) string {
	if is := tag.Get("is"); is == "limit" || is == "grace" {
		if v.CanInt() && v.Int() < 0 || v.CanFloat() && v.Float() < 0 {
			return "off"
		}
	}
	switch x := v.Interface().(type) {
	case time.Duration:
		return x.String()
	case fs.FileMode:
		return fmt.Sprintf("0%o", x)
	case encoding.TextMarshaler:
		b, _ := x.MarshalText() // does not fail for an address
		return quote(string(b))
	case float64:
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	return quote(fmt.Sprint(v.Interface()))
}

// bare matches a string that needs no quotes. Read-only.
var bare = regexp.MustCompile(`^[A-Za-z0-9/][A-Za-z0-9./_+-]*(:[0-9]+)?$`)

// quote returns s for YAML: bare if that is safe, otherwise in double quotes,
// in ASCII.
func quote(s string) string {
	if bare.MatchString(s) && !strings.EqualFold(s, "null") {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case ' ' <= r && r <= '~':
			b.WriteRune(r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	return b.String() + `"`
}

// A setting is a setting that differs: its path, and its old and new value.
type setting struct{ path, text string }

// settings adds the set fields of v to all, by path.
func (e *encoder) settings(v reflect.Value, path string, tag reflect.StructTag, all map[string]string) {
	if v = reflect.Indirect(v); !v.CanAddr() {
		c := reflect.New(v.Type()).Elem()
		c.Set(v)
		v = c
	}
	switch kindOf(v) {
	case scalar:
		all[path] = scalarText(v, tag)
	case list:
		var items []string
		if v.Len() > 0 && kindOf(v.Index(0)) == structure {
			for i := range v.Len() {
				e.settings(v.Index(i), fmt.Sprintf("%s[%d]", path, i), tag, all)
			}
			return
		}
		for i := range v.Len() {
			e.b.Reset()
			e.value(v.Index(i), "  ", tag)
			items = append(items, strings.Join(strings.Fields(e.b.String()), " "))
		}
		all[path] = "[" + strings.Join(items, ", ") + "]"
	case mapping:
		for key, value := range v.Seq2() {
			e.settings(value, within(path, fmt.Sprint(key)), "", all)
		}
	default:
		set := e.set(v)
		if len(set) == 0 && path != "" {
			all[path] = "{}"
		}
		for _, f := range set {
			e.settings(v.FieldByIndex(f.index), join(path, f.key), f.tag, all)
		}
	}
}

// changed returns the settings that differ between two structures of one type,
// sorted by path.
func changed(from, to any) []setting {
	e, old, next := newEncoder(), map[string]string{}, map[string]string{}
	e.settings(reflect.ValueOf(from), "", "", old)
	e.settings(reflect.ValueOf(to), "", "", next)
	var all []setting
	for path, text := range next {
		if was, ok := old[path]; !ok {
			all = append(all, setting{path, "(none) -> " + text})
		} else if was != text {
			all = append(all, setting{path, was + " -> " + text})
		}
	}
	for path, text := range old {
		if _, ok := next[path]; !ok {
			all = append(all, setting{path, text + " -> (none)"})
		}
	}
	slices.SortFunc(all, func(a, b setting) int { return strings.Compare(a.path, b.path) })
	return all
}
