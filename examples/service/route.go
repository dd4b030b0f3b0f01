package main

import (
	"fmt"
	"strings"

	"github.com/hostproxy/hostproxy"
)

// route adds a route for each word, such as blog.example.com=localhost:4006.
func route(r *hostproxy.Router, words []string) error {
	if len(words) == 0 {
		return fmt.Errorf("no routes: want one or more words such as blog.example.com=localhost:4006")
	}
	for _, w := range words {
		host, target, ok := strings.Cut(w, "=")
		if !ok {
			return fmt.Errorf("route %q: want host=target, such as blog.example.com=localhost:4006", w)
		}
		u, err := hostproxy.NewUpstream(target)
		if err == nil {
			err = r.Set(host, u)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
