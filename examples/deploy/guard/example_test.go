package guard_test

import (
	"context"
	"fmt"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/deploy/guard"
)

func Example() {
	var m guard.Meter
	r := hostproxy.Router{BeginAttempt: m.BeginAttempt, Observe: m.Observe}
	blog := hostproxy.To("127.0.0.1:4006")
	r.Handle("blog.example.com", blog)
	// go hostproxy.ListenAndServe(ctx, &r)

	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	err := m.Replace(ctx, "blog.example.com", blog, guard.Limits{}, "127.0.0.1:1")
	fmt.Println(err != nil, guard.Names(blog)) // nothing listens there
	// Output: true [127.0.0.1:4006]
}
