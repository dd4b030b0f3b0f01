package status

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// maxSentence limits a sentence, in bytes.
const maxSentence = 1_000

// ReachCommand returns a shell command that shows whether a CA can reach a
// canonical host: its records, and the responses on ports 80 and 443. It should
// run on another machine. ReachCommand returns "" if host is not a plain host.
func ReachCommand(host string) string {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return ""
		}
		if a.Is6() {
			return fmt.Sprintf("curl -sSI 'http://[%[1]s]/'; curl -sSkI 'https://[%[1]s]/'", a)
		}
		return fmt.Sprintf("curl -sSI http://%[1]s/; curl -sSkI https://%[1]s/", a)
	}
	if !isPlain(host) {
		return ""
	}
	return fmt.Sprintf("dig +short %[1]s A %[1]s AAAA; curl -sSI http://%[1]s/; curl -sSkI https://%[1]s/", host)
}

// RecordsCommand returns a shell command that shows the records by which a CA
// validates a canonical host or a wildcard: the name servers of its zone, and
// the answer to a challenge. It returns "" if pattern is neither.
func RecordsCommand(pattern string) string {
	host := strings.TrimPrefix(pattern, "*.")
	if !isPlain(host) {
		return ""
	}
	return fmt.Sprintf("dig +short %[1]s NS _acme-challenge.%[1]s TXT", host)
}

// isPlain reports whether a shell reads s as one word that is not an option.
func isPlain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-' && i > 0) {
			return false
		}
	}
	return s != ""
}

// Sentence returns the lines of a text as one line of limited length.
func Sentence(text string) string {
	text = text[:min(len(text), 4*maxSentence)] // enough for maxSentence bytes of output
	var parts []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			parts = append(parts, line)
		}
	}
	s := strings.Join(parts, "; ")
	if len(s) <= maxSentence {
		return strings.ToValidUTF8(s, "")
	}
	s = s[:maxSentence]
	for len(s) > 0 && !utf8.ValidString(s[len(s)-1:]) {
		s = s[:len(s)-1]
	}
	return strings.ToValidUTF8(s, "") + "…"
}
