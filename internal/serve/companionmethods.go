package serve

import (
	"crypto/tls"
	"errors"
	"fmt"
	"reflect"
)

// The types of the methods that a Beside may have. Read-only.
var (
	listenType = reflect.TypeFor[func(*tls.Config) error]()
	altSvcType = reflect.TypeFor[func() string]()
	closeType  = reflect.TypeFor[func() error]()
)

// methodFaults returns which methods of c the Server would not call, although
// they have a name that it calls.
func methodFaults(c Beside) error {
	v := reflect.ValueOf(c)
	p := reflect.New(v.Type()) // has the methods with a pointer receiver too
	p.Elem().Set(v)
	// The names are constants here: otherwise the linker keeps all methods of a
	// program.
	return errors.Join(
		methodFault("Listen", listenType, v.MethodByName("Listen"), p.MethodByName("Listen")),
		methodFault("AltSvc", altSvcType, v.MethodByName("AltSvc"), p.MethodByName("AltSvc")),
		methodFault("Close", closeType, v.MethodByName("Close"), p.MethodByName("Close")),
	)
}

// methodFault returns what is wrong with a method, which is the zero Value if
// there is none. pointed is the method of the pointer type.
func methodFault(name string, want reflect.Type, method, pointed reflect.Value) error {
	switch {
	case method.IsValid() && method.Type() != want:
		return fmt.Errorf("its method %s is %v: want %v, or another name", name, method.Type(), want)
	case !method.IsValid() && pointed.IsValid():
		return fmt.Errorf("its method %s has a pointer receiver: pass a pointer", name)
	}
	return nil
}
