package e2e_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
)

// classes are the only ways in which other proxies may differ from our front.
// The comparison ignores the order of trailers, the borders of chunks and the
// time of the response, which have no meaning (RFC 9112, 7.1). The lanes behind
// our front must not differ at all. Read-only.
var classes = []class{
	{name: "426's Connection", why: "a handler says Connection in its Header, and the front writes it as it writes its own: behind the other fields", in: handlers,
		holds: func(d difference, x *exchange) bool {
			const own = "Connection"
			return d.is("down names") && d.viewA["down status"] == "426" && strings.HasSuffix(d.b, " | "+own) &&
				strings.Replace(d.a, own+" | ", "", 1)+" | "+own == d.b
		}},
	{name: "order and case", why: "an http.Header has neither: fields that pass net/http are spelled canonically", in: netHTTP,
		holds: func(d difference, x *exchange) bool { return strings.HasSuffix(d.fact, " names") }},
	{name: "length of nothing", why: "our front keeps what the client said, net/http decides by the method: a request without a body may say so or not", in: netHTTP,
		holds: func(d difference, x *exchange) bool {
			return d.is("up field content-length") && d.a+d.b == "0" && d.viewA["up body"] == "" && d.viewB["up body"] == ""
		}},
	{name: "empty User-Agent", why: "net/http's clients take one that begins so for none, and so does ours behind a server of net/http's", in: netHTTP,
		holds: func(d difference, x *exchange) bool {
			return d.is("up field user-agent") && !d.inB && (d.a == "" || strings.HasPrefix(d.a, " | "))
		}},
	{name: "answer's framing", why: "net/http gives a short chunked body a length", in: netHTTP,
		holds: func(d difference, x *exchange) bool {
			return d.is("down field content-length", "down field transfer-encoding") &&
				(d.viewA["down field transfer-encoding"]+d.viewB["down field transfer-encoding"] == "chunked" || strings.Contains(x.raw, " HTTP/1.0\r\n")) &&
				d.viewA["down body"] == d.viewB["down body"]
		}},
	{name: "answer's length", why: "net/http gives a short body a length", in: []string{"foreign over HTTP/2"},
		holds: func(d difference, x *exchange) bool {
			return d.is("down field content-length") && !d.inA && d.b == itoa(len(d.viewB["down body"]))
		}},
	{name: "304's description", why: "net/http takes the fields about a body out of a 304; our front passes them on (RFC 9110, 15.4.5)", in: netHTTP,
		holds: func(d difference, x *exchange) bool {
			return d.is("down field content-length", "down field content-type") && d.viewA["down status"] == "304" && !d.inB
		}},

	{name: "no record", why: "httputil keeps none", in: []string{"httputil"},
		holds: func(d difference, x *exchange) bool { return d.is("record ") && !d.inB }},
	{name: "guessed type", why: "net/http guesses a Content-Type below httputil", in: []string{"httputil"},
		holds: func(d difference, x *exchange) bool { return d.is("down field content-type") && !d.inA }},
	{name: "escaped bytes", why: "httputil escapes what RFC 3986 does not let a path hold", in: []string{"httputil"},
		holds: func(d difference, x *exchange) bool {
			return d.is("up start") && strings.ContainsAny(d.a, "|\"<>{}\\^`")
		}},
	{name: "TE alone", why: "httputil sends TE without the connection option of that name (RFC 9110, 10.1.4)", in: []string{"httputil"},
		holds: func(d difference, x *exchange) bool { return d.is("up field connection") && d.a == "TE" && !d.inB }},
	{name: "lost trailers", why: "httputil, and net/http over HTTP/2, drop trailers of requests that are not announced", in: []string{"httputil", "foreign over HTTP/2"},
		holds: func(d difference, x *exchange) bool { return d.is("up trailer ") && !d.inB }},
}

// handlers are the columns with an http.Handler. Read-only.
var handlers = []string{"adapter", "hooked", "foreign", "httputil", "adapter over HTTP/2", "hooked over HTTP/2", "foreign over HTTP/2"}

// netHTTP are the columns that net/http serves. Read-only.
var netHTTP = []string{"foreign", "httputil", "foreign over HTTP/2"}

// request returns a request of the corpus. start is the start line without the
// version, and rest the fields and the body, after Host and the lane probe.
func request(start string, rest string) string {
	return start + " HTTP/1.1\r\nHost: a.test\r\n" + laneProbe + ": p\r\n" + rest
}

var say = answer{raw: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"}

// framingCases pairs every way to frame a request with every way to frame an
// answer.
func framingCases(methods ...string) (all []exchange) {
	bodies := []struct{ name, rest string }{
		{"no body", "\r\n"},
		{"a body of no bytes", "Content-Length: 0\r\n\r\n"},
		{"a body", sized("hello")},
		{"a chunked body", "Transfer-Encoding: chunked\r\n\r\n" + chunked("hello world", 4)},
		{"a chunked body of no bytes", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		{"a chunked body with trailers", "Transfer-Encoding: chunked\r\n\r\n" + chunked("hello", 3, "X-Sum: 1", "x-sum: 2", "Content-Digest: d")},
	}
	head := "HTTP/1.1 200 OK\r\nX-A: 1\r\n"
	answers := []struct {
		name string
		answer
	}{
		{"no bytes", answer{raw: head + "Content-Length: 0\r\n\r\n"}},
		{"a body", answer{raw: head + sized("hello")}},
		{"chunks", answer{raw: head + "Transfer-Encoding: chunked\r\n\r\n" + chunked("hello world", 4)}},
		{"no chunks", answer{raw: head + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"}},
		{"chunks and trailers", answer{raw: head + "Transfer-Encoding: chunked\r\n\r\n" + chunked("hello", 4, "X-Sum: 1", "X-Sum: 2", "X-Other: 3")}},
		{"chunks and announced trailers", answer{raw: head + "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("hello", 4, "X-Sum: 1")}},
		{"chunks and trailers announced twice", answer{raw: head + "Trailer: X-Sum, x-sum\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked("hello", 4, "X-Sum: 1")}},
		{"a body until the end", answer{raw: head + "\r\nhello", close: true}},
		{"a body and the end", answer{raw: head + "Connection: close\r\n" + sized("hello"), close: true}},
		{"nothing, 204", answer{raw: "HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n"}},
		{"nothing, 304", answer{raw: "HTTP/1.1 304 Not Modified\r\nEtag: \"1\"\r\n\r\n"}},
	}
	for _, method := range methods {
		for _, b := range bodies {
			for _, a := range answers {
				all = append(all, exchange{name: method + " with " + b.name + ", answered by " + a.name,
					raw: request(method+" /p?q=1", b.rest), answer: a.answer})
			}
		}
	}
	for _, a := range answers { // for HEAD, the same heads without bodies
		a.raw = a.raw[:strings.Index(a.raw, "\r\n\r\n")+4]
		all = append(all, exchange{name: "HEAD, answered by the head of " + a.name, raw: request("HEAD /p", "\r\n"), answer: a.answer,
			foreign: strings.Contains(a.name, "announced")}) // httputil announces them
	}
	return all
}

// rig has the proxies for a corpus.
type rig struct {
	fast, adapter, hooked *track // behind our front
	foreign               *track // below an http.Server
	reference             *track // nil if httputil has no such feature
}

func newRig(t testing.TB, s shape) *rig {
	t.Helper()
	plain := !s.secure
	s.tune = func(s *hostproxy.Server) { s.H2C = plain }
	r := &rig{fast: newFast(t, s), adapter: newAdapter(t, s), hooked: newHooked(t, s), foreign: newForeign(t, s)}
	for _, k := range []*track{r.fast, r.adapter, r.hooked, r.foreign} {
		k.begin2(t)
	}
	if !s.own && s.trusted == "" {
		r.reference = newReference(t, s)
	}
	return r
}

// run sends x through each proxy and compares the results.
func (r *rig) run(t testing.TB, x *exchange, used map[string]int) {
	t.Helper()
	fast := r.fast.ask(t, x)
	require.Equal(t, "1", fast["up requests"], "%s: what the backend gets; the client gets %s", x.name, short(fast["down status"]+fast["down body"]))
	for _, k := range []*track{r.adapter, r.hooked, r.foreign} {
		compare(t, x, "fast", fast, k.name, k.ask(t, x), classes, used)
	}
	if r.reference != nil && !x.foreign {
		compare(t, x, "fast", fast, "httputil", r.reference.ask(t, x), classes, used)
	}
	s, body, ok := x.overHTTP2()
	if !ok {
		return
	}
	two := r.fast.ask2(t, x, &s, body)
	compare(t, x, "fast", fast, "fast over HTTP/2", two, protocols, used)
	for _, k := range []*track{r.adapter, r.hooked, r.foreign} {
		compare(t, x, "fast over HTTP/2", two, k.name+" over HTTP/2", k.ask2(t, x, &s, body), classes, used)
	}
}

// headCases are odd but legal heads.
func headCases() (all []exchange) {
	add := func(name, raw string) *exchange {
		all = append(all, exchange{name: name, raw: raw, answer: say})
		return &all[len(all)-1]
	}
	get := func(name, fields string) *exchange { return add(name, request("GET /", fields+"\r\n")) }
	get("empty values", "X-Empty:\r\nX-Blank:   \t \r\n")
	get("no space behind the colon", "X-A:b\r\n")
	get("white space around a value", "X-A: \t b \tc\t \r\n")
	get("bytes beyond ASCII", "X-A: caf\xc3\xa9 \xff\xfe\r\n")
	get("a name of every kind of byte", "!#$%&'*+-.^_`|~09azAZ: v\r\n")
	get("a name of one byte", "x: 1\r\n")
	get("a long value", "X-Long: "+strings.Repeat("v", 8<<10)+"\r\n")
	get("a long name", strings.Repeat("n", 4<<10)+": v\r\n")
	get("90 fields", strings.Repeat("X-Many: v\r\n", 90))
	get("several values of one field", "Accept: a\r\nX-A: 1\r\naccept: b\r\nACCEPT: c, d\r\n")
	get("several cookies", "Cookie: a=1\r\nCookie: b=2; c=3\r\n")
	get("a user agent", "User-Agent: me/1\r\n")
	get("an empty user agent", "User-Agent:\r\n")
	get("credentials", "Authorization: Basic YTpi\r\nProxy-Authorization: Basic YTpi\r\n")
	get("what a browser sends", "User-Agent: Mozilla/5.0 (X11)\r\nAccept: text/html,*/*;q=0.8\r\nAccept-Language: de\r\nAccept-Encoding: gzip, br\r\n"+
		"Referer: http://a.test/\r\nConnection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\nCache-Control: max-age=0\r\n")
	get("Connection: keep-alive", "Connection: keep-alive\r\n")
	get("Connection: close", "Connection: close\r\n")
	get("Connection: Close, keep-alive", "Connection: Close , keep-alive\r\n")
	get("an empty Connection", "Connection:\r\nConnection: ,,\r\n")
	// httputil keeps HTTP2-Settings
	get("hop-by-hop fields", "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nHTTP2-Settings: AAMAAABk\r\n").foreign = true
	get("a condition", "If-None-Match: \"1\"\r\nIf-Modified-Since: Mon, 02 Jan 2006 15:04:05 GMT\r\nRange: bytes=0-1\r\n")
	get("Via of another proxy", "Via: 1.0 first, 1.1 second\r\nvia: 1.1 third\r\n")

	get("Connection names fields", "Connection: X-Secret, x-other\r\nX-Secret: 1\r\nX-Other: 2\r\nX-Kept: 3\r\n")
	get("Connection names fields on several lines", "Connection: close\r\nConnection:\tX-Secret ,\r\nX-Secret: 1\r\n")
	get("Connection names ours", "Connection: x-forwarded-for, X-Real-Ip, via, Forwarded, X-Forwarded-Host, host, content-length\r\n")
	get("TE", "TE: trailers, gzip\r\n")
	get("an upgrade nobody may ask for", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n")
	all[len(all)-1].foreign = true // httputil lets it pass
	add("an announced trailer", request("POST /", "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"+chunked("hello", 2, "X-Sum: 1")))
	add("HTTP/1.0", "GET / HTTP/1.0\r\nHost: a.test\r\n"+laneProbe+": p\r\n\r\n")
	add("HTTP/1.0 that wants to go on", "GET / HTTP/1.0\r\nHost: a.test\r\n"+laneProbe+": p\r\nConnection: keep-alive\r\n\r\n")
	// httputil writes that version in Via
	add("HTTP/1.2", "GET / HTTP/1.2\r\nHost: a.test\r\n"+laneProbe+": p\r\n\r\n").foreign = true
	add("an unusual method", request("M-SEARCH /", "\r\n"))
	add("an absolute target", request("GET http://a.test/x?y", "\r\n"))
	add("an absolute target of another host", request("GET http://b.test:8080/x?y", "\r\n"))
	get("Max-Forwards", "Max-Forwards: 0\r\n")
	add("OPTIONS", request("OPTIONS /", "\r\n"))
	add("OPTIONS that is counted", request("OPTIONS /", "Max-Forwards: 5\r\n\r\n"))
	all[len(all)-1].foreign = true // httputil does not count
	for _, host := range []string{"A.Test", "a.test.", "a.test:80", "A.TEST.:8080", "127.0.0.1", "a_b.test", "a.test:"} {
		add("Host "+host, "GET / HTTP/1.1\r\nHost: "+host+"\r\n"+laneProbe+": p\r\n\r\n")
	}
	for _, host := range []string{"[::1]", "[2001:db8::1]:80", "xn--bcher-kva.test"} {
		add("Host "+host, "GET / HTTP/1.1\r\nHost: "+host+"\r\n"+laneProbe+": p\r\n\r\n")
	}
	return all
}

// targetCases are request targets that must arrive as they are.
func targetCases() (all []exchange) {
	for _, target := range []string{
		"/", "//", "///a//b/", "/a%2Fb%2fc", "/%41%7e", "/a%20b", "/a%00b", "/a;b=c;d", "/a+b", "/a/../b/./c", "/..", "/%2e%2e/", "/a:b@c", "/!$&'()*,",
		"/a|b", "/a\"b", "/<b>", "/{x}", "/a\\b", "/a^b`c", "/[x]", "/?", "/a?", "/a??b", "/?a=1;b=2&c=%x", "/?%", "/a|?", "/a|??b", "/?a=%2F&b=+&c=\"",
		"/?" + strings.Repeat("a=b&", 1000), "/" + strings.Repeat("../", 1000), "/" + strings.Repeat("a", 8<<10), "/http://b.test/", "/*", "/%C3%A9?%C3%A9",
	} {
		all = append(all, exchange{name: "target " + label(target), raw: request("GET "+target, "\r\n"), answer: say})
	}
	return all
}

// answerCases are odd but legal heads and framings of a response.
func answerCases() (all []exchange) {
	add := func(name, raw string) *exchange {
		all = append(all, exchange{name: name, raw: request("GET /", "\r\n"), answer: answer{raw: raw}})
		return &all[len(all)-1]
	}
	ok := func(name, fields string) *exchange { return add(name, "HTTP/1.1 200 OK\r\n"+fields+sized("hello")) }
	ok("several values of one field", "Set-Cookie: a=1\r\nX-A: 1\r\nset-cookie: b=2; Path=/\r\nSET-COOKIE: c=3\r\nx-a: 2, 3\r\n")
	ok("empty values", "X-Empty:\r\nX-Blank: \t \r\n")
	ok("bytes beyond ASCII", "X-A: caf\xc3\xa9 \xff\r\n")
	ok("a long value", "X-Long: "+strings.Repeat("v", 12<<10)+"\r\n")
	ok("90 fields", strings.Repeat("X-Many: v\r\n", 90))
	ok("a Content-Type", "Content-Type: text/x-own\r\n")
	ok("a Date", "Date: Mon, 02 Jan 2006 15:04:05 GMT\r\nServer: own/1\r\n")
	ok("a compressed body", "Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n")
	ok("Via and X-Forwarded-For", "Via: 1.1 inner\r\nX-Forwarded-For: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nX-Real-Ip: 10.0.0.1\r\n")
	// httputil keeps TE in responses
	ok("hop-by-hop fields", "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nUpgrade: h2\r\nTE: trailers\r\n").foreign = true
	ok("Connection names fields", "Connection: X-Secret, keep-alive\r\nX-Secret: 1\r\nX-Kept: 2\r\n")
	ok("Connection names fields on several lines", "connection: x-secret\r\nConnection: , X-Other ,\r\nX-Secret: 1\r\nx-other: 2\r\n")
	// httputil drops the length
	ok("Connection names what must stay", "Connection: Content-Length, Date, Content-Type\r\nContent-Type: text/x-own\r\n").foreign = true
	// httputil keeps it
	ok("Alt-Svc", "Alt-Svc: h2=\":8443\"\r\n").foreign = true
	ok("the same length twice", "Content-Length: 5\r\n")
	ok("an event stream with a length", "Content-Type: text/event-stream\r\n")
	add("no reason", "HTTP/1.1 200 \r\n"+sized("x"))
	add("no space before no reason", "HTTP/1.1 200\r\n"+sized("x"))
	add("an odd reason", "HTTP/1.1 200 Really very fine\r\n"+sized("x"))
	add("HTTP/1.0", "HTTP/1.0 200 OK\r\n"+sized("x")).answer.close = true
	add("HTTP/1.0 that stays", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"+sized("x"))
	for _, status := range []string{"201", "202", "203", "206", "299", "300", "301", "400", "401", "404", "413", "416", "418", "429", "500", "502", "503", "504", "599", "600", "999"} {
		add("status "+status, "HTTP/1.1 "+status+" Whatever\r\nRetry-After: 1\r\nLocation: /x\r\nWww-Authenticate: Basic\r\n"+sized("hello"))
	}
	for _, interim := range []string{"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nlink: </b>\r\n\r\n", "HTTP/1.1 102 Processing\r\n\r\n",
		"HTTP/1.1 199 Own\r\nX-I: 1\r\nConnection: X-Gone\r\nX-Gone: 1\r\nKeep-Alive: x\r\n\r\n"} {
		// httputil keeps hop-by-hop fields
		add("interim "+interim[9:12], interim+"HTTP/1.1 200 OK\r\nX-A: 1\r\n"+sized("hello")).foreign = true
		add("interim "+interim[9:12]+" three times", strings.Repeat(interim, 3)+"HTTP/1.1 204 No Content\r\nX-A: 1\r\n\r\n").foreign = true
	}
	// httputil passes it on
	add("100 that nobody asked for", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"+sized("hello")).foreign = true
	add("304 with what a 200 has", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nContent-Type: text/x-own\r\nEtag: \"1\"\r\n\r\n")
	add("204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")
	add("a trailer with the name of a field", "HTTP/1.1 200 OK\r\nX-A: 1\r\nTrailer: X-A\r\nTransfer-Encoding: chunked\r\n\r\n"+
		chunked("hello", 4, "X-Sum: 1")).foreign = true // httputil makes a trailer of the field
	add("chunk extensions and padding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b;c=\"d\"\r\nabc\r\n2  \r\nde\r\n000\r\n\r\n")
	// httputil refuses it
	add("white space in chunk extensions", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3 ;a\r\nabc\r\n2\t; b = \"c\"\r\nde\r\n0 ;d\r\n\r\n").foreign = true
	// httputil drops it
	add("426 and what it requires", "HTTP/1.1 426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: HTTP/2.0\r\n"+sized("x")).foreign = true
	add("HTTP/1.2", "HTTP/1.2 200 OK\r\n"+sized("x"))
	add("chunks of one byte", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunked(strings.Repeat("x", 3000), 1))
	add("forbidden trailers", "HTTP/1.1 200 OK\r\nTrailer: Content-Length, X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n"+
		chunked("hello", 5, "Content-Length: 1", "Set-Cookie: a=b", "Transfer-Encoding: chunked", "X-Sum: 1", "Host: b", "Connection: close"))
	all[len(all)-1].foreign = true // httputil lets most of them pass
	return all
}

// bodyCases are bodies of many sizes, there and back.
func bodyCases(sizes ...int) (all []exchange) {
	for _, n := range sizes {
		body := strings.Repeat("0123456789abcdef", n/16+1)[:n]
		head := answer{raw: "HTTP/1.1 200 OK\r\n", echo: true}
		all = append(all, exchange{name: itoa(n) + " bytes", raw: request("POST /", sized(body)), answer: head})
		for _, c := range []int{1000, 20_000} {
			all = append(all, exchange{name: itoa(n) + " bytes in chunks of " + itoa(c),
				raw: request("PUT /", "Transfer-Encoding: chunked\r\n\r\n"+chunked(body, c)), answer: head})
		}
	}
	return all
}

// label returns a name for a case about s.
func label(s string) string { return strconv.Quote(s[:min(len(s), 80)]) }

// claimCases are requests with fields in which clients describe themselves and
// proxies before them.
func claimCases() (all []exchange) {
	for _, fields := range []string{
		"X-Forwarded-For: 10.0.0.1\r\n", "X-Forwarded-For: 10.0.0.1, 127.0.0.2\r\nx-forwarded-for:  192.0.2.1 ,,127.0.0.3\r\n",
		"X-Forwarded-For: 2001:db8::1\r\n", "X-Forwarded-For: [2001:db8::1%eth0]:80, 127.0.0.9:1\r\n", "X-Forwarded-For: nonsense, 127.0.0.2\r\n",
		"X-Forwarded-For:\r\n", "X-Forwarded-For: " + strings.Repeat("127.0.0.1, ", 100) + "127.0.0.1\r\n", "X-Forwarded-For: ::ffff:10.1.1.1\r\n",
		"X-Forwarded-Proto: https\r\n", "X-Forwarded-Proto: gopher\r\n", "X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n",
		"X-Forwarded-Host: c.test\r\n", "X-Forwarded-Host: c.test\r\nX-FORWARDED-HOST: d.test\r\n", "X-Forwarded-Host: a b\r\n",
		"X-Forwarded-Port: 1\r\nX-Forwarded-Prefix: /x\r\nX-Forwarded-Own: 1\r\nX-Forwarded: a\r\n",
		"Forwarded: for=10.0.0.1;proto=https\r\n", "X-Real-IP: 10.0.0.1\r\n", "X_Forwarded_For: 10.0.0.1\r\nX.Real.Ip: 10.0.0.1\r\nX-Forwarded_Own: 1\r\n",
		"Content_Length: 1\r\nTransfer_Encoding: chunked\r\nX_Own: kept\r\n",
	} {
		all = append(all, exchange{name: "claim " + label(fields), raw: request("GET /", fields+"\r\n"), answer: say, foreign: true})
	}
	return all
}

// Each request goes through the fast lane of a Server, through its handlers,
// through the Router below net/http's own server, and, where comparable,
// through httputil.ReverseProxy. If possible it then goes over HTTP/2 through
// all except the last. All backends must get the same request, and all clients
// the same response.
func TestTheLanesAreOne(t *testing.T) {
	t.Parallel()
	edits := func(u *hostproxy.Upstream) {
		u.RequestHeader = hostproxy.HeaderEdit{Remove: []string{"User-Agent", "x-gone", "Cookie"},
			Set: http.Header{"x-set": {"1", "2"}, "X-A": {"ours"}}, Add: http.Header{"Accept": {"ours"}, "X-Added": {"1"}, "User-Agent": {"ours"}}}
		u.ResponseHeader = hostproxy.HeaderEdit{Remove: []string{"server", "X-Blank", "link"},
			Set: http.Header{"Content-Type": {"text/x-set"}, "x-a": {"ours"}}, Add: http.Header{"Set-Cookie": {"ours=1"}, "X-Added": {"1"}}}
		u.TargetHost, u.Forwarded = true, true
	}
	common := slices.Concat(headCases(), targetCases())
	used := map[string]int{}
	for _, tt := range []struct {
		shape
		corpus []exchange
	}{
		{shape{name: "as it comes"}, slices.Concat(framingCases("GET", "POST", "DELETE", "PROPFIND"), common, answerCases(), claimCases(), bodyCases(1, 4095, 16<<10-300, 16<<10-1, 16<<10, 16<<10+1, 32<<10, 32<<10+1, 100_000, 1<<20))},
		{shape{name: "below a path", base: "/base/x"}, common},
		{shape{name: "below a path with a slash", base: "/base/"}, common},
		{shape{name: "below an escaped path", base: "/b%2Fc%20"}, common},
		{shape{name: "behind a trusted proxy", trusted: "127.0.0.0/8", change: func(u *hostproxy.Upstream) { u.Forwarded = true }}, slices.Concat(claimCases(), headCases())},
		{shape{name: "with edits", change: edits, own: true}, slices.Concat(common, answerCases(), claimCases())},
		{shape{name: "over TLS", secure: true}, slices.Concat(framingCases("POST"), answerCases(), bodyCases(1, 16<<10, 16<<10+1, 100_000))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, tt.shape)
			for _, x := range tt.corpus {
				t.Run(x.name, func(t *testing.T) { r.run(t, &x, used) })
			}
		})
	}
	for _, c := range slices.Concat(classes, protocols) {
		assert.NotZero(t, used[c.name], "nothing differs by its %s: the class can go", c.name)
	}
}
