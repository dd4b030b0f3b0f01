// Command logfile writes the access log to a file and rotates it, with
// timberjack, a fork of lumberjack.
//
//	go run -C examples/logfile . -file /tmp/access.log -target localhost:3000
//
// The file can be any io.Writer. Only one process may write to it. A program
// that uses Server.HandOver runs twice for a while. Let such a program write to
// its standard output, which a service manager can keep in files, or to a plain
// file opened with os.O_APPEND: logrotate renames that file and then reloads
// the service, whose new process opens the file again.
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"log/slog"
	"net"
	"os/signal"
	"syscall"

	"github.com/DeRuina/timberjack"

	"github.com/hostproxy/hostproxy"
)

func main() {
	addr := flag.String("addr", "localhost:8080", "address to serve on, in plain HTTP")
	target := flag.String("target", "localhost:3000", "where requests go")
	name := flag.String("file", "access.log", "the log; rotated at 100 MB, ten old ones are kept, for 30 days")
	flag.Parse()
	if flag.NArg() > 0 {
		log.Fatalf("%q: want flags only", flag.Args())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	file := &timberjack.Logger{
		Filename: *name, FileMode: 0o640,
		MaxSize: 100, MaxBackups: 10, MaxAge: 30, // megabytes, files, days
		Compression: "gzip",
	}
	r, err := router(file, *target)
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatal(err)
	}
	err = (&hostproxy.Server{Router: r}).Serve(ctx, nil, ln)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		log.Fatal(err)
	}
}

// router logs each exchange to file as one line of JSON.
func router(file io.Writer, target string) (*hostproxy.Router, error) {
	site, err := hostproxy.NewUpstream(target)
	if err != nil {
		return nil, err
	}
	r := &hostproxy.Router{Observe: hostproxy.AccessLog(slog.New(slog.NewJSONHandler(file, nil)))}
	r.Handle("*", site)
	return r, nil
}
