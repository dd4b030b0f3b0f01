package prometheus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/hostproxy/hostproxy"
)

// state has the metrics that are read during a scrape. Metrics.scrape guards
// it.
type state struct {
	inFlightDesc *prom.Desc
	inFlight     prom.Gauge

	routeInFlight, queued, paused                 *prom.GaugeVec
	targetUp, targets, targetInFlight, streams    *prom.GaugeVec
	certExpiry, certRenewal, certState, certFails *prom.GaugeVec
	waiting                                       prom.Gauge
	connections, companions                       *prom.GaugeVec
	refused                                       *prom.CounterVec
	refusedBefore                                 map[refusal]uint64
}

// A refusal names a server, what it refused, and why.
type refusal struct {
	// start of the server in nanoseconds: the next server may have the same
	// listeners while this one shuts down
	server    int64
	what, why string
}

// A page has the fields used of hostproxy.StatusHandler's JSON.
type page struct {
	Routes []struct {
		Pattern  string
		InFlight int64
		Queued   int
		Paused   bool
		Error    string // set if the targets are not known yet
		Targets  []struct {
			Name, State       string
			InFlight, Streams int64
		}
	}
	Servers []struct {
		Started   time.Time
		Listeners []struct {
			Addr, Role string
			Open       int64
		}
		Companions []struct {
			Name  string
			Ended bool
		}
		Refused []struct {
			What, Why string
			Count     uint64
		}
	}
}

func newState() state {
	gauge := func(name, help string, labels ...string) *prom.GaugeVec {
		return prom.NewGaugeVec(prom.GaugeOpts{Namespace: "hostproxy", Name: name, Help: help}, labels)
	}
	inFlight := prom.GaugeOpts{Namespace: "hostproxy", Name: "requests_in_flight", Help: "Exchanges that have begun and not ended."}
	return state{
		inFlight:       prom.NewGauge(inFlight),
		inFlightDesc:   prom.NewDesc("hostproxy_requests_in_flight", inFlight.Help, nil, nil),
		routeInFlight:  gauge("route_in_flight", "Exchanges at the targets of a route.", "pattern"),
		queued:         gauge("queue_length", "Requests that wait in the queue of a route.", "pattern"),
		paused:         gauge("paused", "1 if an upstream of the route is paused.", "pattern"),
		targetUp:       gauge("target_up", "1 if the target gets requests: neither down by health checks nor by an open breaker.", "pattern", "target"),
		targets:        gauge("targets", "Targets by state: up, down, open or half-open.", "pattern", "state"),
		targetInFlight: gauge("target_in_flight", "Exchanges at a target.", "pattern", "target"),
		streams:        gauge("target_streams", "Upgraded connections and streams at a target.", "pattern", "target"),
		certExpiry:     gauge("certificate_expiry_timestamp_seconds", "End of the certificate in use.", "certificate"),
		certRenewal:    gauge("certificate_renewal_timestamp_seconds", "When the renewal is due.", "certificate"),
		certState:      gauge("certificates", "Certificates by state: pending, valid, failed or static.", "certificate", "state"),
		certFails:      gauge("certificate_failed_attempts", "Failures at the issuer since the last success.", "certificate"),
		waiting:        prom.NewGauge(prom.GaugeOpts{Namespace: "hostproxy", Name: "handshakes_waiting", Help: "Handshakes that wait for a certificate."}),
		connections:    gauge("connections", "Open connections of a listener.", "listener", "role"),
		companions:     gauge("companion_up", "1 if the companion of a Server serves.", "companion"),
		refused: prom.NewCounterVec(prom.CounterOpts{Namespace: "hostproxy", Name: "refused_total",
			Help: "What the listeners refused: connections, handshakes and request heads, by the limit or the status."}, []string{"what", "why"}),
		refusedBefore: map[refusal]uint64{},
	}
}

// vecs returns the gauges that each scrape resets.
func (s *state) vecs() []*prom.GaugeVec {
	return []*prom.GaugeVec{s.routeInFlight, s.queued, s.paused, s.targetUp, s.targets, s.targetInFlight, s.streams,
		s.certExpiry, s.certRenewal, s.certState, s.certFails, s.connections, s.companions}
}

func (s *state) collectors() []prom.Collector {
	all := []prom.Collector{s.inFlight, s.waiting, s.refused}
	for _, v := range s.vecs() {
		all = append(all, v)
	}
	return all
}

// read sets all metrics to the current values.
func (m *Metrics) read() error {
	var p page
	if err := m.readStatus(&p); err != nil {
		return err
	}
	for _, v := range m.state.vecs() {
		v.Reset()
	}
	m.state.inFlight.Set(float64(m.stripes.count(&m.exchanges)))
	m.readRoutes(&p)
	m.readServers(&p)
	m.state.readCertificates(slices.Collect(m.router.Certificates()), m.pairs.max)
	return nil
}

func (m *Metrics) readStatus(p *page) error {
	q := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/", RawQuery: "format=json"}, Header: http.Header{}}
	var w response
	m.status.ServeHTTP(&w, q)
	if w.status != 0 && w.status != http.StatusOK {
		return fmt.Errorf("the answer is %d: want 200", w.status)
	}
	return json.Unmarshal(w.body.Bytes(), p)
}

// A response keeps the answer of a handler.
type response struct {
	body   bytes.Buffer
	header http.Header
	status int
}

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(status int) { w.status = status }

// Write implements http.ResponseWriter.
func (w *response) Write(b []byte) (int, error) { return w.body.Write(b) }

// readRoutes adds pairs for the current routes and targets, and sets their
// metrics.
func (m *Metrics) readRoutes(p *page) {
	current := map[pairKey]bool{}
	var keys []pairKey
	for _, r := range p.Routes {
		for _, t := range r.Targets {
			k := pairKey{r.Pattern, t.Name}
			current[k] = true
			keys = append(keys, k)
		}
		current[pairKey{r.Pattern, ""}] = true
	}
	m.pairs.keep(current, time.Now())
	found := m.pairs.add(keys...)
	s := &m.state
	for _, r := range p.Routes {
		pattern := other
		for i, t := range r.Targets {
			x := found[i]
			if i == 0 {
				pattern = x.pattern
			}
			s.targets.WithLabelValues(x.pattern, label(t.State)).Inc()
			s.targetInFlight.WithLabelValues(x.pattern, x.target).Add(float64(t.InFlight))
			s.streams.WithLabelValues(x.pattern, x.target).Add(float64(t.Streams))
			up := s.targetUp.WithLabelValues(x.pattern, x.target)
			if t.State == "up" || t.State == "half-open" {
				up.Inc()
			}
		}
		found = found[len(r.Targets):]
		if len(r.Targets) == 0 {
			if r.Error == "" {
				continue // not a route to an upstream
			}
			pattern = m.pairs.add(pairKey{r.Pattern, ""})[0].pattern
		}
		s.routeInFlight.WithLabelValues(pattern).Add(float64(r.InFlight))
		s.queued.WithLabelValues(pattern).Add(float64(r.Queued))
		if paused := s.paused.WithLabelValues(pattern); r.Paused {
			paused.Inc()
		}
	}
}

// readServers sets the metrics of listeners. A counter continues when the next
// server replaces one.
func (m *Metrics) readServers(p *page) {
	s := &m.state
	now := map[refusal]uint64{}
	for _, server := range p.Servers {
		for _, l := range server.Listeners {
			s.connections.WithLabelValues(label(l.Addr), label(l.Role)).Add(float64(l.Open))
		}
		for _, c := range server.Companions {
			if up := s.companions.WithLabelValues(label(c.Name)); !c.Ended {
				up.Inc()
			}
		}
		for _, r := range server.Refused {
			k := refusal{server.Started.UnixNano(), r.What, r.Why}
			before := s.refusedBefore[k]
			now[k] = r.Count
			s.refused.WithLabelValues(label(r.What), label(r.Why)).Add(float64(r.Count - min(before, r.Count)))
		}
	}
	s.refusedBefore = now
}

// readCertificates sets the metrics of certificates. Certificates on demand
// share one label, since clients chose their host names. Those above limit
// share another one. A shared label shows the earliest expiry and renewal.
func (s *state) readCertificates(all []hostproxy.CertStatus, limit int) {
	slices.SortFunc(all, func(a, b hostproxy.CertStatus) int { return strings.Compare(a.Host, b.Host) })
	expiry, renewal := map[string]time.Time{}, map[string]time.Time{}
	waiting, n := 0, 0
	for _, c := range all {
		waiting += c.Waiting
		name := onDemand
		if !c.OnDemand {
			if name = label(c.Host); n >= limit {
				name = other
			}
			n++
		}
		earliest(expiry, name, c.NotAfter)
		earliest(renewal, name, c.RenewAt)
		s.certState.WithLabelValues(name, label(c.State)).Inc()
		s.certFails.WithLabelValues(name).Add(float64(c.Attempts))
	}
	for name, t := range expiry {
		s.certExpiry.WithLabelValues(name).Set(float64(t.Unix()))
	}
	for name, t := range renewal {
		s.certRenewal.WithLabelValues(name).Set(float64(t.Unix()))
	}
	s.waiting.Set(float64(waiting))
}

// onDemand is the shared label of the certificates that TLS.HostPolicy allowed.
const onDemand = "(on demand)"

func earliest(all map[string]time.Time, name string, t time.Time) {
	if before, ok := all[name]; !t.IsZero() && (!ok || t.Before(before)) {
		all[name] = t
	}
}
