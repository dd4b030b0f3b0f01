// Command ondemand starts a program when a request for it arrives, and stops it
// after a time without requests.
//
//	go run ./examples/ondemand -target localhost:9000 -idle 1m -- python3 -m http.server 9000
//	curl http://localhost:8080/
//
// Requests wait until the program accepts connections. A WebSocket or a
// download keeps it running. After a crash, the next request starts it again.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/hostproxy/hostproxy"
)

func main() {
	addr := flag.String("addr", ":8080", "address to serve on, in plain HTTP")
	target := flag.String("target", "localhost:9000", "where the program listens")
	idle := flag.Duration("idle", 5*time.Minute, "how long the program runs without a request")
	flag.Parse()
	if flag.NArg() == 0 {
		log.Fatal("want the program and its arguments, such as python3 -m http.server 9000")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	if err := serve(ctx, ln, *target, *idle, flag.Args()); err != nil {
		log.Fatal(err)
	}
}

// serve serves, on ln, what the program offers at target, until ctx is done.
// Then it stops the program.
func serve(ctx context.Context, ln net.Listener, target string, idle time.Duration, args []string) error {
	app := hostproxy.To(target)
	p := &program{args: args, ended: app.Asleep}
	app.Wake = &hostproxy.Wake{Start: p.start, Stop: p.stop, IdleAfter: idle}
	var r hostproxy.Router
	r.Handle("*", app)
	err := (&hostproxy.Server{Router: &r}).Serve(ctx, nil, ln)
	late, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.stop(late); err != nil {
		log.Print(err)
	}
	return err
}
