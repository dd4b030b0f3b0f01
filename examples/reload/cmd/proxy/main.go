// Command proxy runs a proxy from one YAML file. It puts changes of the file in
// force without dropping a connection.
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
	"os"
	"os/signal"
	"syscall"

	"github.com/hostproxy/hostproxy/examples/reload"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run returns the exit code: 1 if a file has faults or the proxy cannot serve,
// 2 for wrong flags, 3 if the file is right but a running proxy would refuse
// it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("proxy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	config := flags.String("config", "proxy.yaml", "the configuration file")
	check := flags.Bool("check", false, reload.CheckUsage)
	against := flags.String("against", "", "with -check: print what changes from this file, or from the http `URL` of a listener with the handler config")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case flags.NArg() > 0 || *against != "" && !*check:
		fmt.Fprintln(stderr, "proxy: want no arguments, and -against only with -check; see -help")
		return 2
	case !*check:
		return fail(stderr, (&reload.Proxy{File: *config, Stderr: stderr}).Run(ctx))
	}
	if restart, err := reload.Check(ctx, stdout, *config, *against); !restart {
		return fail(stderr, err)
	}
	return 3
}

// fail prints err. It prints each fault of a file on a line of its own.
func fail(stderr io.Writer, err error) int {
	var faults reload.Faults
	switch {
	case err == nil:
		return 0
	case errors.As(err, &faults):
		fmt.Fprintf(stderr, "proxy: the configuration is refused:\n%s\n", faults.Lines())
	default:
		fmt.Fprintf(stderr, "proxy: %v\n", err)
	}
	return 1
}
