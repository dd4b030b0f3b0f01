package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy"
)

// pairs collects host=target flags, in order.
type pairs []pair

// A pair is a site's host and its target.
type pair struct{ host, target string }

func (p *pairs) String() string { return fmt.Sprint(*p) }

// Set adds the pair of one flag.
func (p *pairs) Set(s string) error {
	host, target, ok := strings.Cut(s, "=")
	if !ok {
		return errors.New("want host=target")
	}
	*p = append(*p, pair{host, target})
	return nil
}

// startSites starts a service for each host on a free port. The caller must
// call stop in the end.
func startSites(hosts ...string) (sites pairs, stop func(), err error) {
	servers := make([]*http.Server, 0, len(hosts))
	stop = func() {
		for _, s := range servers {
			s.Close()
		}
	}
	for _, host := range hosts {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			stop()
			return nil, nil, err
		}
		s := &http.Server{Handler: greeter(host), ReadHeaderTimeout: 10 * time.Second}
		go s.Serve(ln)
		servers = append(servers, s)
		sites = append(sites, pair{host, ln.Addr().String()})
	}
	return sites, stop, nil
}

// greeter answers with its name and with what it received.
func greeter(host string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		fmt.Fprintf(w, "Hello from the service behind %s!\n%s %s://%s%s for %s\n", host,
			q.Method, q.Header.Get("X-Forwarded-Proto"), q.Host, q.RequestURI, q.Header.Get("X-Forwarded-For"))
	})
}

// printHelp writes the URL of each site, and a curl command.
func printHelp(ctx context.Context, out io.Writer, sites pairs, https, plain net.Addr) {
	port, open := https.(*net.TCPAddr).Port, plain.(*net.TCPAddr).Port
	for _, s := range sites {
		fmt.Fprintf(out, "https://%s:%d/ -> %s\n", s.host, port, s.target)
	}
	fmt.Fprintf(out, "http://%s:%d/ and the others redirect there\n", sites[0].host, open)
	root, err := new(hostproxy.LocalCA).RootFile(ctx)
	if err != nil {
		fmt.Fprintf(out, "no local authority: %v\n", err)
		return
	}
	fmt.Fprintf(out, "\ncurl --cacert %s https://%s:%d/\n\n", root, sites[0].host, port)
}

// listen opens a TCP listener. Its error says what to do if the port is not
// allowed.
func listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EACCES) {
		err = fmt.Errorf("%w: a port below 1024 needs a capability: sudo setcap cap_net_bind_service=+ep on this binary", err)
	}
	return ln, err
}

// flagsOnly ends the program if it has arguments, which it would ignore.
func flagsOnly() {
	if flag.NArg() > 0 {
		log.Fatalf("%q: want flags only", flag.Args())
	}
}
