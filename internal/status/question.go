package status

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// A question asks what would happen to a request that is not sent.
type question struct {
	Method string
	URL    string // "" means no question
	Client string // address of the client that would send it
}

// maxURL limits the URL of a question, in bytes.
const maxURL = 8 << 10

// questionOf returns the question in q. The default client is that of q.
func questionOf(q *http.Request) question {
	v := q.URL.Query()
	asker, _, err := net.SplitHostPort(q.RemoteAddr)
	if err != nil {
		asker = ""
	}
	return question{
		Method: cmp.Or(strings.ToUpper(strings.TrimSpace(v.Get("method"))), http.MethodGet),
		URL:    strings.TrimSpace(v.Get("url")),
		Client: cmp.Or(strings.TrimSpace(v.Get("client")), asker),
	}
}

// request returns the request of the question. A URL without a scheme means
// https.
func (k question) request() (*http.Request, error) {
	target := k.URL
	if len(target) > maxURL {
		return nil, fmt.Errorf("the URL has %d bytes: at most %d are allowed", len(target), maxURL)
	}
	if !strings.Contains(target, "://") {
		target = "https://" + target
	}
	q, err := http.NewRequest(k.Method, target, nil)
	if err != nil {
		return nil, err
	}
	switch q.URL.Scheme {
	case "https":
		q.TLS = &tls.ConnectionState{ServerName: q.URL.Hostname(), HandshakeComplete: true}
	case "http":
	default:
		return nil, fmt.Errorf("the URL %q has the scheme %q: want http or https", target, q.URL.Scheme)
	}
	if k.Client != "" {
		client, err := netip.ParseAddr(k.Client)
		if err != nil {
			return nil, fmt.Errorf("the client %q is not an IP address: want one such as 192.0.2.1", k.Client)
		}
		q.RemoteAddr = netip.AddrPortFrom(client, 0).String()
	}
	q.URL.Scheme, q.URL.Host, q.URL.User = "", "", nil // as a server sees it
	q.URL.Path = cmp.Or(q.URL.Path, "/")
	q.RequestURI = q.URL.RequestURI()
	return q, nil
}

// An answer is an Explanation, also as text; or only a text, with the fault of
// the question.
type answer struct {
	*Explanation
	Text string `json:"text"`
}

func (h *handler) answer(k question) answer {
	q, err := k.request()
	if err != nil {
		return answer{Text: Text(err.Error())}
	}
	e := h.explain(q)
	return answer{e, e.Text()}
}
