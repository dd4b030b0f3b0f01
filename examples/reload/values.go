package reload

import (
	"encoding"
	"fmt"
	"io/fs"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// A field is a key and the field that it sets.
type field struct {
	key   string
	index []int
	tag   reflect.StructTag
}

// fieldsOf returns the fields of t in order. Fields of an inline structure
// count as fields of t.
func fieldsOf(t reflect.Type) (all []field) {
	for i := range t.NumField() {
		f := t.Field(i)
		key := f.Tag.Get("key")
		if key == ",inline" {
			for _, below := range fieldsOf(f.Type) {
				all = append(all, field{below.key, append([]int{i}, below.index...), below.tag})
			}
			continue
		}
		if key == "" {
			key = snake(f.Name)
		}
		all = append(all, field{key, []int{i}, f.Tag})
	}
	return all
}

// snake turns a field's name into its key: MaxConnsPerClient is
// max_conns_per_client, CAFiles is ca_files.
func snake(name string) string {
	var b strings.Builder
	rs := []rune(name)
	upper := func(i int) bool { return i >= 0 && i < len(rs) && (unicode.IsUpper(rs[i]) || unicode.IsDigit(rs[i])) }
	for i, r := range rs {
		if upper(i) && i > 0 && (!upper(i-1) || i+1 < len(rs) && !upper(i+1)) && !(i == 1 && upper(0) && i+1 < len(rs) && upper(i+1)) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// A kind is a way to write a value.
type kind int

const (
	scalar kind = iota
	list
	mapping
	structure
)

func kindOf(v reflect.Value) kind {
	if _, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return scalar
	}
	switch v.Kind() {
	case reflect.Slice:
		return list
	case reflect.Map:
		return mapping
	case reflect.Struct:
		return structure
	}
	return scalar
}

// readScalar sets v from s. It returns the rule that s breaks, or "".
func readScalar(s string, v reflect.Value, tag reflect.StructTag) (rule string) {
	switch x := v.Addr().Interface().(type) {
	case *netip.Prefix:
		*x, rule = prefix(s)
		return rule
	case encoding.TextUnmarshaler:
		if x.UnmarshalText([]byte(s)) != nil || s == "" {
			return "want an IP address, such as 203.0.113.7 or 2001:db8::7"
		}
		return ""
	case *fs.FileMode:
		n, err := strconv.ParseUint(s, 8, 32)
		if err != nil || n == 0 || n > 0o777 {
			return "want a file mode in octal, such as 0660"
		}
		*x = fs.FileMode(n)
		return ""
	}
	switch v.Kind() {
	case reflect.String:
		return readString(s, v, tag.Get("one"))
	case reflect.Bool:
		if s != "true" && s != "false" {
			return "want true or false"
		}
		v.SetBool(s == "true")
		return ""
	}
	return readNumber(s, v, tag.Get("is"))
}

// readString sets v to s. If there are words, s must be one of them. The first
// word is the default and sets "".
func readString(s string, v reflect.Value, words string) string {
	one := strings.Fields(words)
	for i, w := range one {
		if w == s {
			if i > 0 {
				v.SetString(s)
			}
			return ""
		}
	}
	if len(one) > 0 {
		return "want one of " + strings.Join(one, ", ")
	}
	if strings.ContainsRune(s, 0) {
		return "want a text without a byte of 0"
	}
	v.SetString(s)
	return ""
}

// prefix parses an address prefix. An address alone is a prefix too.
func prefix(s string) (netip.Prefix, string) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if p != p.Masked() {
			return p, fmt.Sprintf("the address has bits behind its prefix: want %v, or the address alone", p.Masked())
		}
		return p, ""
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return netip.Prefix{}, "want an address or a range of addresses, such as 203.0.113.7 or 10.0.0.0/8"
	}
	return netip.PrefixFrom(a, a.BitLen()), ""
}

// readNumber sets v to a number, a duration or a size. is says which values are
// accepted:
//
//	""        0 and up; 0 means none
//	positive  above 0
//	limit     above 0, or off, which is -1
//	grace     0 and up, or off
func readNumber(s string, v reflect.Value, is string) string {
	if s == "off" && (is == "limit" || is == "grace") {
		if v.CanInt() {
			v.SetInt(-1)
		} else {
			v.SetFloat(-1)
		}
		return ""
	}
	n, want := float64(0), ""
	switch v.Interface().(type) {
	case time.Duration:
		d, err := duration(s)
		want = "a duration with a unit, such as 500ms, 30s, 5m or 90d"
		if err != nil {
			return "want " + want
		}
		if 0 < d && d < time.Microsecond {
			return "want a microsecond or more"
		}
		v.SetInt(int64(d))
		n = float64(d)
	case Size:
		size, ok := size(s)
		want = "a size with a unit: B, KB, MB, GB, KiB, MiB or GiB, such as 64KiB"
		if !ok {
			return "want " + want
		}
		v.SetInt(int64(size))
		n = float64(size)
	case float64:
		x, err := strconv.ParseFloat(s, 64)
		want = "a number, such as 0.5"
		if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
			return "want " + want
		}
		v.SetFloat(x + 0) // turns -0 into 0
		n = x
	default:
		i, err := strconv.ParseInt(s, 10, 32)
		want = "a whole number, such as 100"
		if err != nil {
			return "want " + want + ", below 2147483648"
		}
		v.SetInt(i)
		n = float64(i)
	}
	return outside(n, want, is)
}

// outside returns the rule that a number breaks by its sign, or "".
func outside(n float64, want, is string) string {
	off := ""
	if is == "limit" || is == "grace" {
		off = ", or off to disable it"
	}
	switch {
	case n < 0:
		return "negative: want " + want + off
	case n == 0 && (is == "positive" || is == "limit"):
		return "0 would mean the default: leave the key out for that, or write " + want + off
	}
	return ""
}

// duration parses a duration, or a number of days such as 90d.
func duration(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n > 36500 {
			return 0, fmt.Errorf("%q is no number of days", days)
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	return time.ParseDuration(s)
}

// units are the units of sizes. A unit that is the end of another one comes
// later. Read-only.
var units = []struct {
	name string
	size Size
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}

// size parses a size of at most 1 TiB.
func size(s string) (Size, bool) {
	if s == "0" {
		return 0, true
	}
	for _, u := range units {
		if digits, ok := strings.CutSuffix(s, u.name); ok {
			n, err := strconv.ParseUint(strings.TrimSuffix(digits, " "), 10, 40)
			if err != nil || n > uint64(1<<40/u.size) {
				return 0, false
			}
			return Size(n) * u.size, true
		}
	}
	return 0, false
}

// String returns the size in its largest whole unit.
func (s Size) String() string {
	for _, u := range []int{2, 1, 0} {
		if s > 0 && s%units[u].size == 0 {
			return fmt.Sprintf("%d%s", s/units[u].size, units[u].name)
		}
	}
	return fmt.Sprintf("%dB", int64(s))
}
