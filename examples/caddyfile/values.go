package caddyfile

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy/examples/caddyfile/site"
)

// days matches a number of days in a duration. Read-only.
var days = regexp.MustCompile(`(\d+(?:\.\d+)?)d`)

// duration reads a duration, such as 5s, 1m30s or 2d. A bare number other than
// 0 is a fault.
func (t *translator) duration(d directive) time.Duration {
	a, ok := t.one(d)
	if !ok {
		return 0
	}
	text := days.ReplaceAllStringFunc(a.text, func(s string) string {
		n, _ := strconv.ParseFloat(strings.TrimSuffix(s, "d"), 64)
		return strconv.FormatFloat(n*24, 'f', -1, 64) + "h"
	})
	v, err := time.ParseDuration(text)
	if err != nil || v < 0 {
		t.fault(a.place, d.name(), "%q is not a duration: want a number with a unit, such as 500ms, 10s, 5m, 1h or 2d", a.text)
		return 0
	}
	return v
}

// positive reads a duration above zero.
func (t *translator) positive(d directive) time.Duration {
	v := t.duration(d)
	if v == 0 && len(d.args()) == 1 && len(t.faults) == 0 {
		t.fault(d.place, d.name(), "not supported: a duration of 0; delete the line")
	}
	return v
}

// size reads a size, such as 10MB (10,000,000 bytes), 1MiB or 4096.
func (t *translator) size(d directive) int64 {
	a, ok := t.one(d)
	if !ok {
		return 0
	}
	digits := strings.TrimRight(a.text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	units := map[string]float64{"": 1, "b": 1, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9,
		"ki": 1 << 10, "kib": 1 << 10, "mi": 1 << 20, "mib": 1 << 20, "gi": 1 << 30, "gib": 1 << 30}
	unit, known := units[strings.ToLower(strings.TrimSpace(a.text[len(digits):]))]
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || !known || !(n >= 0) || n*unit > 1<<50 {
		t.fault(a.place, d.name(), "%q is not a size: want a number of bytes, also with a unit such as KB, MB, GB, KiB or MiB", a.text)
		return 0
	}
	return int64(n * unit)
}

// number reads a whole number of at least low.
func (t *translator) number(d directive, low int) int {
	a, ok := t.one(d)
	if !ok {
		return 0
	}
	n, err := strconv.Atoi(a.text)
	if err != nil || n < low || n > 1<<30 {
		t.fault(a.place, d.name(), "%q is not a whole number of at least %d", a.text, low)
		return 0
	}
	return n
}

// one returns the only argument of d.
func (t *translator) one(d directive) (token, bool) {
	if len(d.args()) != 1 {
		return token{}, t.fault(d.place, d.name(), "want one argument, got %d", len(d.args()))
	}
	return d.args()[0], t.noBlock(d)
}

// none reports a fault if d has arguments or a block.
func (t *translator) none(d directive) bool {
	if len(d.args()) > 0 {
		return t.fault(d.args()[0].place, d.name(), "want no argument, got %q", d.args()[0].text)
	}
	return t.noBlock(d)
}

// once reports repeated options of a block, of which only the last would count.
// Those in repeat may be repeated.
func (t *translator) once(block []directive, repeat ...string) {
	seen := map[string]bool{}
	for _, d := range block {
		if seen[d.name()] && !slices.Contains(repeat, d.name()) {
			t.fault(d.place, d.name(), "this option is written twice")
		}
		seen[d.name()] = true
	}
}

// only reports a fault if d has no block, or has arguments before it.
func (t *translator) only(d directive) bool {
	if len(d.args()) > 0 {
		return t.fault(d.args()[0].place, d.name(), "want a block alone: %q is too much", d.args()[0].text)
	}
	return d.open || t.fault(d.place, d.name(), "want a block")
}

// noBlock reports a fault if d has a block.
func (t *translator) noBlock(d directive) bool {
	if d.open {
		return t.fault(d.place, d.name(), "not supported: a block; write the arguments on the line")
	}
	return true
}

// text returns a value that may have placeholders, all of which must be known.
func (t *translator) text(a token, word string) string {
	for _, p := range site.Placeholders(a.text) {
		if isErr := strings.HasPrefix(p, "{err.") || strings.HasPrefix(p, "{http.error."); !site.Known(p) || isErr && !t.inErrors {
			t.fault(a.place, word, "not supported: the placeholder %s; those for the request are, such as {host}, {uri}, {path}, {query}, {method}, {scheme}, {remote_host}, {client_ip} and {header.Name}", p)
		}
	}
	if strings.Contains(a.text, "{>") || strings.Contains(a.text, "{<") {
		t.fault(a.place, word, "not supported: {>Name} is of Caddy 1; write {header.Name}. WebSockets need no such line")
	}
	if strings.Contains(a.text, `\{`) {
		t.fault(a.place, word, `not supported: \{ in a value`)
	}
	return a.text
}

// literal returns a value that must not have placeholders.
func (t *translator) literal(a token, word string) string {
	if p := site.Placeholders(a.text); len(p) > 0 {
		t.fault(a.place, word, "not supported: the placeholder %s here; {$NAME} of the environment works everywhere", p[0])
	}
	return a.text
}

// privateRanges are the ranges that private_ranges stands for. Read-only.
var privateRanges = []string{"192.168.0.0/16", "172.16.0.0/12", "10.0.0.0/8", "127.0.0.1/8", "fd00::/8", "::1"}

// ranges reads addresses and address ranges.
func (t *translator) ranges(at place, args []token, word string) (ps []netip.Prefix) {
	for _, a := range args {
		texts := []string{a.text}
		if a.text == "private_ranges" {
			texts = privateRanges
		}
		for _, text := range texts {
			p, err := netip.ParsePrefix(text)
			if ip, e := netip.ParseAddr(text); e == nil && ip.Zone() == "" {
				p, err = netip.PrefixFrom(ip, ip.BitLen()), nil
			}
			if err != nil {
				t.fault(a.place, word, "%q is not an IP address or a range: want 10.0.0.1, 10.0.0.0/8 or private_ranges", a.text)
				continue
			}
			if p = p.Masked(); !slices.Contains(ps, p) {
				ps = append(ps, p)
			}
		}
	}
	if len(args) == 0 {
		t.fault(at, word, "want IP addresses or ranges")
	}
	return ps
}

// statuses reads response statuses, such as 404 or 5xx.
func (t *translator) statuses(d directive) (codes []int) {
	for _, a := range t.some(d) {
		if class, ok := strings.CutSuffix(strings.ToLower(a.text), "xx"); ok && len(class) == 1 && class[0] >= '1' && class[0] <= '5' {
			for i := range 100 {
				codes = append(codes, int(class[0]-'0')*100+i)
			}
			continue
		}
		n, err := strconv.Atoi(a.text)
		if err != nil || n < 100 || n > 599 {
			t.fault(a.place, d.name(), "%q is not a status: want a number such as 404, or a class such as 5xx", a.text)
			continue
		}
		codes = append(codes, n)
	}
	return codes
}
