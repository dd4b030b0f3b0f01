package acmetest

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/libdns/libdns"
	"github.com/miekg/dns"
)

// A DNS is a name server in which every name has the address 127.0.0.1. TXT
// records are added by its methods, which make it a libdns provider.
type DNS struct {
	Addr string // host:port, TCP and UDP

	mu   sync.Mutex
	txt  map[string][]string // by name with a trailing dot
	none map[string]bool     // names without an address
}

// NewDNS starts a DNS. It is stopped when the test ends.
func NewDNS(t testing.TB) *DNS {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("acmetest: dns: %v", err)
	}
	pc, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatalf("acmetest: dns: %v", err)
	}
	d := &DNS{Addr: ln.Addr().String(), txt: make(map[string][]string), none: make(map[string]bool)}
	for _, s := range []*dns.Server{{Listener: ln, Handler: d}, {PacketConn: pc, Handler: d}} {
		up, down := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go func() {
			defer close(down)
			_ = s.ActivateAndServe()
		}()
		<-up
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-down
		})
	}
	return d
}

// Forget removes the address of a name.
func (d *DNS) Forget(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.none[dns.Fqdn(name)] = true
}

// Remember restores the address of a name after Forget.
func (d *DNS) Remember(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.none, dns.Fqdn(name))
}

// ServeDNS implements dns.Handler.
func (d *DNS) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := new(dns.Msg)
	a.SetReply(q)
	a.Authoritative = true
	name := strings.ToLower(q.Question[0].Name)
	header := dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET}
	switch q.Question[0].Qtype {
	case dns.TypeA:
		if !d.none[name] {
			a.Answer = append(a.Answer, &dns.A{Hdr: header, A: net.IPv4(127, 0, 0, 1)})
		}
	case dns.TypeTXT:
		for _, s := range d.txt[name] {
			a.Answer = append(a.Answer, &dns.TXT{Hdr: header, Txt: []string{s}})
		}
	case dns.TypeSOA:
		// Zones have two labels.
		if dns.CountLabel(name) == 2 {
			a.Answer = append(a.Answer, &dns.SOA{Hdr: header, Ns: "ns." + name, Mbox: "root." + name})
		}
	}
	_ = w.WriteMsg(a)
}

// AppendRecords implements libdns.RecordAppender.
func (d *DNS) AppendRecords(_ context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range recs {
		name := dns.Fqdn(strings.ToLower(libdns.AbsoluteName(r.RR().Name, zone)))
		d.txt[name] = append(d.txt[name], r.RR().Data)
	}
	return recs, nil
}

// DeleteRecords implements libdns.RecordDeleter.
func (d *DNS) DeleteRecords(_ context.Context, zone string, recs []libdns.Record) ([]libdns.Record, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range recs {
		name := dns.Fqdn(strings.ToLower(libdns.AbsoluteName(r.RR().Name, zone)))
		d.txt[name] = slices.DeleteFunc(d.txt[name], func(s string) bool { return s == r.RR().Data })
	}
	return recs, nil
}
