package otel

import (
	"crypto/tls"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/hostproxy/hostproxy"
)

// maxText limits a string in an attribute, in bytes.
const maxText = 1 << 10

// Attributes that the conventions have no name for.
const (
	opKey       = attribute.Key("hostproxy.op")   // the step that failed
	sideKey     = attribute.Key("hostproxy.side") // the party that caused the failure
	targetKey   = attribute.Key("hostproxy.target")
	attemptsKey = attribute.Key("hostproxy.attempts")
	queueKey    = attribute.Key("hostproxy.queue") // seconds
	hedgeKey    = attribute.Key("hostproxy.hedge")
	requestKey  = attribute.Key("hostproxy.request_id")
	dialKey     = attribute.Key("hostproxy.dial") // seconds
)

// methods are the methods that a span may be named after. Others become _OTHER.
// Read-only.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"}

// name returns the name of a span: the method and, if it is known, the route.
func name(method, pattern string) string {
	if !slices.Contains(methods, method) {
		method = "HTTP"
	}
	if pattern == "" {
		return method
	}
	return method + " " + safe(pattern)
}

func ofMethod(all []attribute.KeyValue, method string) []attribute.KeyValue {
	if slices.Contains(methods, method) {
		return append(all, semconv.HTTPRequestMethodKey.String(method))
	}
	return append(all, semconv.HTTPRequestMethodOther, semconv.HTTPRequestMethodOriginal(safe(method)))
}

// atStart returns the attributes that a sampler can use.
func (t *Tracer) atStart(x *hostproxy.Exchange) []attribute.KeyValue {
	all := ofMethod(make([]attribute.KeyValue, 0, 10), x.Method)
	all = append(all, semconv.URLScheme(x.Scheme), semconv.URLPath(safe(x.Path)))
	if q := t.query(x); q != "" {
		all = append(all, semconv.URLQuery(safe(q)))
	}
	if x.UserAgent != "" {
		all = append(all, semconv.UserAgentOriginal(safe(x.UserAgent)))
	}
	if x.Client.IsValid() {
		all = append(all, semconv.ClientAddress(x.Client.String()))
	}
	if x.Scheme == "https" {
		return address(all, x.Host, 443)
	}
	return address(all, x.Host, 80)
}

func atEnd(x *hostproxy.Exchange) []attribute.KeyValue {
	all := append(make([]attribute.KeyValue, 0, 16), semconv.HTTPResponseStatusCode(x.Status), semconv.NetworkProtocolVersion(version(x.Proto)),
		semconv.HTTPRequestBodySizeKey.Int64(x.RequestBytes), semconv.HTTPResponseBodySizeKey.Int64(x.ResponseBytes))
	if x.Peer.IsValid() {
		all = append(all, semconv.NetworkPeerAddress(x.Peer.String()))
	}
	if x.TLSVersion != 0 {
		all = append(all, semconv.TLSProtocolVersion(strings.TrimPrefix(tls.VersionName(x.TLSVersion), "TLS ")))
	}
	if x.Pattern != "" {
		all = append(all, semconv.HTTPRoute(safe(x.Pattern)))
	}
	if x.Attempts > 0 {
		all = append(all, attemptsKey.Int(x.Attempts), targetKey.String(safe(x.Target)))
	}
	if x.Queue > 0 {
		all = append(all, queueKey.Float64(x.Queue.Seconds()))
	}
	if x.RequestID != "" {
		all = append(all, requestKey.String(safe(x.RequestID)))
	}
	return all
}

func (t *Tracer) ofAttempt(b *hostproxy.Beginning) []attribute.KeyValue {
	all := ofMethod(make([]attribute.KeyValue, 0, 8), b.Exchange.Method)
	all = append(all, targetKey.String(safe(b.Attempt.Target)), semconv.URLFull(safe(t.fullURL(b.Exchange, b.Attempt.Target))))
	if n := len(b.Exchange.Timeline) - 1; b.Attempt.Retry && n > 0 {
		all = append(all, semconv.HTTPRequestResendCount(n))
	}
	if b.Attempt.Hedge {
		all = append(all, hedgeKey.Bool(true))
	}
	return ofTarget(all, b.Attempt.Target)
}

// ofTarget adds the address of a target and its port. Without a port, it adds
// the default port of the scheme.
func ofTarget(all []attribute.KeyValue, target string) []attribute.KeyValue {
	scheme, authority, _ := parts(target)
	switch scheme {
	case "unix":
		return append(all, semconv.NetworkTransportUnix, semconv.ServerAddress(safe(authority)))
	case "https":
		return address(all, authority, 443)
	}
	return address(all, authority, 80)
}

// parts returns the scheme of a target (http, https or unix), its host and port
// or its socket path, and its base path.
func parts(target string) (scheme, authority, base string) {
	if socket, ok := strings.CutPrefix(target, "unix:"); ok {
		return "unix", strings.TrimPrefix(socket, "//"), ""
	}
	scheme, rest, found := strings.Cut(target, "://")
	if !found {
		scheme, rest = "http", target
	}
	if scheme == "h2c" {
		scheme = "http"
	}
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		rest, base = rest[:i], rest[i:]
	}
	return scheme, rest, base
}

// fullURL returns the URL of an attempt. It has no credentials: Options.Query
// filters the query, and hostproxy refuses targets with a user.
func (t *Tracer) fullURL(x *hostproxy.Exchange, target string) string {
	scheme, authority, base := parts(target)
	if scheme == "unix" {
		scheme, authority = "http+unix", url.PathEscape(authority)
	}
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		authority = "REDACTED:REDACTED" + authority[i:]
	}
	path := x.Path
	if t.path != nil {
		path = t.path(x)
	}
	full := scheme + "://" + authority + strings.TrimSuffix(base, "/")
	if strings.HasPrefix(path, "/") { // not the "*" of an OPTIONS request
		full += path
	}
	if q := t.query(x); q != "" {
		full += "?" + q
	}
	return full
}

// query returns the part of the query that spans show.
func (t *Tracer) query(x *hostproxy.Exchange) string {
	if t.shown == nil || x.Query == "" {
		return ""
	}
	return t.shown(x.Query)
}

func afterAttempt(a *hostproxy.Attempt) []attribute.KeyValue {
	var all []attribute.KeyValue
	if a.Status != 0 {
		all = append(all, semconv.HTTPResponseStatusCode(a.Status))
	}
	if a.Dial > 0 {
		all = append(all, dialKey.Float64(a.Dial.Seconds()))
	}
	return all
}

// ofError returns the attributes of a failure. byClient reports whether the
// client caused it.
func ofError(err error, isError bool, status int) (all []attribute.KeyValue, byClient bool) {
	var e *hostproxy.Error
	switch {
	case errors.As(err, &e):
		return []attribute.KeyValue{semconv.ErrorTypeKey.String(safe(e.Op)), opKey.String(safe(e.Op)), sideKey.String(safe(string(e.Side)))}, e.Side == hostproxy.SideClient
	case err != nil:
		return []attribute.KeyValue{semconv.ErrorTypeOther}, false
	case isError:
		return []attribute.KeyValue{semconv.ErrorTypeKey.String(strconv.Itoa(status))}, false
	}
	return nil, false
}

// address adds a host and its port. Without a port, it adds standard, unless
// standard is 0.
func address(all []attribute.KeyValue, hostport string, standard int) []attribute.KeyValue {
	if hostport == "" {
		return all
	}
	host, port, err := hostport, "", error(nil)
	if strings.Contains(hostport, ":") {
		host, port, err = net.SplitHostPort(hostport)
	}
	if err != nil {
		host, port = strings.Trim(hostport, "[]"), ""
	}
	all = append(all, semconv.ServerAddress(safe(host)))
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		return append(all, semconv.ServerPort(int(n)))
	}
	if standard != 0 {
		all = append(all, semconv.ServerPort(standard))
	}
	return all
}

// version returns the HTTP version in the form that the conventions require.
func version(proto string) string {
	switch v := strings.TrimPrefix(proto, "HTTP/"); v {
	case "2.0", "3.0":
		return v[:1]
	default:
		return safe(v)
	}
}

// safe returns s as valid UTF-8 of limited length. Exporters lose a whole batch
// for one string that is not valid UTF-8.
func safe(s string) string {
	cut := ""
	if len(s) > maxText {
		s, cut = s[:maxText], "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD") + cut
}
