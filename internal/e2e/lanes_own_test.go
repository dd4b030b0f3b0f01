package e2e_test

import (
	"strings"
	"testing"
)

// ownCases are requests that the proxy, or net/http in its place, may answer
// itself, or that once went to net/http first.
func ownCases() (all []exchange) {
	add := func(name, raw string) { all = append(all, exchange{name: name, raw: raw, answer: say}) }
	probe := host + laneProbe + ": p\r\n"
	add("an empty line first", "\r\nGET / HTTP/1.1\r\n"+probe+"\r\n")
	add("an empty line behind a body", "POST / HTTP/1.1\r\n"+probe+sized("hello")+"\r\n")
	for _, hops := range []string{"", "Max-Forwards: 0\r\n", "Max-Forwards: 1\r\n", "Max-Forwards: x\r\n"} {
		for _, start := range []string{"OPTIONS *", "OPTIONS /", "TRACE /", "GET /"} {
			add(start+" "+strings.TrimSpace(hops), start+" HTTP/1.1\r\n"+probe+hops+"\r\n")
		}
	}
	for _, expect := range []string{"100-continue", "100-Continue", "y", "100-continue, y", ""} {
		add("Expect: "+expect, "GET / HTTP/1.1\r\n"+probe+"Expect: "+expect+"\r\n\r\n")
	}
	add("an expectation of another kind, with a body", "POST / HTTP/1.1\r\n"+probe+"Expect: y\r\n"+sized("hello"))
	// the target sends no 100 Continue
	add("an expectation with a body", "POST / HTTP/1.1\r\n"+probe+"Expect: 100-continue\r\n"+sized("hello"))
	add("an expectation on HTTP/1.0", "POST / HTTP/1.0\r\n"+probe+"Connection: keep-alive\r\nExpect: 100-continue\r\n"+sized("hello"))
	add("an upgrade on HTTP/1.0", "GET / HTTP/1.0\r\n"+probe+"Connection: Upgrade, keep-alive\r\nUpgrade: websocket\r\n\r\n")
	add("an upgrade", "GET / HTTP/1.1\r\n"+probe+"Connection: Upgrade\r\nUpgrade: websocket\r\n"+token+"\r\n")
	add("HTTP/1.2", "GET / HTTP/1.2\r\n"+probe+"\r\n")
	add("no Host on HTTP/1.0", "GET / HTTP/1.0\r\n"+laneProbe+": p\r\n\r\n")
	add("an absolute target of another host", "GET http://b.test/x HTTP/1.1\r\n"+probe+"\r\n")
	add("an absolute target with the default port", "GET http://a.test:80/x HTTP/1.1\r\n"+probe+"\r\n")
	add("an absolute target without a path", "GET http://a.test?q HTTP/1.1\r\n"+probe+"\r\n")
	add("an absolute target of HTTPS", "GET https://a.test/x HTTP/1.1\r\n"+probe+"\r\n")
	return all
}

// ownAnswers are responses of targets that a server might correct.
func ownAnswers() (all []exchange) {
	for _, start := range []string{"GET / HTTP/1.1", "HEAD / HTTP/1.1", "GET / HTTP/1.0"} {
		for _, a := range []struct{ name, raw string }{
			{"426", "HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade\r\nUpgrade: HTTP/3.0\r\nContent-Length: 0\r\n\r\n"},
			{"204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n"},
			{"no type", ok},
			{"103 before it", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + ok},
			{"an empty Date", "HTTP/1.1 200 OK\r\nDate:\r\nContent-Length: 0\r\n\r\n"},
			{"a name in several cases", "HTTP/1.1 200 OK\r\nx-a: 1\r\nETag: \"1\"\r\nWWW-Authenticate: Basic\r\nX-a: 2\r\nContent-Length: 0\r\n\r\n"},
			{"a first chunk that is bad", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"},
		} {
			all = append(all, exchange{name: a.name + " to " + start, raw: start + "\r\n" + host + laneProbe + ": p\r\n\r\n",
				answer: answer{raw: a.raw, close: strings.Contains(a.name, "bad")}})
		}
	}
	return all
}

// The proxy's own responses, including refusals, are the same in the fast lane
// and through a handler: status, reason phrase, fields, and whether the
// connection is kept.
func TestTheLanesAnswerAlike(t *testing.T) {
	t.Parallel()
	corpus := append(ownCases(), ownAnswers()...)
	for _, x := range refusals() {
		corpus = append(corpus, exchange{name: x.about, raw: x.raw, answer: say})
	}
	for name, s := range map[string]shape{"plain": {}, "over TLS": {secure: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			fast, adapter := newFast(t, s), newAdapter(t, s)
			fast.records, adapter.records = nil, nil // refusals by net/http have none
			for _, x := range corpus {
				t.Run(x.name, func(t *testing.T) {
					compare(t, &x, "fast", fast.ask(t, &x), "adapter", adapter.ask(t, &x), classes[:1], map[string]int{})
				})
			}
		})
	}
}
