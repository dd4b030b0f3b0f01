package prometheus

import (
	"errors"
	"slices"

	prom "github.com/prometheus/client_golang/prometheus"

	"github.com/hostproxy/hostproxy"
)

// Numbers of label values.
const (
	codes     = 6
	protocols = 5
)

// codeLabels are the classes of status codes. Read-only.
var codeLabels = [codes]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}

// protocolLabels are the versions of HTTP that an Exchange can have. Read-only.
var protocolLabels = [protocols]string{other, "HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/3.0"}

// opLabels are the values of hostproxy.Error.Op. Read-only.
var opLabels = []string{"pick", "dial", "handshake", "write", "read", "copy", "upgrade"}

// exchanges has the metrics of exchanges and attempts.
type exchanges struct {
	requests, received, sent             *prom.CounterVec
	attempts, retries, hedges            *prom.CounterVec
	errors, attemptErrors                *prom.CounterVec
	durations, firstBytes, queued, dials *histograms
}

func newExchanges(buckets []float64) exchanges {
	counter := func(name, help string, labels ...string) *prom.CounterVec {
		return prom.NewCounterVec(prom.CounterOpts{Namespace: "hostproxy", Name: name, Help: help}, labels)
	}
	histogram := func(name, help string, labels ...string) *histograms {
		return newHistograms(name, help, buckets, labels...)
	}
	return exchanges{
		requests:      counter("requests_total", "Exchanges that have ended.", "pattern", "target", "code", "protocol"),
		durations:     histogram("request_duration_seconds", "Time from the end of the request's head to the end of the response.", "pattern", "code"),
		received:      counter("request_bytes_total", "Bytes of request bodies.", "pattern"),
		sent:          counter("response_bytes_total", "Bytes of response bodies.", "pattern"),
		errors:        counter("errors_total", "Exchanges that failed, by step and by the party that made them fail.", "pattern", "target", "op", "side"),
		queued:        histogram("queue_duration_seconds", "Time that requests waited in a queue, for a paused, sleeping or undiscovered upstream; of those that waited.", "pattern"),
		attempts:      counter("attempts_total", "Attempts at targets, by the class of the target's status.", "pattern", "target", "code"),
		retries:       counter("retries_total", "Attempts after another one had failed.", "pattern", "target"),
		hedges:        counter("hedges_total", "Attempts beside another one that was slow.", "pattern", "target"),
		attemptErrors: counter("attempt_errors_total", "Attempts that failed, were retried, or were canceled by a hedge.", "pattern", "target", "op", "side"),
		firstBytes:    histogram("attempt_first_byte_seconds", "Time from the choice of the target to the head of its response.", "pattern", "target"),
		dials:         histogram("dial_duration_seconds", "Time to connect to the target; of attempts with a new connection.", "pattern", "target"),
	}
}

func (e *exchanges) collectors() []prom.Collector {
	return []prom.Collector{e.requests, e.durations, e.received, e.sent, e.errors, e.queued, e.attempts, e.retries, e.hedges, e.attemptErrors, e.firstBytes, e.dials}
}

// observe counts what is rare: a wait in the queue, or a failure.
func (e *exchanges) observe(p *pair, x *hostproxy.Exchange) {
	if x.Queue > 0 {
		e.queued.with(p.pattern).Observe(x.Queue)
	}
	if x.Err != nil {
		op, side := failure(x.Err)
		e.errors.WithLabelValues(p.pattern, p.target, op, side).Inc()
	}
}

// observeAttempt counts what is rare in an attempt.
func (e *exchanges) observeAttempt(p *pair, a *hostproxy.Attempt) {
	if a.Dial > 0 {
		e.dials.with(p.pattern, p.target).Observe(a.Dial)
	}
	if a.Retry {
		e.retries.WithLabelValues(p.pattern, p.target).Inc()
	}
	if a.Hedge {
		e.hedges.WithLabelValues(p.pattern, p.target).Inc()
	}
	if a.Err != nil {
		op, side := failure(a.Err)
		e.attemptErrors.WithLabelValues(p.pattern, p.target, op, side).Inc()
	}
}

// forget drops the series of p. Series of its pattern alone are dropped only if
// lone is true: no other pair has that pattern.
func (e *exchanges) forget(p *pair, lone bool) {
	labels := prom.Labels{"pattern": p.pattern, "target": p.target}
	for _, v := range []*prom.CounterVec{e.requests, e.errors, e.attempts, e.retries, e.hedges, e.attemptErrors} {
		v.DeletePartialMatch(labels)
	}
	e.firstBytes.forget(labels)
	e.dials.forget(labels)
	if !lone {
		return
	}
	labels = prom.Labels{"pattern": p.pattern}
	e.received.DeletePartialMatch(labels)
	e.sent.DeletePartialMatch(labels)
	e.durations.forget(labels)
	e.queued.forget(labels)
}

func codeOf(status int) uint8 {
	if class := status / 100; 0 < class && class < codes {
		return uint8(class)
	}
	return 0
}

func protocolOf(proto string) uint8 { return uint8(max(0, slices.Index(protocolLabels[:], proto))) }

// failure returns the labels of an error. They are from fixed lists.
func failure(err error) (op, side string) {
	op, side = other, other
	var e *hostproxy.Error
	if !errors.As(err, &e) {
		return op, side
	}
	if slices.Contains(opLabels, e.Op) {
		op = e.Op
	}
	switch e.Side {
	case hostproxy.SideClient, hostproxy.SideUpstream, hostproxy.SideProxy, hostproxy.SideDrain:
		side = string(e.Side)
	}
	return op, side
}
