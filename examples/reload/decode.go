package reload

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFile is the maximum size of a configuration file in bytes.
const maxFile = 16 << 20

// A file is a parsed configuration with the places of its values.
type file struct {
	Config
	name   string
	index  map[*yaml.Node]map[string]int // position of each key, for nodes that were searched
	faults Faults                        // in single values
	root   *yaml.Node                    // nil if the configuration has no file
	// files named by the configuration, once they were read
	read map[string]contents
}

// Parse returns the configuration in text. name stands for the file in errors.
// The error is Faults with all faults, or with one if text is not YAML. Parse
// reads no files; see Load.
func Parse(name string, text []byte) (*Config, error) {
	f, err := parse(name, text)
	if err == nil {
		err = f.faults.err()
	}
	if err != nil {
		return nil, err
	}
	return &f.Config, nil
}

// parse is Parse, but it leaves faults in single values in file.faults.
func parse(name string, text []byte) (*file, error) {
	d := decoder{file: &file{name: name, read: map[string]contents{}, index: map[*yaml.Node]map[string]int{}}, fields: map[reflect.Type][]field{}}
	if len(text) > maxFile {
		return nil, Faults{{File: name, Rule: fmt.Sprintf("the file has %d bytes: want at most %d", len(text), maxFile)}}
	}
	var doc yaml.Node
	in := yaml.NewDecoder(bytes.NewReader(text))
	switch err := in.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return nil, Faults{{File: name, Line: 1, Column: 1, Rule: "the file is empty: want routes, such as {routes: {app.example.com: localhost:4000}}"}}
	case err != nil:
		return nil, Faults{syntax(name, text, err)}
	}
	switch err := in.Decode(new(yaml.Node)); {
	case err == nil:
		d.fault(&doc, "", "the file has more than one document: remove the lines --- and what follows them, or use one file for each proxy")
	case !errors.Is(err, io.EOF):
		return nil, Faults{syntax(name, text, err)}
	}
	d.root = doc.Content[0]
	d.decode(d.root, reflect.ValueOf(&d.Config).Elem(), "", "")
	return d.file, nil
}

// syntaxError matches an error of package yaml for text that is not YAML.
// Read-only.
var syntaxError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)`)

// syntax returns err with its place in text: the start of the line.
func syntax(name string, text []byte, err error) Fault {
	f := Fault{File: name, Line: 1, Column: 1, Rule: "not YAML: " + err.Error()}
	if m := syntaxError.FindStringSubmatch(err.Error()); m != nil {
		f.Line, _ = strconv.Atoi(cmp.Or(m[1], "1"))
		f.Rule = "not YAML, here or in the line above: " + m[2] + ": correct it; " +
			"lines below a key are indented by spaces, and text with \": \" or \" #\" or a special first character stands in quotes"
	}
	if lines := bytes.Split(text, []byte("\n")); f.Line <= len(lines) {
		line := lines[max(f.Line, 1)-1]
		f.Column = 1 + len(line) - len(bytes.TrimLeft(line, " \t"))
	}
	return f
}

// A decoder turns nodes into a Config and collects faults.
type decoder struct {
	*file
	fields map[reflect.Type][]field
}

// fault adds a fault at n.
func (d *decoder) fault(n *yaml.Node, path, rule string, args ...any) {
	d.faults = append(d.faults, Fault{d.name, n.Line, n.Column, path, fmt.Sprintf(rule, args...)})
}

// decode sets v to the value of n. path is the path to v, and tag the tag of
// its field.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		d.fault(n, path, "anchors (&) and aliases (*) are not read: write the value out; a text that begins so, such as the pattern \"*\", stands in quotes")
		return
	case n.Style&yaml.TaggedStyle != 0:
		d.fault(n, path, "tag %s: tags are not read: remove it; a text that begins with ! stands in quotes", quoted(n.Tag))
		return
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		d.fault(n, path, "the value is missing: write one, {} for a section with its defaults, or remove the line")
		return
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, v.Elem(), path, tag)
		return
	}
	switch kind := kindOf(v); {
	case kind == scalar:
		d.scalar(n, v, path, tag)
	case kind == list:
		d.list(n, v, path, tag)
	case kind == mapping:
		d.mapping(n, v, path)
	case n.Kind != yaml.MappingNode && targetsOf(v).IsValid(): // a list of targets alone
		d.decode(n, targetsOf(v), path, "")
	default:
		d.structure(n, v, path)
	}
}

// targetsOf returns the field of v that a list of targets alone sets, or the
// zero Value.
func targetsOf(v reflect.Value) reflect.Value {
	switch x := v.Addr().Interface().(type) {
	case *Upstream:
		return reflect.ValueOf(&x.Targets).Elem()
	case *Route:
		return reflect.ValueOf(&x.Inline.Targets).Elem()
	}
	return reflect.Value{}
}

func (d *decoder) scalar(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	if n.Kind != yaml.ScalarNode {
		d.fault(n, path, "%s: want one value", kindName(n))
		return
	}
	if rule := readScalar(n.Value, v, tag); rule != "" {
		d.fault(n, path, "%s: %s", quoted(n.Value), rule)
	}
}

func (d *decoder) list(n *yaml.Node, v reflect.Value, path string, tag reflect.StructTag) {
	items := n.Content
	switch {
	case n.Kind == yaml.ScalarNode && kindOf(reflect.New(v.Type().Elem()).Elem()) == scalar:
		items = []*yaml.Node{n}
	case n.Kind != yaml.SequenceNode:
		d.fault(n, path, "%s: want a list%s", kindName(n), suchAs(v))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
	for i, item := range items {
		d.decode(item, v.Index(i), fmt.Sprintf("%s[%d]", path, i), tag)
	}
}

// pairs calls do for each key and value of n, which is read into v. It reports
// keys that are repeated.
func (d *decoder) pairs(n *yaml.Node, v reflect.Value, path string, do func(key, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.fault(n, path, "%s: want keys with values%s", kindName(n), suchAs(v))
		return
	}
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		switch line := lines[key.Value]; {
		case key.Kind != yaml.ScalarNode || key.Anchor != "" || key.Style&yaml.TaggedStyle != 0:
			d.fault(key, path, "%s as a key: want a plain text; a key such as \"*\" or \"*.example.com\" stands in quotes", kindName(key))
		case line > 0:
			d.fault(key, path, "key %s is in line %d already: keep one of them", quoted(key.Value), line)
		default:
			lines[key.Value] = key.Line
			do(key, n.Content[i+1])
		}
	}
}

func (d *decoder) mapping(n *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	d.pairs(n, v, path, func(key, value *yaml.Node) {
		k := reflect.New(v.Type().Key()).Elem()
		if rule := readScalar(key.Value, k, ""); rule != "" {
			d.fault(key, path, "key %s: %s", quoted(key.Value), rule)
			return
		}
		if v.MapIndex(k).IsValid() { // the status 0500 after 500, for instance
			d.fault(key, path, "key %s stands for one that is there already: keep one of them", quoted(key.Value))
			return
		}
		e := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, e, within(path, key.Value), "")
		if e.Kind() == reflect.Pointer && e.IsNil() { // its value had a fault
			e.Set(reflect.New(e.Type().Elem()))
		}
		v.SetMapIndex(k, e)
	})
}

func (d *decoder) structure(n *yaml.Node, v reflect.Value, path string) {
	fields := d.fields[v.Type()]
	if fields == nil {
		fields = fieldsOf(v.Type())
		d.fields[v.Type()] = fields
	}
	d.pairs(n, v, path, func(key, value *yaml.Node) {
		i := slices.IndexFunc(fields, func(f field) bool { return f.key == key.Value })
		if i < 0 {
			d.fault(key, path, "key %s is unknown: %s", quoted(key.Value), unknownRule(key.Value, v, fields))
			return
		}
		d.decode(value, v.FieldByIndex(fields[i].index), join(path, fields[i].key), fields[i].tag)
	})
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// within returns path extended by a key that the file's author has chosen.
func within(path, key string) string {
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r == ']' || r == '"' || r > '~' }) || len(key) > 100 {
		key = quoted(key)
	}
	return path + "[" + key + "]"
}

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys with values"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias (*" + n.Value + ")"
	}
	return quoted(n.Value)
}

// locate returns the place and the path of the deepest node that the keys lead
// to. Keys that are not in the file are skipped. The place of a value is that
// of its key.
func (f *file) locate(keys ...string) Fault {
	at := Fault{File: f.name}
	n := f.root
	if n == nil {
		return at
	}
	at.Line, at.Column = n.Line, n.Column
	for i, key := range keys {
		place, value := f.child(n, key)
		if place == nil {
			continue
		}
		at.Line, at.Column = place.Line, place.Column
		if n.Kind == yaml.SequenceNode || i > 0 && mapKeys(keys[i-1]) {
			at.Path = within(at.Path, key)
		} else {
			at.Path = join(at.Path, key)
		}
		n = value
	}
	return at
}

// mapKeys reports whether the keys below this key are chosen by the file's
// author.
func mapKeys(key string) bool {
	return slices.Contains([]string{"routes", "upstreams", "hosts", "pages", "set_files", "header_files"}, key)
}

// child returns the key and the value of n for key. For a list, key is the
// number of an item, which is returned twice.
func (f *file) child(n *yaml.Node, key string) (place, value *yaml.Node) {
	if n.Kind == yaml.SequenceNode {
		if i, err := strconv.Atoi(key); err == nil && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
		return nil, nil
	}
	if n.Kind != yaml.MappingNode {
		return nil, nil
	}
	// speeds up a wrong kind of file, with a fault in each of ten thousand
	// routes
	if f.index[n] == nil {
		f.index[n] = map[string]int{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			f.index[n][n.Content[i].Value] = i
		}
	}
	if i, ok := f.index[n][key]; ok {
		return n.Content[i], n.Content[i+1]
	}
	return nil, nil
}
