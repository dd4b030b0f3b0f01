package certs

import (
	"maps"
	"slices"
	"strings"
)

// A zones holds the names that must be checked again when the wildcard above
// them changes: hosts on demand, and hosts covered by a wildcard's certificate.
// It is used under the manager's lock.
type zones map[string]map[string]struct{}

func (z zones) add(name string) {
	wild := wildcardOf(name)
	if z[wild] == nil {
		z[wild] = make(map[string]struct{})
	}
	z[wild][name] = struct{}{}
}

func (z zones) drop(name string) {
	wild := wildcardOf(name)
	if delete(z[wild], name); len(z[wild]) == 0 {
		delete(z, wild)
	}
}

// names returns the names below a wildcard, or all for "*".
func (z zones) names(wild string) []string {
	if wild != "*" {
		return slices.Collect(maps.Keys(z[wild]))
	}
	var all []string
	for _, names := range z {
		all = slices.AppendSeq(all, maps.Keys(names))
	}
	return all
}

// wildcardOf returns the wildcard that covers a host, "" if none can.
func wildcardOf(name string) string {
	i := strings.IndexByte(name, '.')
	if i <= 0 || name[0] == '*' || isIP(name) {
		return ""
	}
	return "*" + name[i:]
}

func isPattern(name string) bool { return strings.HasPrefix(name, "*") }
