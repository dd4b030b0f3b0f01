// Command deploy is a proxy for one machine. Commands deploy its apps without a
// failed request. It does the job of kamal-proxy:
//
//	deploy run                                             the proxy
//	deploy blog blog.example.com localhost:4006            a new app
//	deploy blog blog.example.com localhost:4007            a new version
//	deploy rollback blog                                   the one before
//	deploy -h                                              all commands
//
// The commands talk to the proxy over a unix socket in its directory. The state
// is kept in state.json there. On SIGHUP, and on "deploy restart", the proxy
// hands over to a new process of itself.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
)

func main() {
	os.Exit(command(os.Args[1:]))
}

// Exit codes. After 1, nothing has changed unless the error says so.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// command runs one command.
func command(args []string) int {
	if len(args) == 0 || args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[0] == "help" {
		fmt.Print(usage)
		return exitDone
	}
	if args[0] == "run" {
		return run(args[1:])
	}
	q, dir, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return exitDone
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "deploy: %v\nTry: deploy -h\n", err)
		return exitUsage
	}
	text, err := ask(dir, q)
	if err != nil {
		fmt.Fprintln(os.Stderr, "deploy:", err)
		return exitFailed
	}
	fmt.Print(text)
	return exitDone
}
