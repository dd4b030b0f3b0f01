package routes

import (
	"fmt"
	"runtime"
)

// A Place is a line of the program. The zero value is an unknown line.
type Place uintptr

// Caller returns the place that called a function: with skip 0 the caller of
// Caller, with 1 the caller of that function, and so on.
func Caller(skip int) Place {
	var pc [1]uintptr
	runtime.Callers(skip+2, pc[:])
	return Place(pc[0])
}

// String returns the file and the line, or "" for an unknown place.
func (p Place) String() string {
	if p == 0 {
		return ""
	}
	frame, _ := runtime.CallersFrames([]uintptr{uintptr(p)}).Next()
	return fmt.Sprintf("%s:%d", frame.File, frame.Line)
}
