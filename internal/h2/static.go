package h2

// A static is an entry of the static table.
type static struct{ name, value string }

// statics is the static table (RFC 7541, Appendix A); the first entry is not
// used. Read-only.
var statics = [...]static{
	{},
	{":authority", ""},
	{":method", "GET"},
	{":method", "POST"},
	{":path", "/"},
	{":path", "/index.html"},
	{":scheme", "http"},
	{":scheme", "https"},
	{":status", "200"},
	{":status", "204"},
	{":status", "206"},
	{":status", "304"},
	{":status", "400"},
	{":status", "404"},
	{":status", "500"},
	{"accept-charset", ""},
	{"accept-encoding", "gzip, deflate"},
	{"accept-language", ""},
	{"accept-ranges", ""},
	{"accept", ""},
	{"access-control-allow-origin", ""},
	{"age", ""},
	{"allow", ""},
	{"authorization", ""},
	{"cache-control", ""},
	{"content-disposition", ""},
	{"content-encoding", ""},
	{"content-language", ""},
	{"content-length", ""},
	{"content-location", ""},
	{"content-range", ""},
	{"content-type", ""},
	{"cookie", ""},
	{"date", ""},
	{"etag", ""},
	{"expect", ""},
	{"expires", ""},
	{"from", ""},
	{"host", ""},
	{"if-match", ""},
	{"if-modified-since", ""},
	{"if-none-match", ""},
	{"if-range", ""},
	{"if-unmodified-since", ""},
	{"last-modified", ""},
	{"link", ""},
	{"location", ""},
	{"max-forwards", ""},
	{"proxy-authenticate", ""},
	{"proxy-authorization", ""},
	{"range", ""},
	{"referer", ""},
	{"refresh", ""},
	{"retry-after", ""},
	{"server", ""},
	{"set-cookie", ""},
	{"strict-transport-security", ""},
	{"transfer-encoding", ""},
	{"user-agent", ""},
	{"vary", ""},
	{"via", ""},
	{"www-authenticate", ""},
}

// Indexes of the static table that the Encoder uses without a search.
const (
	indexStatus        = 8
	indexContentLength = 28
	indexDate          = 33
)

// A nameClass is what an Encoder has to know about a field name: its index in
// the static table, and the marks below.
type nameClass uint8

const (
	indexMask  nameClass = 0x3f
	secret     nameClass = 0x40 // never indexed (RFC 7541, 7.1.3)
	unsendable nameClass = 0x80 // not allowed in HTTP/2 (RFC 9113, 8.2.2)
)

// secrets are the names of fields whose values an attacker may guess.
// Read-only.
var secrets = []string{"authorization", "cookie", "proxy-authorization", "set-cookie"}

// named finds the class of a name: a hash table by slotOf with open addressing.
// Names are in lower case. Read-only.
var named = makeNamed()

// A namedSlot is a name and its class.
type namedSlot struct {
	name  string
	class nameClass
}

func makeNamed() (slots [256]namedSlot) {
	put := func(name string, class nameClass) {
		i := slotOf(name)
		for slots[i].name != "" && slots[i].name != name {
			i++
		}
		if slots[i].name == "" || class > indexMask {
			slots[i] = namedSlot{name, slots[i].class | class}
		}
	}
	for i, s := range statics[1:] {
		if s.name[0] != ':' {
			put(s.name, nameClass(i+1))
		}
	}
	for _, name := range secrets {
		put(name, secret)
	}
	for _, name := range connectionSpecific {
		put(name, unsendable)
	}
	return slots
}

// connectionSpecific are the names of RFC 9113, section 8.2.2. Read-only.
var connectionSpecific = []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}

// slotOf returns the slot where the search for a name begins, ignoring case.
func slotOf[T ~string | ~[]byte](name T) uint8 {
	n := len(name)
	return uint8(n)*5 + (name[0]|0x20)*7 + (name[n-1]|0x20)*13 + (name[n/2]|0x20)*29
}

// classify returns the class of a name, ignoring case. The name must not be
// empty.
func classify[T ~string | ~[]byte](name T) nameClass {
	for i := slotOf(name); named[i].name != ""; i++ {
		if s := &named[i]; equalFold(name, s.name) {
			return s.class
		}
	}
	return 0
}

// equalFold reports whether b equals s, ignoring case; s must be lower case.
func equalFold[T ~string | ~[]byte](b T, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range len(b) {
		if lower(b[i]) != s[i] {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}
