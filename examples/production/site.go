package main

import (
	"errors"
	"flag"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/hostproxy/hostproxy"
	"github.com/hostproxy/hostproxy/examples/compress"
)

// The settings. Read-only.
var (
	domain       = flag.String("domain", "example.com", "`name` of the company")
	appTargets   = flag.String("app", "localhost:4001,localhost:4002", "`targets` of the app")
	apiTarget    = flag.String("api", "localhost:4003", "`target` of the API")
	adminTarget  = flag.String("admin", "localhost:4004", "`target` of the area behind a password")
	static       = flag.String("static", "/srv/www", "`directory` of static files")
	passwordHash = flag.String("password", "", "`hash` of the password of ops, as made by htpasswd -nB")
	maintenance  = flag.String("maintenance", "/etc/site/maintenance.html", "while this `file` exists, the app shows it")
)

// routes sets the routes of r.
func routes(r *hostproxy.Router) error {
	app, err1 := hostproxy.NewUpstream(strings.Split(*appTargets, ",")...)
	api, err2 := hostproxy.NewUpstream(*apiTarget)
	admin, err3 := hostproxy.NewUpstream(*adminTarget)
	zipped, err4 := compress.New(app, compress.Options{})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	r.TLS.Email = "ops@" + *domain
	r.HSTS = &hostproxy.HSTS{MaxAge: 365 * 24 * time.Hour}
	r.ResponseHeader.Set = http.Header{"X-Content-Type-Options": {"nosniff"}, "X-Frame-Options": {"DENY"}}
	app.Health = &hostproxy.HealthCheck{Path: "/up"}
	page, err := os.ReadFile(*maintenance)
	if err == nil {
		err = app.Maintain(hostproxy.Page{ContentType: "text/html", Body: page, RetryAfter: time.Minute})
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	api.RateLimit = &hostproxy.RateLimit{Rate: 10, Burst: 50}
	api.IdleTimeout = time.Hour // an event stream may be silent for so long
	admin.RequestHeader.Remove = []string{"Authorization"}
	return r.Replace(map[string]http.Handler{
		*domain:             zipped,
		"www." + *domain:    hostproxy.Redirect(*domain),
		"api." + *domain:    api,
		"admin." + *domain:  &hostproxy.BasicAuth{Users: map[string]string{"ops": *passwordHash}, Next: admin},
		"static." + *domain: http.FileServerFS(os.DirFS(*static)),
	})
}
