package status

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"
)

// maxSentence bounds a sentence, in bytes.
const maxSentence = 1_000

// ReachCommand returns a shell command that shows whether a CA reaches a
// canonical host: its records, and what answers at ports 80 and 443. It is to
// be run on another machine. It returns "" for what is no plain host.
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
// takes control of a canonical host or a wildcard for proven: who serves its
// zone, and the answer to a challenge. It returns "" for what is neither.
func RecordsCommand(pattern string) string {
	host := strings.TrimPrefix(pattern, "*.")
	if !isPlain(host) {
		return ""
	}
	return fmt.Sprintf("dig +short %[1]s NS _acme-challenge.%[1]s TXT", host)
}

// isPlain reports whether a shell takes s for one word that is no option.
func isPlain(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-' && i > 0) {
			return false
		}
	}
	return s != ""
}

// Sentence returns the lines of a text as one, of bounded length.
func Sentence(text string) string {
	text = text[:min(len(text), 4*maxSentence)] // enough to find what is shown
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
