package caddyfile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxFaults limits the faults that are reported.
const maxFaults = 100

// A Fault is one reason why a file is refused.
type Fault struct {
	File         string
	Line, Column int    // counted from 1; columns are characters
	Word         string // wrong directive, address or option; "" for a fault in the syntax
	Text         string // what is wrong, and what to write instead
}

func (f Fault) Error() string {
	if f.Word == "" {
		return fmt.Sprintf("%s:%d:%d: %s", f.File, f.Line, f.Column, f.Text)
	}
	return fmt.Sprintf("%s:%d:%d: %s: %s", f.File, f.Line, f.Column, f.Word, f.Text)
}

// Faults are all reasons why a file is refused, in file order.
type Faults []Fault

func (fs Faults) Error() string {
	lines := make([]string, len(fs))
	for i, f := range fs {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns the faults as errors, for errors.As.
func (fs Faults) Unwrap() []error {
	errs := make([]error, len(fs))
	for i, f := range fs {
		errs[i] = f
	}
	return errs
}

// sorted returns the faults in order of their places, without repetitions.
func (fs Faults) sorted() Faults {
	slices.SortStableFunc(fs, func(a, b Fault) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	fs = slices.Compact(fs)
	if len(fs) > maxFaults {
		last := fs[maxFaults]
		last.Word, last.Text = "", fmt.Sprintf("%d further faults are not listed", len(fs)-maxFaults)
		fs = append(fs[:maxFaults], last)
	}
	return fs
}
