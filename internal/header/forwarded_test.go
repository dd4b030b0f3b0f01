package header_test

import (
	"bufio"
	"bytes"
	"net/http"
	"net/textproto"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy/internal/header"
)

const (
	untrusted = "192.0.2.9:1"
	trusted   = "10.0.0.1:1"
)

// hop builds the hop for a peer; 10.0.0.0/8 and loopback are trusted.
func hop(t testing.TB, remote string, xff []string) *header.Hop {
	t.Helper()
	prefixes := prefixes(t, "10.0.0.0/8", "127.0.0.1/32")
	peer := header.ParsePeer(remote)
	return &header.Hop{
		Peer: peer, Trusted: peer.TrustedBy(prefixes), Client: header.ClientIP(peer, prefixes, xff),
		Scheme: "https", Version: "1.1", Name: "hostproxy",
	}
}

// fields makes a header of "Name: value" lines, with keys as net/http spells
// them.
func fields(lines ...string) http.Header {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

// fastLane returns the lines that the fast lane sends upstream for a request
// with these fields.
func fastLane(t testing.TB, p *header.Hop, host string, lines []string) http.Header {
	t.Helper()
	var (
		received header.Received[[]byte]
		wire     []byte
		options  header.Options
		nominees [][]byte
	)
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		class := header.Classify([]byte(name))
		received.Note(class, []byte(value))
		if class&header.Connection != 0 {
			options |= header.ConnectionOptions([]byte(value))
			nominees = append(nominees, []byte(value))
		}
	}
	for _, line := range lines {
		name, _, _ := strings.Cut(line, ": ")
		drop := p.Drops(header.Classify([]byte(name)))
		for _, value := range nominees {
			drop = drop || options&header.OptionField != 0 && header.Nominated(value, []byte(name))
		}
		if !drop {
			wire = append(wire, line+"\r\n"...)
		}
	}
	wire = append(header.AppendForwarded(wire, p, []byte(host), &received), "\r\n"...)
	h, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(wire))).ReadMIMEHeader()
	require.NoError(t, err)
	return http.Header(h)
}

// fullLane is fastLane for the handler lane.
func fullLane(p *header.Hop, host string, lines []string) http.Header {
	h := fields(lines...)
	header.RemoveHopByHop(h)
	header.SetForwarded(h, p, host)
	return h
}

// forwarding.md, Headers: the proxy sets X-Forwarded-For, -Proto, -Host and
// X-Real-IP. It drops an untrusted peer's fields first, and appends to a
// trusted one's. Threats: CVE-2022-32148, 2026-54764 and 2026-35051 (-Port,
// -Prefix), aliases, Connection-named fields.
func TestForwardingFieldsOfUntrustedPeersAreReplaced(t *testing.T) {
	spoofed := []string{
		"X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2", "X-Forwarded-Proto: http", "X-Forwarded-Host: evil.example", "X-Real-Ip: 1.1.1.1",
		"Forwarded: for=1.1.1.1", "X-Forwarded-Port: 1", "X-Forwarded-Prefix: /x", "X-Forwarded-Server: s", "X-Forwarded-Ssl: off",
		"X-Forwarded-User: root", "X-Forwarded: 1", "X_Forwarded_For: 1.1.1.1", "X.forwarded.for: 1.1.1.1", "X-Forwarded_Host: evil", "X_real_ip: 1.1.1.1",
		"Transfer_Encoding: chunked", "Accept: */*",
	}
	tests := []struct {
		name  string
		peer  string
		lines []string
		host  string
		edit  func(*header.Hop)
		want  []string
	}{
		{
			name: "nothing from the client", peer: untrusted, host: "example.com",
			want: []string{"X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "X-Real-Ip: 192.0.2.9", "Via: 1.1 hostproxy"},
		},
		{
			name: "an untrusted peer is not believed in any spelling", peer: untrusted, host: "example.com", lines: spoofed,
			want: []string{"Accept: */*", "X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "X-Real-Ip: 192.0.2.9", "Via: 1.1 hostproxy"},
		},
		{
			name: "a trusted peer is appended to, but its aliases and Forwarded are not kept", peer: trusted, host: "example.com", lines: spoofed,
			want: []string{
				"Accept: */*", "X-Forwarded-For: 1.1.1.1, 2.2.2.2, 10.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: evil.example", "X-Real-Ip: 2.2.2.2", "Via: 1.1 hostproxy",
				"X-Forwarded-Port: 1", "X-Forwarded-Prefix: /x", "X-Forwarded-Server: s", "X-Forwarded-Ssl: off", "X-Forwarded-User: root",
			},
		},
		{
			name: "Connection does not delete our fields", peer: untrusted, host: "example.com",
			lines: []string{"Connection: close, x-forwarded-for, X-Forwarded-Host", "Connection: ", "Connection: X-Real-Ip, via, x-forwarded-proto, x-mine", "X-Mine: 1", "X-Other: 2"},
			want:  []string{"X-Other: 2", "X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "X-Real-Ip: 192.0.2.9", "Via: 1.1 hostproxy"},
		},
		{
			name: "Connection does not remove the client address from a trusted peer", peer: trusted, host: "example.com",
			lines: []string{"Connection: x-forwarded-for", "X-Forwarded-For: 1.1.1.1"},
			want:  []string{"X-Forwarded-For: 1.1.1.1, 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "X-Real-Ip: 1.1.1.1", "Via: 1.1 hostproxy"},
		},
		{
			name: "a trusted peer's invalid values are replaced", peer: trusted, host: "example.com",
			lines: []string{"X-Forwarded-For:  , ", "X-Forwarded-Proto: javascript", "X-Forwarded-Host: a b"},
			want:  []string{"X-Forwarded-For: ,, 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "X-Real-Ip: 10.0.0.1", "Via: 1.1 hostproxy"},
		},
		{
			name: "a trusted peer's repeated values are replaced", peer: trusted, host: "example.com",
			lines: []string{"X-Forwarded-Proto: http", "X-Forwarded-Proto: http", "X-Forwarded-Host: a", "X-Forwarded-Host: b"},
			want:  []string{"X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "X-Real-Ip: 10.0.0.1", "Via: 1.1 hostproxy"},
		},
		{
			name: "a trusted peer's scheme is canonical", peer: trusted, host: "example.com", lines: []string{"X-Forwarded-Proto: HTTP"},
			want: []string{"X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: example.com", "X-Real-Ip: 10.0.0.1", "Via: 1.1 hostproxy"},
		},
		{
			name: "IPv6", peer: "[2001:db8::1%eth0]:1", host: "[2001:db8::2]:8443", edit: func(p *header.Hop) { p.RFC7239 = true },
			want: []string{
				"X-Forwarded-For: 2001:db8::1", "X-Forwarded-Proto: https", "X-Forwarded-Host: [2001:db8::2]:8443", "X-Real-Ip: 2001:db8::1", "Via: 1.1 hostproxy",
				`Forwarded: for="[2001:db8::1]";host="[2001:db8::2]:8443";proto=https`,
			},
		},
		{
			name: "Forwarded from an untrusted peer", peer: untrusted, host: "example.com", edit: func(p *header.Hop) { p.RFC7239 = true },
			lines: []string{"Forwarded: for=1.1.1.1;secret=x", "X-Forwarded-For: 1.1.1.1"},
			want: []string{
				"X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "X-Real-Ip: 192.0.2.9", "Via: 1.1 hostproxy",
				"Forwarded: for=192.0.2.9;host=example.com;proto=https",
			},
		},
		{
			name: "Forwarded says the same as X-Forwarded-For of a trusted peer", peer: trusted, host: "inner:80", edit: func(p *header.Hop) { p.RFC7239 = true },
			lines: []string{"Forwarded: for=6.6.6.6", "X-Forwarded-For: 2001:db8::7", "X-Forwarded-Proto: http", "X-Forwarded-Host: outer"},
			want: []string{
				"X-Forwarded-For: 2001:db8::7, 10.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: outer", "X-Real-Ip: 2001:db8::7", "Via: 1.1 hostproxy",
				`Forwarded: for="[2001:db8::7]";host=outer;proto=http, for=10.0.0.1`,
			},
		},
		{
			name: "a trusted unix peer's list stays as it is", peer: "@", host: "example.com", edit: func(p *header.Hop) { p.RFC7239 = true },
			lines: []string{"X-Forwarded-For: 1.1.1.1"},
			want: []string{
				"X-Forwarded-For: 1.1.1.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "X-Real-Ip: 1.1.1.1", "Via: 1.1 hostproxy",
				"Forwarded: for=1.1.1.1;host=example.com;proto=https, for=unknown",
			},
		},
		{
			name: "an unknown peer has no address to give", peer: "", host: "example.com", edit: func(p *header.Hop) { p.RFC7239 = true },
			lines: []string{"X-Forwarded-For: 1.1.1.1", "X-Real-Ip: 1.1.1.1"},
			want:  []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "Via: 1.1 hostproxy", "Forwarded: for=unknown;host=example.com;proto=https"},
		},
		{
			name: "no Host, as HTTP/1.0 allows", peer: untrusted, edit: func(p *header.Hop) { p.Version = "1.0"; p.RFC7239 = true },
			want: []string{"X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Real-Ip: 192.0.2.9", "Via: 1.0 hostproxy", "Forwarded: for=192.0.2.9;proto=https"},
		},
		{
			name: "a Host that would break out of its line is left out", peer: untrusted, host: "a\r\nX-Admin: 1",
			want: []string{"X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Real-Ip: 192.0.2.9", "Via: 1.1 hostproxy"},
		},
		{
			name: "an endless Host is left out", peer: untrusted, host: strings.Repeat("a", 10_000),
			want: []string{"X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Real-Ip: 192.0.2.9", "Via: 1.1 hostproxy"},
		},
		{
			name: "Via is appended to, never replaced", peer: untrusted, host: "example.com", lines: []string{"Via: 1.0 fred", "Via: 2.0 caddy"},
			want: []string{"Via: 1.0 fred", "Via: 2.0 caddy", "X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "X-Real-Ip: 192.0.2.9", "Via: 1.1 hostproxy"},
		},
		{
			name: "a prefix replaces that of an untrusted client", peer: untrusted, host: "a", lines: []string{"X-Forwarded-Prefix: /x"}, edit: func(p *header.Hop) { p.Prefix = "/api" },
			want: []string{"X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: a", "X-Forwarded-Prefix: /api", "X-Real-Ip: 192.0.2.9", "Via: 1.1 hostproxy"},
		},
		{
			name: "a prefix after those of a trusted peer", peer: trusted, host: "a", lines: []string{"X-Forwarded-Prefix: /x, /y", "X-Forwarded-Prefix: /z"},
			edit: func(p *header.Hop) { p.Prefix = "/api" },
			want: []string{"X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: a", "X-Forwarded-Prefix: /x, /y, /z, /api", "X-Real-Ip: 10.0.0.1", "Via: 1.1 hostproxy"},
		},
		{
			name: "no name, no Via", peer: untrusted, host: "example.com", edit: func(p *header.Hop) { p.Name = "" },
			want: []string{"X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", "X-Forwarded-Host: example.com", "X-Real-Ip: 192.0.2.9"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			p := hop(t, test.peer, fields(test.lines...)["X-Forwarded-For"])
			if test.edit != nil {
				test.edit(p)
			}
			assert.Equal(t, fields(test.want...), fullLane(p, test.host, test.lines), "handler lane")
			assert.Equal(t, fields(test.want...), fastLane(t, p, test.host, test.lines), "fast lane")
		})
	}
}

// Behaviours: TestServeHTTPDeepCopy, TestClonesRequestHeaders.
func TestSetForwardedDoesNotWriteToTheSlicesItFinds(t *testing.T) {
	via := append(make([]string, 0, 8), "1.0 fred")
	xff := append(make([]string, 0, 8), "1.1.1.1")
	h := http.Header{"Via": via, "X-Forwarded-For": xff}
	header.SetForwarded(h, hop(t, trusted, xff), "example.com")
	assert.Equal(t, []string{"1.0 fred", ""}, via[:2])
	assert.Equal(t, []string{"1.1.1.1", ""}, xff[:2])
	assert.Equal(t, []string{"1.0 fred", "1.1 hostproxy"}, h["Via"])

	// the shared array must not be written to
	h["X-Forwarded-For"] = append(h["X-Forwarded-For"], "overflow")
	assert.Equal(t, []string{"https"}, h["X-Forwarded-Proto"])
}

func TestAppendForwardedWithoutReceived(t *testing.T) {
	got := header.AppendForwarded([]byte("A: b\r\n"), hop(t, trusted, nil), "example.com", nil)
	assert.Equal(t, "A: b\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: example.com\r\nX-Real-Ip: 10.0.0.1\r\nVia: 1.1 hostproxy\r\n", string(got))
}

func TestReceivedResetForgets(t *testing.T) {
	var r header.Received[[]byte]
	for name, value := range map[string]string{"X-Forwarded-For": "1.1.1.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": "h"} {
		r.Note(header.Classify(name), []byte(value))
	}
	room := cap(r.For)
	r.Reset()
	assert.Empty(t, r.For)
	assert.Equal(t, room, cap(r.For))
	assert.Nil(t, r.For[:1][0], "a value that was reset keeps no buffer alive")
	p := hop(t, trusted, nil)
	assert.Equal(t, header.AppendForwarded(nil, p, []byte("x"), nil), header.AppendForwarded(nil, p, []byte("x"), &r))
}

// FuzzForwarded checks that both lanes do the same, whatever the peer sends,
// and that an untrusted peer changes nothing.
func FuzzForwarded(f *testing.F) {
	f.Add(trusted, "example.com", "1.1.1.1, junk", "http", "other:80", "X_Forwarded_For", "x", "x-forwarded-for")
	f.Add(untrusted, "[::1]:80", "", "https, http", "", "X-Forwarded-Port", "443", "close, x-forwarded-port")
	f.Add("@", "a\"b", "2001:db8::1", "WSS", "[::1]", "Via", "1.0 x", "via")
	f.Fuzz(func(t *testing.T, remote, host, xff, proto, xfh, name, value, connection string) {
		switch header.Classify(name) & (header.Host | header.TE | header.Framing | header.Connection) {
		case 0:
		default:
			t.Skip() // each lane treats these in its own way
		}
		values := []*string{&xff, &proto, &xfh, &value, &connection}
		for _, v := range values {
			if *v = strings.Trim(*v, " \t"); !header.ValidValue(*v) {
				t.Skip() // the parsers refuse it
			}
		}
		if !header.ValidName(name) {
			t.Skip()
		}
		lines := []string{"X-Forwarded-For: " + xff, "X-Forwarded-Proto: " + proto, "X-Forwarded-Host: " + xfh, http.CanonicalHeaderKey(name) + ": " + value, "Connection: " + connection}
		p := hop(t, remote, fields(lines...)["X-Forwarded-For"])
		p.RFC7239 = len(value)%2 == 0
		if len(value)%3 == 0 {
			p.Prefix = "/api"
		}
		full := fullLane(p, host, lines)
		require.Equal(t, full, fastLane(t, p, host, lines))
		if p.Trusted {
			return
		}
		bare := fullLane(p, host, nil)
		for _, ours := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Real-Ip", "Forwarded", "X-Forwarded-Prefix"} {
			require.Equal(t, bare[ours], full[ours])
		}
	})
}

func TestAppendForwardedDoesNotAllocate(t *testing.T) {
	p := hop(t, trusted, []string{"2001:db8::7"})
	p.RFC7239 = true
	host, xff, proto := []byte("example.com:8443"), []byte("2001:db8::7"), []byte("https")
	names := [][]byte{[]byte("x-forwarded-for"), []byte("X-Forwarded-Proto")}
	buf := make([]byte, 0, 1024)
	var received header.Received[[]byte]
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		received.Reset()
		received.Note(header.Classify(names[0]), xff)
		received.Note(header.Classify(names[1]), proto)
		buf = header.AppendForwarded(buf[:0], p, host, &received)
	}))
	assert.Contains(t, string(buf), "X-Forwarded-For: 2001:db8::7, 10.0.0.1\r\n")
}

// The handler lane uses one string and one slice for all our fields. It
// allocates only these and the lists of h.
func TestSetForwardedAllocatesLittle(t *testing.T) {
	p := hop(t, untrusted, nil)
	h := http.Header{}
	header.SetForwarded(h, p, "example.com")
	delete(h, "Via")
	assert.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		header.SetForwarded(h, p, "example.com")
		delete(h, "Via")
	}), 2.0)
}

func BenchmarkForwarded(b *testing.B) {
	p := hop(b, untrusted, nil)
	host := []byte("example.com")
	b.Run("impl=bytes", func(b *testing.B) {
		buf := make([]byte, 0, 1024)
		b.ReportAllocs()
		for b.Loop() {
			buf = header.AppendForwarded(buf[:0], p, host, nil)
		}
	})
	b.Run("impl=header", func(b *testing.B) {
		h := http.Header{"Accept": {"*/*"}, "User-Agent": {"x"}}
		b.ReportAllocs()
		for b.Loop() {
			delete(h, "Via")
			header.SetForwarded(h, p, "example.com")
		}
	})
}

func TestPassesCountsTheNameInVia(t *testing.T) {
	for value, want := range map[string]int{
		"":                          0,
		"1.1 me":                    1,
		"HTTP/1.1 me":               1,
		" 1.1\tme (a comment) ":     1,
		"1.1 me, 2 me,2.0 me":       3,
		"1.1 me:80":                 0,
		"1.1 meme, me 1.1, me, 1.1": 0,
		",,1.1 you, ,1.1 me,":       1,
	} {
		assert.Equal(t, want, header.Passes(value, "me"), value)
		assert.Equal(t, want, header.Passes([]byte(value), "me"), value)
	}
	assert.Zero(t, header.Passes("1.1", ""))
	lines := []byte("1.0 fred, 1.1 me (x)")
	assert.Zero(t, testing.AllocsPerRun(100, func() { header.Passes(lines, "me") }))
}
