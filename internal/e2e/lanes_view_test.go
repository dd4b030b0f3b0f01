package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/internal/proxytest"
)

// A view has the named facts about an exchange: "up" from the backend, "down"
// from the client, "record" from Observe. Fields are compared by lower-case
// name, with their values in order. " names" are the names of a head, as
// spelled and in order.
type view map[string]string

// addUp adds what the backend received, without its own address.
func (v view) addUp(k *track) {
	all := k.mirror.taken()
	v["up requests"] = itoa(len(all))
	if len(all) != 1 {
		return
	}
	q := all[0]
	start := v.addHead("up", bytes.ReplaceAll(q.Raw, []byte(k.mirror.ln.Addr().String()), []byte("backend.test")))
	v["up start"] = start
	v["up body"] = string(q.Content)
	v.addTrailers("up", q.Trailer)
}

// laneProbe is a field of each compared request, in a spelling that net/http
// never writes. Our front keeps the spelling.
const laneProbe = "x-lAnE"

// readResponses adds the responses to one request, interim ones included, and
// returns the final one, or nil.
func (v view) readResponses(c *proxytest.Conn, method string) *proxytest.Response {
	for i := 0; ; i++ {
		p, err := c.ReadResponse(method)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			v["down hangs"] = "yes"
			return nil
		}
		if p == nil {
			v["down"] = "nothing"
			return nil
		}
		what := "down"
		if p.StatusCode < 200 && p.StatusCode != 101 {
			what = fmt.Sprintf("interim %d", i)
		}
		start := v.addHead(what, p.Raw)
		_, rest, _ := strings.Cut(start, " ")
		v[what+" status"], v[what+" reason"], _ = strings.Cut(rest, " ")
		if what != "down" {
			continue
		}
		v["down body"] = string(p.Content)
		v.addTrailers("down", p.Trailer)
		if err != nil {
			v["down cut"] = "yes"
			return nil
		}
		return p
	}
}

// addHead adds the fields of a raw head and returns its first line.
func (v view) addHead(what string, raw []byte) string {
	start, rest, _ := strings.Cut(string(raw), "\r\n")
	head, _, whole := strings.Cut("\r\n"+rest, "\r\n\r\n")
	if !whole {
		v[what+" head"] = "has no end"
	}
	for line := range strings.SplitSeq(strings.TrimPrefix(head, "\r\n"), "\r\n") {
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || strings.ContainsAny(line, "\r\n\x00") {
			v[what+" head"] = "has the line " + strconv.Quote(line)
		}
		v.add(what+" names", name)
		name, value = strings.ToLower(name), strings.Trim(value, " \t")
		if name == "trailer" { // names as well
			value = strings.ToLower(value)
		}
		if name == "via" { // each Router has a name of its own
			value = pseudonym.ReplaceAllString(value, "hostproxy")
		}
		if at, err := http.ParseTime(value); name == "date" && err == nil && time.Since(at) < proxytest.Patience {
			value = "now"
		}
		if name == "retry-after" || name == "ratelimit" { // seconds, of which some have passed
			value = thousand.ReplaceAllString(value, "${1}1000")
		}
		v.add(what+" field "+name, value)
	}
	if names, ok := v[what+" field trailer"]; ok { // net/http announces them in the order of a map
		all := strings.Split(names, " | ")
		slices.Sort(all)
		v[what+" field trailer"] = strings.Join(all, " | ")
	}
	return start
}

// thousand matches a value that ends in seconds, counted down from 1000 for at
// most proxytest.Patience.
var thousand = regexp.MustCompile(`^(|.*;t=)(?:1000|99\d|98[5-9])$`)

// pseudonym matches the name of a Router in Via.
var pseudonym = regexp.MustCompile("hostproxy-[a-z2-7]{8}")

func (v view) addTrailers(what string, h http.Header) {
	for name, values := range h {
		for _, value := range values {
			v.add(what+" trailer "+strings.ToLower(name), value)
		}
	}
}

// add appends a value to those of a fact.
func (v view) add(fact, value string) {
	if old, ok := v[fact]; ok {
		value = old + " | " + value
	}
	v[fact] = value
}

// probe performs a simple exchange on the same connection.
func (v view) probe(c *proxytest.Conn) {
	if err := c.Send("GET /probe HTTP/1.1\r\nHost: a.test\r\n\r\n"); err != nil {
		v["down kept"] = "no: " + err.Error()
		return
	}
	switch p, err := c.ReadResponse("GET"); {
	case err != nil:
		v["down kept"] = "no: " + err.Error()
	case p.StatusCode != 200 || string(p.Content) != "probe":
		v["down kept"] = "out of step: " + string(p.Raw)
	}
}

// addRecord adds the first of the next n records.
func (v view) addRecord(k *track, n int) {
	if k.records == nil || v["up requests"] == "0" {
		return
	}
	for i := range n {
		select {
		case x := <-k.records:
			if i == 0 {
				v.addFacts(&x)
			}
		case <-time.After(proxytest.Patience):
			v["record"] = "missing"
			return
		}
	}
}

func (v view) addFacts(x *hostproxy.Exchange) {
	v["record client"], v["record peer"] = x.Client.String(), x.Peer.String()
	v["record request"] = strings.Join([]string{x.Proto, x.Scheme, x.Method, x.Host, x.Path, x.Query, x.Pattern}, " ")
	v["record status"], v["record attempts"] = itoa(x.Status), itoa(x.Attempts)
	v["record request bytes"], v["record response bytes"] = fmt.Sprint(x.RequestBytes), fmt.Sprint(x.ResponseBytes)
	if x.Err == nil {
		return
	}
	e, ok := x.Err.(*hostproxy.Error)
	if !ok {
		v["record error"] = "is no *Error"
		return
	}
	v["record error"] = e.Op + " " + string(e.Side)
}

// A class is an allowed kind of difference between two proxies.
type class struct {
	name, why string
	in        []string // columns where it is allowed
	holds     func(d difference, x *exchange) bool
}

// A difference is one fact that two views do not share. Absent facts are "".
type difference struct {
	fact         string
	a, b         string
	inA, inB     bool
	viewA, viewB view
}

// is reports whether the fact is one of facts. One that ends in a space stands
// for all facts with that prefix.
func (d difference) is(facts ...string) bool {
	return slices.ContainsFunc(facts, func(f string) bool {
		return d.fact == f || strings.HasSuffix(f, " ") && strings.HasPrefix(d.fact, f)
	})
}

// compare requires that a and b have no differences except allowed ones, which
// it counts in used.
func compare(t testing.TB, x *exchange, nameA string, a view, nameB string, b view, allowed []class, used map[string]int) {
	t.Helper()
	facts := make(map[string]bool)
	for _, v := range []view{a, b} {
		for f := range v {
			facts[f] = true
		}
	}
	var wrong []string
	for f := range facts {
		d := difference{fact: f, viewA: a, viewB: b}
		d.a, d.inA = a[f]
		d.b, d.inB = b[f]
		if d.inA == d.inB && d.a == d.b {
			continue
		}
		c := classify(d, x, allowed, nameB)
		if c == "" {
			wrong = append(wrong, fmt.Sprintf("%s:\n\t%-8s %s\n\t%-8s %s", f, nameA, d.show(d.a, d.inA), nameB, d.show(d.b, d.inB)))
			continue
		}
		used[c]++
	}
	if len(wrong) > 0 {
		slices.Sort(wrong)
		t.Fatalf("%s: %s and %s differ\nrequest %s\nanswer  %s\n%s", x.name, nameA, nameB,
			short(x.raw), short(x.answer.raw), strings.Join(wrong, "\n"))
	}
}

func (d difference) show(value string, is bool) string {
	if !is {
		return "-"
	}
	return short(value)
}

// short quotes s, or its beginning and its length.
func short(s string) string {
	if len(s) > 600 {
		return strconv.Quote(s[:600]) + fmt.Sprintf("... (%d bytes)", len(s))
	}
	return strconv.Quote(s)
}

func classify(d difference, x *exchange, allowed []class, column string) string {
	for _, c := range allowed {
		if slices.Contains(c.in, column) && c.holds(d, x) {
			return c.name
		}
	}
	return ""
}

func itoa(n int) string { return strconv.Itoa(n) }
func hex(n int) string  { return strconv.FormatInt(int64(n), 16) }
