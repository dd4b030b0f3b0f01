package reload

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// A Fault is a fault in a file, and how to correct it.
type Fault struct {
	File         string
	Line, Column int    // from 1; 0 if the fault has no place in the file
	Path         string // such as routes[a.example.com].dial_timeout; "" for the whole file
	Rule         string // the input, the rule, and how to keep it
}

// Error returns file:line:column: path: rule.
func (f Fault) Error() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Column)
	}
	b.WriteString(": ")
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Rule)
	return b.String()
}

// Faults are all faults of a file, ordered by line.
type Faults []Fault

// maxFaults is how many faults Error lists: a large file of the wrong kind has
// a fault in each line.
const maxFaults = 50

// Error returns the faults in one line, the first 50 of them.
func (f Faults) Error() string { return strings.Join(f.lines(), "; ") }

// Lines returns the faults as lines of text, the first 50 of them.
func (f Faults) Lines() string { return strings.Join(f.lines(), "\n") }

func (f Faults) lines() []string {
	var all []string
	for _, one := range f[:min(len(f), maxFaults)] {
		all = append(all, one.Error())
	}
	if n := len(f) - maxFaults; n > 0 {
		all = append(all, fmt.Sprintf("and %d more", n))
	}
	return all
}

// err returns the faults, sorted and without repetitions, or nil if there are
// none.
func (f Faults) err() error {
	if len(f) == 0 {
		return nil
	}
	slices.SortStableFunc(f, func(a, b Fault) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) })
	return slices.Compact(f)
}

// quoted returns s as a Go string in ASCII, cut after 100 bytes.
func quoted(s string) string {
	if len(s) > 100 {
		return fmt.Sprintf("%+q...", s[:100])
	}
	return fmt.Sprintf("%+q", s)
}
