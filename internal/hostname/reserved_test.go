package hostname_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/hostproxy/hostproxy/internal/hostname"
)

func TestUnsignableNamesTheReason(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 49)+".", 5)
	for pattern, reason := range map[string]string{
		"nas":                       "the name has a single label",
		"onion":                     "the name has a single label",
		"*.com":                     "the name has a single label",
		"nas.lan":                   `".lan" is not a domain of the public DNS`,
		"*.lan":                     "the name has a single label",
		"*.nas.lan":                 `".lan" is not a domain of the public DNS`,
		"a.b.intranet":              `".intranet" is not a domain of the public DNS`,
		"db.private":                `".private" is not a domain of the public DNS`,
		"nas.home":                  `".home" is not a domain of the public DNS`,
		"sso.corp":                  `".corp" is not a domain of the public DNS`,
		"mx.mail":                   `".mail" is not a domain of the public DNS`,
		"pc.localdomain":            `".localdomain" is not a domain of the public DNS`,
		"www.example":               `".example" is not a domain of the public DNS`,
		"a.invalid":                 `".invalid" is not a domain of the public DNS`,
		"gns.alt":                   `".alt" is not a domain of the public DNS`,
		"expyuzz4wqqyqhjn.onion":    `".onion" is not a domain of the public DNS`,
		"1.2.0.192.in-addr.arpa":    `".in-addr.arpa" is not a domain of the public DNS`,
		"1.0.ip6.arpa":              `".ip6.arpa" is not a domain of the public DNS`,
		"_dmarc.example.com":        "the name has an underscore",
		"my_host.example.com":       "the name has an underscore",
		"r3---sn-x.example.com":     `the label "r3---sn-x" has hyphens in the third and fourth position`,
		"localhost":                 "the name is reserved for internal use",
		"app.test":                  "the name is reserved for internal use",
		"*.internal":                "the name is reserved for internal use",
		"nas.home.arpa":             "the name is reserved for internal use",
		"192.168.1.1":               "the address is private or reserved",
		"fd00::1":                   "the address is private or reserved",
		"203.0.113.9":               "the address is private or reserved",
		"*." + long + "com":         "the name is longer than 253 bytes",
		"xn--mgberp4a5d4ar.example": `".example" is not a domain of the public DNS`,
	} {
		assert.Equal(t, reason, hostname.Unsignable(pattern), pattern)
	}
}

func TestUnsignableLeavesPublicNamesAlone(t *testing.T) {
	for _, pattern := range []string{
		"example.com", "*.example.com", "blog.example.com", "xn--bcher-kva.example.com", "a.co.uk", "mail.com", "home.pl", "nas.lan.example.com",
		"mylan.net", "a--b.com", "ab-cd.com", "onion.com", "alt.org", "1.1.1.1", "2606:4700::1111", "fritz.box", "x.dev",
		"test.example.com", "e164.arpa", "a.not-yet-delegated",
	} {
		assert.Empty(t, hostname.Unsignable(pattern), pattern)
	}
}
