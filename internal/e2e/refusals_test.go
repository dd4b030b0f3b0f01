package e2e_test

import (
	"strings"

	"github.com/hostproxy/hostproxy/internal/h1"
)

// A refusal is an invalid request with the status of its response, after which
// the connection ends.
type refusal struct {
	about, raw string
	want       int
	// the fault is in the body: a place that does not read it does not see the
	// fault
	body bool
}

// refusals returns the whole corpus.
func refusals() (all []refusal) {
	for _, part := range [][]refusal{lineRefusals(), targetRefusals(), fieldRefusals(), hostRefusals(), lengthRefusals(), codingRefusals(), chunkRefusals(), expectRefusals()} {
		all = append(all, part...)
	}
	return all
}

// lineRefusals are invalid request lines, except for the target (RFC 9112, 2.2,
// 2.3 and 3).
func lineRefusals() (all []refusal) {
	add := func(about, line string, want int) {
		all = append(all, refusal{about: about, raw: line + "\r\n" + host + "\r\n", want: want})
	}
	add("two spaces before the target", "GET  / HTTP/1.1", 400)
	add("two spaces behind the target", "GET /  HTTP/1.1", 400)
	add("a tab in the request line", "GET\t/ HTTP/1.1", 400)
	add("a space at the end of the request line", "GET / HTTP/1.1 ", 400)
	add("a space first", " GET / HTTP/1.1", 400)
	add("two empty lines first", "\r\n\r\nGET / HTTP/1.1", 400)
	add("a LF first", "\nGET / HTTP/1.1", 400)
	add("a handshake of TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400)
	add("no target", "GET HTTP/1.1", 400)
	add("no version (HTTP/0.9)", "GET /", 400)
	add("a version in lower case", "GET / http/1.1", 400)
	add("a version with two digits", "GET / HTTP/1.10", 400)
	add("a version with a sign", "GET / HTTP/+1.1", 400)
	add("a version with something behind it", "GET / HTTP/1.1x", 400)
	add("HTTP/0.9", "GET / HTTP/0.9", 505)
	add("HTTP/2.0", "GET / HTTP/2.0", 505)
	add("HTTP/3.0", "GET / HTTP/3.0", 505)
	add("a method that is no token", "G(T / HTTP/1.1", 400)
	add("a method with a control byte", "G\x01T / HTTP/1.1", 400)
	add("a bare CR behind the request line", "GET / HTTP/1.1\r", 400)
	all = append(all, refusal{about: "a bare LF behind the request line", raw: "GET / HTTP/1.1\n" + host + "\r\n", want: 400})
	return all
}

// targetRefusals are request targets that are invalid for an origin server (RFC
// 9112, 3.2; RFC 9110, 4.2.4).
func targetRefusals() (all []refusal) {
	add := func(method, target string, want int) {
		all = append(all, refusal{about: method + " of " + label(target), raw: method + " " + target + " HTTP/1.1\r\n" + host + "\r\n", want: want})
	}
	for _, target := range []string{
		"a.test", "a.test:80", "foo:bar", "mailto:x@y", "javascript:alert(1)", "http:x", "http:/x", "http:///x", "http://", "h:/../admin", "http://u@a.test/",
		"http://a.test:x/", "a/b", "../x", "?x", "*", "/a b", "/a#b", "http://a.test/#b", "/%zz", "/%4?x", "/a\x01", "/a\x7f", "/\r", "/\xc3\xa9",
	} {
		add("GET", target, 400)
	}
	add("OPTIONS", "*x", 400)
	add("GET", "/"+strings.Repeat("a", 20<<10), 414)
	add("GET", "http://a.test/"+strings.Repeat("a", 70<<10), 414)
	add("CONNECT", "a.test:443", 501) // CVE-2026-71324
	add("CONNECT", "/", 501)
	add("CONNECT", "http://a.test/", 501)
	return all
}

// fieldRefusals are heads with lines that are no fields, or with too many (RFC
// 9112, 5).
func fieldRefusals() (all []refusal) {
	add := func(about, lines string, want int) {
		all = append(all, refusal{about: about, raw: "GET / HTTP/1.1\r\n" + lines + "\r\n", want: want})
	}
	add("a bare LF behind a field", host+"X: y\nY: z\r\n", 400)
	add("a bare LF as the end of the head", host+"X: y\r\n\nY: z\r\n", 400)
	add("a bare CR in a value", host+"X: a\rb\r\n", 400)
	add("a folded line", host+"X: a\r\n b\r\n", 400)
	add("a line folded by a tab", host+"X: a\r\n\tb\r\n", 400)
	add("white space before the first field", " X: y\r\n"+host, 400)
	add("a space before the colon", host+"X : y\r\n", 400)
	add("a tab before the colon of a length", host+"Content-Length\t: 0\r\n", 400)
	add("a line without a colon", host+"nothing\r\n", 400)
	add("an empty name", host+": y\r\n", 400)
	add("a name that is no token", host+"X(y): z\r\n", 400)
	add("a name beyond ASCII", host+"Content-Lengt\xc4\xa7: 3\r\n", 400)
	add("a NUL in a name", host+"X\x00y: z\r\n", 400)
	add("a NUL in a value", host+"X: a\x00b\r\n", 400)
	add("a control byte in a value", host+"X: a\x01b\r\n", 400)
	add("a DEL in a value", host+"X: \x7f\r\n", 400)
	add("101 fields", host+strings.Repeat("X: y\r\n", h1.MaxFields), 431)
	add("200 fields", host+strings.Repeat("X: y\r\n", 199), 431)
	add("a head of 20 KB", host+"X: "+strings.Repeat("y", 20<<10)+"\r\n", 431)
	add("a name of 70 KB", host+strings.Repeat("n", 70<<10)+": y\r\n", 431) // CVE-2021-40346
	return all
}

// hostRefusals are requests with an ambiguous or invalid host (RFC 9112, 3.2),
// in the forms of known CVEs.
func hostRefusals() (all []refusal) {
	add := func(about, line, fields string) {
		all = append(all, refusal{about: about, raw: line + "\r\n" + fields + "\r\n", want: 400})
	}
	const start = "GET / HTTP/1.1"
	add("no Host", start, "X: y\r\n")
	add("no Host with an absolute target", "GET http://a.test/ HTTP/1.1", "X: y\r\n")
	add("two Hosts", start, host+host)
	add("two Hosts that differ", start, host+"hOST: b.test\r\n")
	add("two Hosts with an absolute target", "GET http://a.test/ HTTP/1.1", host+host)
	add("two Hosts on HTTP/1.0", "GET / HTTP/1.0", host+host)
	for _, invalid := range []string{
		"", "u@a.test", "a.test/b", "a test", `"a.test"`, "a.test\xff", "a.test,b.test", "[abcd::1", "a.test:1:2", "..x", ".", "a..test", "a.test:98777", "a.test:x",
		"[::1%25eth0]", "[a.test]", "::1", "xn--a.test-.com", strings.Repeat("a", 10<<10),
	} {
		add("Host "+label(invalid), start, "Host: "+invalid+"\r\n")
		add("Host "+label(invalid)+" with an absolute target", "GET http://a.test/ HTTP/1.1", "Host: "+invalid+"\r\n")
	}
	return all
}

// lengthRefusals are Content-Lengths that two parsers may read differently (RFC
// 9112, 6.3).
func lengthRefusals() (all []refusal) {
	add := func(about, lines string) {
		all = append(all, refusal{about: about, raw: "POST / HTTP/1.1\r\n" + host + lines + "\r\n", want: 400})
	}
	add("two equal lengths", "Content-Length: 0\r\nContent-Length: 0\r\n")
	add("two different lengths", "Content-Length: 0\r\nContent-Length: 42\r\n")
	for _, v := range []string{"0, 42", "0, 0", "+0", "-1", "0x0", "1_0", "1 0", "1.0", "9223372036854775808", "18446744073709551616", ""} {
		add("the length "+label(v), "Content-Length: "+v+"\r\n")
	}
	return all
}

// codingRefusals are Transfer-Encodings that two parsers may read differently
// (RFC 9112, 6.1 and 11.2).
func codingRefusals() (all []refusal) {
	add := func(about, version, lines string, want int) {
		all = append(all, refusal{about: about, raw: "POST / HTTP/1." + version + "\r\n" + host + lines + "\r\n0\r\n\r\n", want: want})
	}
	const chunked = "Transfer-Encoding: chunked\r\n"
	add("a length with chunked", "1", "Content-Length: 5\r\n"+chunked, 400)
	add("chunked with a length", "1", chunked+"Content-Length: 5\r\n", 400)
	add("a length of 0 with chunked", "1", "Content-Length: 0\r\n"+chunked, 400)
	add("a length with chunked and an expectation", "1", "Content-Length: 5\r\nExpect: 100-continue\r\n"+chunked, 400)
	add("a length with chunked and an upgrade", "1", "Content-Length: 5\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+chunked, 400)
	add("a length with an unknown coding", "1", "Content-Length: 5\r\nTransfer-Encoding: gzip\r\n", 400)
	add("chunked on HTTP/1.0", "0", chunked, 400) // CVE-2026-2835
	add("chunked on HTTP/1.0 that stays", "0", "Connection: keep-alive\r\n"+chunked, 400)
	add("a length with chunked on HTTP/1.0", "0", "Connection: keep-alive\r\nContent-Length: 5\r\n"+chunked, 400)
	add("chunked on two lines", "1", chunked+chunked, 400)
	for _, v := range []string{"chunked, chunked", "chunked, gzip", "gzip", "identity", "xchunked", `"chunked"`, "\x0bchunked", "chunked;q=1", ""} {
		add("the coding "+label(v), "1", "Transfer-Encoding: "+v+"\r\n", 400)
	}
	add("an unknown coding before chunked", "1", "Transfer-Encoding: gzip, chunked\r\n", 501)
	add("an unknown coding on the line before chunked", "1", "Transfer-Encoding: x\r\n"+chunked, 501)
	add("identity before chunked", "1", "Transfer-Encoding: identity, chunked\r\n", 501)
	return all
}

// chunkRefusals are chunked bodies without a valid end, or with ends on which
// two parsers may disagree (RFC 9112, 7.1).
func chunkRefusals() (all []refusal) {
	add := func(about, body string, want int) {
		all = append(all, refusal{about: about, want: want, body: true,
			raw: "POST / HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n" + body})
	}
	const end = "\r\nabc\r\n0\r\n\r\n"
	for _, size := range []string{"", "x", "+3", "-3", "0x3", "0_3", " 3", "3 ", "3\t", "3 a", "3,", "00000000000000003", "10000000000000003", "ffffffffffffffff", "7fffffffffffffff"} {
		add("the chunk size "+label(size), size+end, 400)
	}
	add("a bare LF behind a chunk size", "3\nabc\r\n0\r\n\r\n", 400) // CVE-2025-22871
	add("a bare CR behind a chunk size", "3\rabc\r\n0\r\n\r\n", 400)
	add("a bare LF in an extension", "3;a\n"+end[2:], 400)
	add("a control byte in an extension", "3;a\x00"+end, 400)
	add("an extension of 2 KB", "3;"+strings.Repeat("x", 2<<10)+end, 400)
	add("a chunk that is longer than its size", "2"+end, 400)
	add("a bare LF behind a chunk", "3\r\nabc\n0\r\n\r\n", 400)
	add("a bare LF behind the last size", "0\n\r\n", 400)
	add("a bare LF at the end", "0\r\n\n", 400)
	add("a bare LF behind a trailer", "0\r\nX: y\n\r\n", 400)
	add("a space before the colon of a trailer", "0\r\nX : y\r\n\r\n", 400)
	add("a folded trailer", "0\r\nX: y\r\n z\r\n\r\n", 400)
	add("a trailer without a name", "0\r\n: y\r\n\r\n", 400)
	add("a NUL in a trailer", "0\r\nX: \x00\r\n\r\n", 400)
	add("101 trailers", "0\r\n"+strings.Repeat("X: y\r\n", h1.MaxFields+1)+"\r\n", 400)
	add("trailers of 5 KB", "0\r\nX: "+strings.Repeat("y", 5<<10)+"\r\n\r\n", 400)
	return all
}

// expectRefusals are expectations that cannot be met, or on which two parsers
// may disagree (RFC 9110, 10.1.1).
func expectRefusals() (all []refusal) {
	for _, v := range []string{"the-unexpected", "y 100-continue", "100-continue, x", "100-continue\r\nExpect: x", ""} {
		all = append(all, refusal{about: "the expectation " + label(v), want: 417,
			raw: "POST / HTTP/1.1\r\n" + host + "Expect: " + v + "\r\nContent-Length: 0\r\n\r\n"})
	}
	return all
}
