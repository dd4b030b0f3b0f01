package caddyfile

import (
	"fmt"
	"go/format"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// program returns the text of a program that builds the same Servers.
func (p *plan) program() []byte {
	w := newPrinter(p)
	for _, s := range p.servers {
		for _, r := range s.routes {
			w.tally(r.handler)
		}
	}
	var body []string
	for i, s := range p.servers {
		body = append(body, w.router(i, s)...)
	}
	var text strings.Builder
	if p.simple() {
		fmt.Fprintf(&text, simpleMain, w.pkg("context"), w.pkg("log"), w.pkg("hostproxy"), strings.Join(body, "\n"))
	} else {
		for _, name := range []string{"context", "log", "os", "signal", "syscall", "site", "hostproxy"} {
			w.pkg(name)
		}
		fmt.Fprintf(&text, fullMain, strings.Join(body, "\n"), strings.Join(w.servers(), ",\n"))
	}
	out := "// Command proxy was made from a Caddyfile, and is yours to change.\npackage main\n\n" + w.importLines() + "\n" + text.String()
	formatted, err := format.Source([]byte(out))
	if err != nil { // a bug: the compiler explains it best
		return []byte(out)
	}
	return formatted
}

const simpleMain = `func main() {
	if err := hostproxy.ListenAndServe(%[1]s.Background(), router()); err != nil {
		%[2]s.Fatal(err)
	}
}

// router returns the routes.
func router() *%[3]s.Router {
%[4]s
	return &r
}
`

const fullMain = `func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := site.Serve(ctx, servers()...); err != nil {
		log.Fatal(err)
	}
}

// servers returns the servers with their routes.
func servers() []*hostproxy.Server {
%s
	return []*hostproxy.Server{
%s,
	}
}
`

// simple reports whether hostproxy.ListenAndServe can serve the plan.
func (p *plan) simple() bool {
	s := p.servers[0]
	return len(p.servers) == 1 && s.tls && s.redirects && s.host == "" && s.port == 443 && s.httpAt == 80 && s.limits == limits{}
}

// routerName returns the name of the variable for a server's Router.
func routerName(i int) string {
	if i == 0 {
		return "r"
	}
	return "r" + strconv.Itoa(i+1)
}

// router returns the code for one Router.
func (w *printer) router(i int, s *server) []string {
	r := routerName(i)
	lines := []string{"var " + r + " " + w.pkg("hostproxy") + ".Router"}
	if s.trustedProxies != nil {
		lines = append(lines, r+".TrustedProxies = "+w.value(reflect.ValueOf(s.trustedProxies)))
	}
	conf := reflect.ValueOf(s.tlsConf)
	for j := range conf.NumField() {
		if f := conf.Type().Field(j); f.IsExported() && f.Type.Kind() != reflect.Func && !conf.Field(j).IsZero() {
			lines = append(lines, r+".TLS."+f.Name+" = "+w.value(conf.Field(j)))
		}
	}
	if s.storage != "" {
		lines = append(lines, fmt.Sprintf("%s.TLS.Storage = &%s.FileStorage{Path: %q}", r, w.pkg("certmagic"), s.storage))
	}
	if s.hosts != nil {
		lines = append(lines, r+".TLS.Host = "+w.pkg("site")+".Hosts("+w.value(reflect.ValueOf(s.hosts))+")")
	}
	if s.ask != nil {
		lines = append(lines, r+".TLS.HostPolicy = ("+w.value(reflect.ValueOf(s.ask))+").HostPolicy")
	}
	if w.plan.debug {
		lines = append(lines, fmt.Sprintf("%s.Logger = %s.New(slog.NewTextHandler(%s.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))", r, w.pkg("slog"), w.pkg("os")))
	}
	if s.logs != nil {
		var logs []string
		for _, l := range s.logs {
			logs = append(logs, w.value(reflect.ValueOf(l)))
		}
		lines = append(lines, r+".Observe = "+w.pkg("site")+".Must(site.Observe("+strings.Join(logs, ", ")+"))")
	}
	for _, route := range s.routes {
		w.lines = nil
		h := w.handler(route.handler)
		lines = append(append(lines, w.lines...), fmt.Sprintf("%s.Handle(%q, %s)", r, route.pattern, h))
	}
	return lines
}

// servers returns the code for the Servers.
func (w *printer) servers() (out []string) {
	for i, s := range w.plan.servers {
		parts := []string{"Router: &" + routerName(i), "Listeners: " + w.value(reflect.ValueOf(s.listeners()))}
		if len(s.challenge) > 0 {
			h := "&" + routerName(i)
			for _, c := range slices.Backward(s.challenge) {
				h = routerName(slices.Index(w.plan.servers, c)) + ".HTTPHandler(" + h + ")"
			}
			parts = append(parts, "Handler: "+h)
		}
		parts = append(parts, w.fields(reflect.ValueOf(s.limits))...)
		out = append(out, "{"+strings.Join(parts, ", ")+"}")
	}
	return out
}

// importLines returns the imports. The standard library comes first.
func (w *printer) importLines() string {
	paths := map[string]string{"context": "context", "tls": "crypto/tls", "log": "log", "slog": "log/slog", "http": "net/http", "netip": "net/netip",
		"url": "net/url", "os": "os", "signal": "os/signal", "regexp": "regexp", "syscall": "syscall", "time": "time",
		"certmagic": "github.com/caddyserver/certmagic", "hostproxy": "github.com/hostproxy/hostproxy",
		"site": "github.com/hostproxy/hostproxy/examples/caddyfile/site", "compress": "github.com/hostproxy/hostproxy/examples/compress"}
	var std, other []string
	for name := range w.imports {
		if path := paths[name]; strings.Contains(path, ".") {
			other = append(other, strconv.Quote(path))
		} else {
			std = append(std, strconv.Quote(path))
		}
	}
	slices.Sort(std)
	slices.Sort(other)
	return "import (\n" + strings.Join(std, "\n") + "\n\n" + strings.Join(other, "\n") + "\n)\n"
}
