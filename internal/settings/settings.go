// Package settings notices when exported fields of a struct change after they
// were put in force.
//
//   - settings.go: which fields have changed
//   - compiled.go: fields in force at first use
//   - unit.go: durations without their unit
package settings

import (
	"hash/maphash"
	"net/url"
	"reflect"
	"unsafe"
)

// A Snapshot is the content of a struct's exported fields at one time. Only
// fields that are not zero take memory. The zero Snapshot is that of a zero
// struct.
type Snapshot struct {
	seed maphash.Seed
	held []held // in the order of the fields
}

// A held is the value of one field.
type held struct {
	field int
	hash  uint64
}

// Take returns a snapshot of the struct that v points to.
//
// Fields are compared by content: through slices, maps, structs, and pointers
// to structs with only exported fields. Other pointers, funcs, channels and
// values in interfaces are compared by identity.
func Take(v any) Snapshot {
	s := Snapshot{seed: maphash.MakeSeed()}
	i := 0
	each(reflect.ValueOf(v).Elem(), func(f reflect.Value) {
		if !f.IsZero() {
			s.held = append(s.held, held{i, s.hash(f)})
		}
		i++
	})
	return s
}

// Changed returns the names of the fields that differ from the snapshot, which
// must be of a struct of the same type. A field of a nested struct is named
// with both names, as in Retry.Attempts.
func (s Snapshot) Changed(v any) (names []string) {
	record := reflect.ValueOf(v).Elem()
	i, left := 0, s.held
	each(record, func(f reflect.Value) {
		was := len(left) > 0 && left[0].field == i
		if was == f.IsZero() || was && left[0].hash != s.hash(f) {
			names = append(names, name(record.Type(), i))
		}
		if was {
			left = left[1:]
		}
		i++
	})
	return names
}

// each calls do with each exported field of v, and with those of nested structs
// that have only exported fields.
func each(v reflect.Value, do func(reflect.Value)) {
	for i := range v.NumField() {
		f := v.Field(i)
		switch {
		case !f.CanInterface():
			// not exported; unlike a reflect.StructField, CanInterface does not
			// allocate
		case open(f.Type()):
			each(f, do)
		default:
			do(f)
		}
	}
}

// name returns the name of the i-th field that each visits.
func name(t reflect.Type, i int) string { return names(t, "")[i] }

func names(t reflect.Type, prefix string) (all []string) {
	for i := range t.NumField() {
		f := t.Field(i)
		switch {
		case !f.IsExported():
		case open(f.Type):
			all = append(all, names(f.Type, prefix+f.Name+".")...)
		default:
			all = append(all, prefix+f.Name)
		}
	}
	return all
}

// open reports whether t is a struct with only exported fields.
func open(t reflect.Type) bool {
	if t.Kind() != reflect.Struct || t.NumField() == 0 {
		return false
	}
	for i := range t.NumField() {
		if !t.Field(i).IsExported() {
			return false
		}
	}
	return true
}

func (s *Snapshot) hash(v reflect.Value) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	s.write(&h, v, 0)
	return h.Sum64()
}

// maxDepth limits the nesting that is followed: a value may lead to itself.
const maxDepth = 10

// write adds the content of v to h. depth is the nesting of v.
func (s *Snapshot) write(h *maphash.Hash, v reflect.Value, depth int) {
	if depth++; depth > maxDepth {
		return
	}
	if v.IsZero() {
		_ = h.WriteByte(0)
		return
	}
	_ = h.WriteByte(byte(v.Kind()))
	switch v.Kind() {
	case reflect.Func:
		maphash.WriteComparable(h, Closure(v))
	case reflect.Slice:
		maphash.WriteComparable(h, v.Len())
		for i := range v.Len() {
			s.write(h, v.Index(i), depth)
		}
	case reflect.Map:
		s.writeMap(h, v, depth)
	case reflect.Pointer:
		s.writePointer(h, v, depth)
	case reflect.Interface:
		s.writeInterface(h, v.Elem())
	case reflect.Struct:
		s.writeStruct(h, v, depth)
	default:
		maphash.WriteComparable(h, v.Interface())
	}
}

// writeInterface adds the identity of v: its content belongs to another
// package, which may change it at any time.
func (s *Snapshot) writeInterface(h *maphash.Hash, v reflect.Value) {
	maphash.WriteComparable(h, v.Type())
	switch {
	case v.Kind() == reflect.Func:
		maphash.WriteComparable(h, Closure(v))
	case v.Comparable():
		maphash.WriteComparable(h, v.Interface())
	}
}

// writeMap adds the entries of v, independent of their order.
func (s *Snapshot) writeMap(h *maphash.Hash, v reflect.Value, depth int) {
	sum := uint64(0)
	for entries := v.MapRange(); entries.Next(); {
		var e maphash.Hash
		e.SetSeed(s.seed)
		s.write(&e, entries.Key(), depth)
		s.write(&e, entries.Value(), depth)
		sum += e.Sum64()
	}
	maphash.WriteComparable(h, v.Len())
	maphash.WriteComparable(h, sum)
}

func (s *Snapshot) writePointer(h *maphash.Hash, v reflect.Value, depth int) {
	if u, ok := v.Interface().(*url.URL); ok {
		_, _ = h.WriteString(u.String())
	} else if open(v.Type().Elem()) {
		s.write(h, v.Elem(), depth)
	} else {
		maphash.WriteComparable(h, v.Interface())
	}
}

func (s *Snapshot) writeStruct(h *maphash.Hash, v reflect.Value, depth int) {
	if v.Comparable() && !open(v.Type()) {
		maphash.WriteComparable(h, v.Interface())
		return
	}
	for i := range v.NumField() {
		if v.Field(i).CanInterface() {
			s.write(h, v.Field(i), depth)
		}
	}
}

// Closure returns the identity of a func value. Package reflect does not
// provide it: its Pointer is that of the code, which all closures of a func
// literal share.
func Closure(f reflect.Value) unsafe.Pointer {
	p := reflect.New(f.Type())
	p.Elem().Set(f)
	return *(*unsafe.Pointer)(p.UnsafePointer())
}
