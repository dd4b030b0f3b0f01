package settings

import (
	"fmt"
	"reflect"
	"time"
)

// TooShort returns an error for each exported duration in the struct that fields
// points to, and in structs of the same package below it, that is above zero and
// below a microsecond: its unit was forgotten. prefix comes before their names.
func TooShort(prefix string, fields any) (errs []error) {
	v := reflect.ValueOf(fields).Elem()
	home := v.Type().PkgPath()
	for i := range v.NumField() {
		f, name := v.Field(i), prefix+v.Type().Field(i).Name
		if !f.CanInterface() {
			continue
		}
		if d, ok := f.Interface().(time.Duration); ok {
			if d > 0 && d < time.Microsecond {
				errs = append(errs, fmt.Errorf("%s is %v, below a microsecond: multiply by a unit, as in 5*time.Second", name, d))
			}
		} else if below := reflect.Indirect(f); below.Kind() == reflect.Struct && below.Type().PkgPath() == home {
			errs = append(errs, TooShort(name+".", below.Addr().Interface())...)
		}
	}
	return errs
}
