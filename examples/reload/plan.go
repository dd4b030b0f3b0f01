package reload

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/hostproxy/hostproxy"
)

// maxSecret is the maximum size of a file that a configuration names and this
// package reads.
const maxSecret = 1 << 20

// A plan is the contents of a file, checked and ready to be put in force.
type plan struct {
	*file
	routes map[string]http.Handler // for Router.Replace
	// the same, with what the next plan needs in order to keep them
	built     map[string]kept
	leaves    map[string]kept      // innermost handlers that are not upstreams, by pattern
	upstreams map[string]*upstream // by path, such as upstreams[blog]
	hosts     map[string]*hostTLS  // for TLS.Host, by canonical pattern
	tls       hostproxy.TLS        // without hooks
	edit      hostproxy.HeaderEdit // for all responses
}

// A kept is the handler of a route. It is kept if its settings and its
// innermost handler stay the same.
type kept struct {
	key          string
	outer, inner http.Handler
}

// contents holds what was read from a file.
type contents struct {
	text []byte
	err  error
	info fs.FileInfo // taken before reading; nil if the file was missing
}

// A planner makes a plan. It reuses what it can of the old plan, which may be
// nil.
type planner struct {
	*plan
	old    *plan
	encode *encoder
	named  map[string]http.Handler // the values that Handler may name
	used   map[string]bool         // names in Config.Upstreams that something refers to
	faults Faults
}

// newPlan returns the plan for f, or all its faults. It puts nothing in force.
func newPlan(f *file, old *plan, named map[string]http.Handler) (*plan, error) {
	b := &planner{
		plan: &plan{file: f, routes: map[string]http.Handler{},
			built: map[string]kept{}, leaves: map[string]kept{}, upstreams: map[string]*upstream{},
			hosts: map[string]*hostTLS{}},
		old: old, encode: newEncoder(), named: named, used: map[string]bool{},
	}
	if old == nil {
		b.old = new(plan)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Upstreams)) {
		b.upstream(f.Upstreams[name], "upstreams", name)
	}
	b.shares()
	if len(f.Routes) == 0 {
		b.fault([]string{"routes"}, "there is no route: want one at least, such as {app.example.com: localhost:4000}")
	}
	for _, pattern := range slices.Sorted(maps.Keys(f.Routes)) {
		b.route(pattern, f.Routes[pattern])
	}
	for _, name := range slices.Sorted(maps.Keys(f.Upstreams)) {
		if !b.used[name] {
			b.fault([]string{"upstreams", name}, "no route uses it: write \"upstream: %s\" in a route, or remove it", name)
		}
	}
	b.checkRoutes()
	b.checkHosts()
	b.checkListeners()
	b.checkRouter()
	if err := b.all().err(); err != nil {
		return nil, err
	}
	return b.plan, nil
}

// all returns the faults of the plan and those in single values. A section with
// a value that could not be read gets no further faults.
func (b *planner) all() Faults {
	var unread []string // sorted: a wrong kind of file may have a fault in each of 500,000 routes
	for _, f := range b.file.faults {
		unread = append(unread, f.Path)
	}
	slices.Sort(unread)
	return append(slices.DeleteFunc(b.faults, func(f Fault) bool {
		i, _ := slices.BinarySearch(unread, f.Path)
		return i < len(unread) && strings.HasPrefix(unread[i], f.Path)
	}), b.file.faults...)
}

// fault adds a fault at the place of keys.
func (b *planner) fault(keys []string, rule string, args ...any) {
	f := b.locate(keys...)
	f.Rule = fmt.Sprintf(rule, args...)
	b.faults = append(b.faults, f)
}

// goName matches a field as hostproxy's errors name it. Read-only.
var goName = regexp.MustCompile(`[A-Z][A-Za-z0-9]*(\.[A-Z][A-Za-z0-9]*)*`)

// library adds hostproxy's faults in what the structure v at keys has become.
// It replaces the names of v's fields by their keys.
func (b *planner) library(err error, v any, keys ...string) {
	if err == nil {
		return
	}
	known := map[string]bool{}
	for _, f := range fieldsOf(reflect.TypeOf(v)) {
		known[f.key] = true
	}
	for _, err := range split(err) {
		for line := range strings.SplitSeq(err.Error(), "\n") {
			b.libraryFault(line, known, keys)
		}
	}
}

// libraryFault adds a fault at the first field that the rule names and that the
// file has.
func (b *planner) libraryFault(rule string, known map[string]bool, keys []string) {
	for _, prefix := range []string{"hostproxy: ", "TLS: ", `pattern "*": `} {
		rule = strings.TrimPrefix(rule, prefix)
	}
	place := b.locate(keys...)
	at := place
	place.Rule = goName.ReplaceAllStringFunc(rule, func(name string) string {
		parts := strings.Split(name, ".")
		for i := range parts {
			parts[i] = snake(parts[i])
		}
		if !known[parts[0]] {
			return name
		}
		if there := b.locate(append(slices.Clone(keys), parts...)...); place.Path == at.Path && there.Path != at.Path {
			place.Line, place.Column, place.Path = there.Line, there.Column, there.Path
		}
		return strings.Join(parts, ".")
	})
	b.faults = append(b.faults, place)
}

// split returns the errors that err joins.
func split(err error) (all []error) {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	for _, e := range joined.Unwrap() {
		all = append(all, split(e)...)
	}
	return all
}

// path returns the path of a file that the configuration names, relative to the
// configuration's directory.
func (f *file) path(name File) string {
	if name == "" || filepath.IsAbs(string(name)) {
		return string(name)
	}
	return filepath.Join(filepath.Dir(f.name), string(name))
}

// contents reads a file that the configuration names. Each plan reads it once.
func (b *planner) contents(name File) ([]byte, error) {
	path := b.path(name)
	c, ok := b.read[path]
	if !ok {
		c.info = stamp(path)
		c.text, c.err = readFile(path, maxSecret)
		b.read[path] = c
	}
	return c.text, c.err
}

// secret returns the contents of a file without surrounding white space. An
// empty file is a fault.
func (b *planner) secret(name File, keys ...string) string {
	text := strings.TrimSpace(string(b.must(name, keys...)))
	if text == "" && b.read[b.path(name)].err == nil {
		b.fault(keys, "%s: the file is empty: write the value into it", quoted(string(name)))
	}
	return text
}

// must is contents, but it adds a fault if the file cannot be read.
func (b *planner) must(name File, keys ...string) []byte {
	text, err := b.contents(name)
	if err != nil {
		b.fault(keys, "%s: %v", quoted(string(name)), err)
	}
	return text
}

// readFile returns the contents of a regular file of at most most bytes.
func readFile(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: create it, or correct the name", err)
	case err != nil:
		return nil, permitted(err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file: want one", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, permitted(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if int64(len(text)) > most {
		return nil, fmt.Errorf("%s has more than %d bytes: want a smaller file", path, most)
	}
	return text, err
}

// permitted returns err. If a permission is missing, it adds the remedy.
func permitted(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: let the user of this process read it (chmod, chown)", err)
	}
	return err
}

// key returns a text that is equal for equal settings and equal contents of the
// files that they name.
func (b *planner) key(v any) string {
	s := b.encode.text(reflect.ValueOf(v).Elem())
	eachFile(reflect.ValueOf(v), func(name File) {
		text, err := b.contents(name)
		s += fmt.Sprintf("# %s %x %v\n", name, sha256.Sum256(text), err)
	})
	return s
}

// eachFile calls do for each file name in v, always in the same order.
func eachFile(v reflect.Value, do func(File)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			eachFile(v.Elem(), do)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				eachFile(v.Field(i), do)
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			eachFile(v.Index(i), do)
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
		for _, k := range keys {
			eachFile(v.MapIndex(k), do)
		}
	default:
		if name, ok := v.Interface().(File); ok && name != "" {
			do(name)
		}
	}
}
