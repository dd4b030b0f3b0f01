package settings

import (
	"fmt"
	"reflect"
	"time"
)

// TooShort returns an error for each exported duration above zero and below a
// microsecond, since its unit was probably forgotten. It checks the struct that
// fields points to and nested structs of the same package. prefix is put before
// the fields' names.
func TooShort(prefix string, fields any) (errs []error) {
	v := reflect.ValueOf(fields).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.CanInterface() {
			errs = append(errs, tooShort(prefix+v.Type().Field(i).Name, f, v.Type().PkgPath())...)
		}
	}
	return errs
}

// tooShort is TooShort for a field f with the given name in a struct of package
// home.
func tooShort(name string, f reflect.Value, home string) (errs []error) {
	if d, ok := f.Interface().(time.Duration); ok {
		if d > 0 && d < time.Microsecond {
			errs = append(errs, fmt.Errorf("%s is %v, below a microsecond: multiply by a unit, as in 5*time.Second", name, d))
		}
		return errs
	}
	switch below := reflect.Indirect(f); {
	case below.Kind() == reflect.Struct && below.Type().PkgPath() == home:
		return TooShort(name+".", below.Addr().Interface())
	case below.Kind() == reflect.Slice:
		if e := below.Type().Elem(); e.Kind() != reflect.Struct || e.PkgPath() != home {
			return nil
		}
		for i := range below.Len() {
			errs = append(errs, TooShort(fmt.Sprintf("%s[%d].", name, i), below.Index(i).Addr().Interface())...)
		}
	}
	return errs
}
