package e2e_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// try performs an exchange that should fail, on its own connection, and does
// not check the state after it.
func (k *track) try(t testing.TB, x *exchange) view {
	t.Helper()
	c := k.connect(t)
	k.mirror.answer.Store(&x.answer)
	require.NoError(t, c.Send(x.raw))
	v := view{}
	method, _, _ := strings.Cut(x.raw, " ")
	if last := v.readResponses(c, method); last != nil && !last.Close {
		v["down kept"] = "yes"
	}
	c.Close()
	v.addRecord(k, 1)
	return v
}

// failures are the only differences that a foreign server may have when an
// exchange fails. Read-only.
var failures = []class{
	{name: "unread body", why: "net/http closes behind an answer that did not need the body; our front goes on if it has it already", in: netHTTP,
		holds: func(d difference, x *exchange) bool {
			return d.is("down field connection", "down kept") && d.viewB["down field connection"] == "close" && d.viewB["record request bytes"] == "0"
		}},
	{name: "bytes of a bad body", why: "our front sees what is wrong before it sends the rest", in: netHTTP,
		holds: func(d difference, x *exchange) bool {
			return d.is("record request bytes") && d.viewA["record error"] == "read client"
		}},
	{name: "order and case", why: "an http.Header has neither: fields that pass net/http are spelled canonically", in: netHTTP,
		holds: func(d difference, x *exchange) bool { return strings.HasSuffix(d.fact, " names") }},
}

// If the proxy itself answers, or cuts off the client, all lanes do it in the
// same way, with the same record.
func TestTheLanesFailAlike(t *testing.T) {
	t.Parallel() // most of the time is spent waiting
	requests := []struct{ name, raw string }{
		{"GET", request("GET /p?q", "\r\n")},
		{"HEAD", request("HEAD /p", "\r\n")},
		{"GET of a client that leaves", request("GET /p", "Connection: close\r\n\r\n")},
		{"POST", request("POST /p", sized("hello"))},
		{"POST in chunks", request("POST /p", "Transfer-Encoding: chunked\r\n\r\n"+chunked("hello", 2))},
		{"DELETE", request("DELETE /p", "\r\n")},
	}
	bad := func(name, rest string) struct{ name, raw string } {
		return struct{ name, raw string }{name, request("POST /p", "Transfer-Encoding: chunked\r\n\r\n"+rest)}
	}
	refused := proxytest.Refused(t)
	impatient := func(u *hostproxy.Upstream) { u.ResponseHeaderTimeout = patient }
	head := "HTTP/1.1 200 OK\r\n"
	for _, tt := range []struct {
		shape
		answer   answer
		requests []struct{ name, raw string }
	}{
		{shape{name: "nobody listens", change: func(u *hostproxy.Upstream) { u.Targets[0].Host = refused }}, answer{}, requests},
		{shape{name: "no name", change: func(u *hostproxy.Upstream) { u.Targets[0].Host = "x.invalid:80" }}, answer{}, requests[:1]},
		{shape{name: "drained", change: func(u *hostproxy.Upstream) { _ = u.Drain(context.Background()) }}, answer{}, requests},
		{shape{name: "no answer"}, answer{close: true}, requests},
		{shape{name: "silence", change: impatient}, answer{}, requests[3:4]},
		{shape{name: "half a head"}, answer{raw: head + "X-A", close: true}, requests},
		{shape{name: "half a head, then silence", change: impatient}, answer{raw: head + "X-A"}, requests[:1]},
		{shape{name: "garbage"}, answer{raw: "SSH-2.0-OpenSSH_9.2p1\r\n", close: true}, requests},
		{shape{name: "a bad field"}, answer{raw: head + "X A: 1\r\n\r\n", close: true}, requests},
		{shape{name: "101 that nobody asked for"}, answer{raw: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", close: true}, requests},
		{shape{name: "too many interim responses"}, answer{raw: strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 40), close: true}, requests[:1]},
		{shape{name: "less body than promised"}, answer{raw: head + "Content-Length: 10\r\n\r\nhello", close: true}, requests[:1]},
		{shape{name: "no last chunk"}, answer{raw: head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", close: true}, requests[:1]},
		{shape{name: "a bad chunk"}, answer{raw: head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n", close: true}, requests[:1]},
		{shape{name: "a client's bad body"}, say, []struct{ name, raw string }{
			bad("a chunk size that is none", "x\r\nhello\r\n0\r\n\r\n"), bad("a chunk too long", "2\r\nhello\r\n0\r\n\r\n"), bad("a bad chunk later", "2\r\nhe\r\nx\r\n"),
		}},
		{shape{name: "asked too often", limit: &hostproxy.RateLimit{Rate: 0.001, Burst: 1}}, say, append(requests[:1:1], requests...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := &rig{fast: newFast(t, tt.shape), adapter: newAdapter(t, tt.shape), hooked: newHooked(t, tt.shape), foreign: newForeign(t, tt.shape)}
			for _, q := range tt.requests {
				x := &exchange{name: q.name, raw: q.raw, answer: tt.answer}
				v := r.fast.try(t, x)
				for _, k := range []*track{r.adapter, r.hooked, r.foreign} {
					compare(t, x, "fast", v, k.name, k.try(t, x), failures, map[string]int{})
				}
			}
		})
	}
}
