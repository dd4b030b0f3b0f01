// Command caddyfile serves a Caddyfile, checks it, or prints a Go program that
// does the same. On SIGHUP, it reads the file again.
//
//	go run -C examples/caddyfile ./cmd/caddyfile -config /etc/caddy/Caddyfile
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

	"github.com/hostproxy/hostproxy/examples/caddyfile"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run executes the command in the arguments.
func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("caddyfile", flag.ContinueOnError)
	config := flags.String("config", "Caddyfile", "file to serve")
	check := flags.Bool("check", false, "only check the file")
	program := flags.Bool("go", false, "print the Go program that does the same")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("caddyfile: %q is not expected: write -config FILE", flags.Arg(0))
	}
	if *check && *program {
		return errors.New("caddyfile: want -check or -go, not both")
	}
	c, err := caddyfile.Load(*config, caddyfile.Options{})
	switch {
	case err != nil:
		return err
	case *check:
		_, err = fmt.Fprintf(out, "%s is valid\n", *config)
		return err
	case *program:
		_, err = out.Write(c.Go())
		return err
	}
	return serve(ctx, c, *config)
}
