// Command proxy runs a proxy from one YAML file, and puts changes of the file in force without dropping a connection.
//
//	echo 'routes: {blog.localhost: localhost:4006, app.localhost: [localhost:4000, localhost:4001]}' > proxy.yaml
//	proxy -config proxy.yaml                       # HTTPS on :443, redirects on :80
//	proxy -config proxy.yaml -check                # is the file right?
//	proxy -config next.yaml -check -against http://localhost:9000/    # what would it change?
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy/examples/reload"
)

// The exit codes.
const (
	ok      = 0
	failed  = 1 // a file is broken, or the proxy cannot serve
	usage   = 2
	restart = 3 // the file is right, and a running proxy would refuse it
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("proxy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	config := flags.String("config", "proxy.yaml", "the configuration file")
	check := flags.Bool("check", false, "only check the file; exit with 1 if it is broken")
	against := flags.String("against", "", "with -check: print what changes from this file, or from the `URL` of a listener with the handler config; exit with 3 if it needs a restart")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return ok
	case err != nil:
		return usage
	case flags.NArg() > 0 || *against != "" && !*check:
		fmt.Fprintln(stderr, "proxy: want no arguments, and -against only with -check; see -help")
		return usage
	}
	if *check {
		return checks(ctx, *config, *against, stdout, stderr)
	}
	p := reload.Proxy{File: *config, Stderr: stderr}
	return fail(stderr, p.Run(ctx))
}

// checks prints what is wrong with the file, or what changes from another one.
func checks(ctx context.Context, config, against string, stdout, stderr io.Writer) int {
	next, err := reload.Load(config)
	if err != nil {
		return fail(stderr, err)
	}
	if against == "" {
		fmt.Fprintf(stdout, "%s is right\n", config)
		return ok
	}
	old, err := other(ctx, config, against)
	if err != nil {
		return fail(stderr, err)
	}
	d, err := reload.Compare(old, next)
	if err != nil {
		return fail(stderr, err)
	}
	fmt.Fprintln(stdout, d)
	if len(d.Restart) > 0 {
		return restart
	}
	return ok
}

// other loads the configuration of a file or a URL. Files that it names are those beside config.
func other(ctx context.Context, config, name string) (*reload.Checked, error) {
	if !strings.HasPrefix(name, "http://") {
		return reload.Load(name)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, name, nil)
	if err != nil {
		return nil, err
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(io.LimitReader(a.Body, 17<<20))
	if err == nil && a.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %s: want the URL of a listener with the handler config", name, a.Status)
	}
	if err != nil {
		return nil, err
	}
	return reload.LoadText(config, text)
}

// fail prints err, all faults of a file in lines of their own, and returns the exit code.
func fail(stderr io.Writer, err error) int {
	var faults reload.Faults
	switch {
	case err == nil:
		return ok
	case errors.As(err, &faults):
		fmt.Fprintf(stderr, "proxy: the configuration is refused:\n%s\n", faults.Lines())
	default:
		fmt.Fprintf(stderr, "proxy: %v\n", err)
	}
	return failed
}
