package serve

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hostproxy/hostproxy/internal/header"
	"github.com/hostproxy/hostproxy/internal/hostname"
)

// forget is the value that tells clients to forget all other servers (RFC 7838,
// 3).
const forget = "clear"

// maxAltSvc limits the length of a value, since it is in the head of each
// response.
const maxAltSvc = 4 << 10

// altSvcFault returns what is wrong with a value of Alt-Svc (RFC 7838, 3), or
// nil. It is as strict as the grammar for senders.
func altSvcFault(value string) error {
	switch {
	case len(value) > maxAltSvc:
		return fmt.Errorf("it has %d bytes, more than %d", len(value), maxAltSvc)
	case !header.ValidValue(value):
		return errors.New("a byte in it is not allowed in a header")
	case value == forget:
		return nil
	}
	for rest, more := value, true; more; {
		var one string
		one, rest, more = cutUnquoted(rest, ',')
		if err := alternativeFault(trimBlanks(one)); err != nil {
			return err
		}
	}
	if value != trimBlanks(value) {
		return errors.New("it begins or ends with a blank")
	}
	return nil
}

// alternativeFault returns what is wrong with one element of the list.
func alternativeFault(s string) error {
	if s == "" {
		return errors.New("an element of the list is empty")
	}
	first, rest, more := cutUnquoted(s, ';')
	protocol, authority, _ := strings.Cut(trimBlanks(first), "=")
	if !isProtocolID(protocol) {
		return fmt.Errorf("%q is not a protocol's name in ALPN, such as h3", protocol)
	}
	if err := authorityFault(authority); err != nil {
		return err
	}
	for more {
		var p string
		p, rest, more = cutUnquoted(rest, ';')
		if err := parameterFault(trimBlanks(p)); err != nil {
			return err
		}
	}
	return nil
}

// authorityFault returns what is wrong with the part after the protocol's name.
func authorityFault(quoted string) error {
	s, ok := unquote(quoted)
	if !ok {
		return fmt.Errorf("the address %q is not in quotes", quoted)
	}
	whole := s
	if strings.HasPrefix(s, ":") {
		whole = "this" + s
	}
	if _, port, err := hostname.Split(whole); err != nil || port == "" {
		return fmt.Errorf("the address %q is not host:port or :port", s)
	}
	return nil
}

// parameterFault returns what is wrong with a parameter. The known ones, ma and
// persist, must have a value that clients understand.
func parameterFault(s string) error {
	name, value, _ := strings.Cut(s, "=")
	if !header.ValidName(name) {
		return fmt.Errorf("the parameter %q has no name", s)
	}
	if text, ok := unquote(value); ok {
		value = text
	} else if !header.ValidName(value) { // a token
		return fmt.Errorf("the parameter %q has no value", s)
	}
	switch {
	case name == "ma" && !isNumber(value):
		return fmt.Errorf("ma is %q, and not a number of seconds", value)
	case name == "persist" && value != "1":
		return fmt.Errorf("persist is %q, and not 1", value)
	}
	return nil
}

// isProtocolID reports whether s is a token that percent-encodes only bytes
// that a token cannot contain otherwise (RFC 7838, 3).
func isProtocolID(s string) bool {
	if !header.ValidName(s) {
		return false
	}
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			continue
		}
		if i+2 >= len(s) || !isUpperHex(s[i+1]) || !isUpperHex(s[i+2]) {
			return false
		}
		if c := unhex(s[i+1])<<4 | unhex(s[i+2]); c != '%' && header.ValidName(string(rune(c))) {
			return false
		}
		i += 2
	}
	return true
}

func isUpperHex(c byte) bool { return '0' <= c && c <= '9' || 'A' <= c && c <= 'F' }

// unhex returns the value of an upper-case hexadecimal digit.
func unhex(c byte) byte {
	if c >= 'A' {
		return c - 'A' + 10
	}
	return c - '0'
}

// isNumber reports whether s is a number of at most ten digits, which clients
// can read.
func isNumber(s string) bool {
	return s != "" && len(s) <= 10 && strings.Trim(s, "0123456789") == ""
}

// trimBlanks removes optional white space (RFC 9110, 5.6.3).
func trimBlanks(s string) string { return strings.Trim(s, " \t") }

// unquote returns the text of a quoted-string (RFC 9110, 5.6.4).
func unquote(s string) (text string, ok bool) {
	if len(s) < 2 || s[0] != '"' {
		return "", false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '"':
			return b.String(), i == len(s)-1
		case s[i] == '\\':
			if i++; i == len(s) {
				return "", false
			}
		}
		b.WriteByte(s[i])
	}
	return "", false
}

// cutUnquoted cuts s around the first sep outside quoted strings.
func cutUnquoted(s string, sep byte) (before, after string, found bool) {
	quoted := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case quoted && s[i] == '\\':
			i++
		case !quoted && s[i] == sep:
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}
