package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const usage = `usage:
  deploy run [-dir DIR] [-https ADDR] [-http ADDR] [-email ADDR] [-local] [-drain TIME] [-access-log]
             [-trusted-proxies 10.0.0.0/8,...]
  deploy [deploy] APP HOST TARGET...   [-health PATH] [-ready TIME] [-drain TIME] [-grace TIME] [-guard TIME]
  deploy [deploy] APP -host HOST -target TARGET...       the same, as kamal-proxy has it
  deploy rollback APP [-ready TIME]    back to the targets before; cancels a deploy, or ends a canary; twice: forward again
  deploy canary APP TARGET...          -share 10% | -header X-Canary=1 | -cookie canary=1  [-ready TIME] [-guard TIME]
  deploy canary APP -share 50%         another share
  deploy canary APP -promote | -end    the canary's targets for all clients, or for none
  deploy pause APP [-for 30s]          requests wait
  deploy maintain APP [-page FILE] [-status 503] [-retry-after TIME]
  deploy stop APP                      finishes requests, then answers 503
  deploy resume APP                    ends pause, maintain and stop
  deploy remove APP                    finishes requests, and forgets the app
  deploy list [-json]
  deploy restart                       the proxy hands over to a new process, as on SIGHUP

HOST is blog.example.com, *.example.com or blog.example.com/api. TARGET is host:port, http://..., https://..., h2c://...
or unix:/path. All commands take -dir DIR; its default is $DEPLOY_DIR, $STATE_DIRECTORY, or hostproxy-deploy in
$XDG_DATA_HOME or ~/.local/share. A TIME is such as 30s or 5m.

  -health PATH   a new target must answer 2xx or 3xx there; without it, it must accept a connection
  -ready TIME    how long a new target may take for that (30s)
  -drain TIME    how long requests may take to finish at the old targets (30s)
  -grace TIME    how long WebSockets and event streams go on at the old targets; 0 closes them at once (0)
  -guard TIME    watches the first 50 requests for that time, and goes back if the new targets fail more often or are slower
  -share 10%     of the clients, not of the requests; a client is an address, behind a load balancer only with -trusted-proxies

-health, -drain and -grace are those of the app's first deploy. Exit code: 0 done; 1 failed, and the old targets are in use
unless the error says otherwise; 2 wrong usage.
`

// A request is a command for the proxy.
type request struct {
	Command string   `json:"command"`
	App     string   `json:"app,omitempty"`
	Host    string   `json:"host,omitempty"`
	Targets []string `json:"targets,omitempty"`

	Settings *settings     `json:"settings,omitempty"` // of deploy; nil keeps the app's settings
	Ready    time.Duration `json:"ready,omitempty"`
	Guard    time.Duration `json:"guard,omitempty"`
	For      time.Duration `json:"for,omitempty"`

	Page       string        `json:"page,omitempty"`
	Type       string        `json:"type,omitempty"`
	Status     int           `json:"status,omitempty"`
	RetryAfter time.Duration `json:"retryAfter,omitempty"`

	Share   float64 `json:"share,omitempty"`
	Header  string  `json:"header,omitempty"` // such as X-Canary=1
	Cookie  string  `json:"cookie,omitempty"`
	Promote bool    `json:"promote,omitempty"`
	End     bool    `json:"end,omitempty"`

	JSON bool `json:"json,omitempty"`
}

// commands are the words that begin a command. No app may have such a name.
// Read-only.
var commands = []string{"run", "deploy", "rollback", "canary", "pause", "maintain", "stop", "resume", "remove", "list", "restart", "help"}

// appName matches a valid name of an app.
var appName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

func checkName(name string) error {
	switch {
	case !appName.MatchString(name):
		return fmt.Errorf("app %q: want 1 to 64 lower-case letters, digits, dots, hyphens or underscores, such as blog", name)
	case slices.Contains(commands, name):
		return fmt.Errorf("app %q has the name of a command: choose another one", name)
	}
	return nil
}

// parse parses a command of the client. Flags may be anywhere.
func parse(args []string) (q request, dir string, err error) {
	if !slices.Contains(commands, args[0]) {
		args = append([]string{"deploy"}, args...)
	}
	q.Command = args[0]
	fs := flag.NewFlagSet(q.Command, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	dirFlag(fs, &dir)
	given := q.flags(fs)
	var words []string
	for rest := args[1:]; len(rest) > 0; {
		if err := fs.Parse(rest); err != nil {
			return q, dir, fmt.Errorf("%s: %w", q.Command, err)
		}
		if rest = fs.Args(); len(rest) > 0 {
			words, rest = append(words, rest[0]), rest[1:]
		}
	}
	if err := given(); err != nil {
		return q, dir, fmt.Errorf("%s: %w", q.Command, err)
	}
	return q, dir, q.words(words)
}

func dirFlag(fs *flag.FlagSet, dir *string) {
	fs.StringVar(dir, "dir", defaultDir(), "`directory` of the socket and the state")
}

func defaultDir() string {
	if dir := os.Getenv("DEPLOY_DIR"); dir != "" {
		return dir
	}
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); dir != "" {
		return dir
	}
	if dir := os.Getenv("XDG_DATA_HOME"); dir != "" {
		return filepath.Join(dir, "hostproxy-deploy")
	}
	home, _ := os.UserHomeDir()
	return filepath.Join(home, ".local", "share", "hostproxy-deploy")
}

// flags defines the flags of the command. It returns a function that evaluates
// those that need more than parsing.
func (q *request) flags(fs *flag.FlagSet) func() error {
	given := func() error { return nil }
	switch q.Command {
	case "deploy":
		var s settings
		fs.StringVar(&q.Host, "host", "", "")
		fs.Func("target", "", func(text string) error { q.Targets = append(q.Targets, text); return nil })
		fs.StringVar(&s.Health, "health", "", "")
		fs.DurationVar(&s.Drain, "drain", 30*time.Second, "")
		fs.DurationVar(&s.Grace, "grace", 0, "")
		fs.DurationVar(&q.Ready, "ready", 30*time.Second, "")
		fs.DurationVar(&q.Guard, "guard", 0, "")
		given = func() error {
			fs.Visit(func(f *flag.Flag) {
				if f.Name == "health" || f.Name == "drain" || f.Name == "grace" {
					q.Settings = &s
				}
			})
			return nil
		}
	case "canary":
		var share string
		fs.StringVar(&share, "share", "", "")
		fs.StringVar(&q.Header, "header", "", "")
		fs.StringVar(&q.Cookie, "cookie", "", "")
		fs.BoolVar(&q.Promote, "promote", false, "")
		fs.BoolVar(&q.End, "end", false, "")
		fs.DurationVar(&q.Ready, "ready", 30*time.Second, "")
		fs.DurationVar(&q.Guard, "guard", 0, "")
		given = func() (err error) { q.Share, err = parseShare(share); return err }
	case "rollback":
		fs.DurationVar(&q.Ready, "ready", 30*time.Second, "")
	case "pause":
		fs.DurationVar(&q.For, "for", 30*time.Second, "")
	case "maintain":
		var file string
		fs.StringVar(&file, "page", "", "")
		fs.IntVar(&q.Status, "status", 503, "")
		fs.DurationVar(&q.RetryAfter, "retry-after", 0, "")
		given = func() error { return q.readPage(file) }
	case "list":
		fs.BoolVar(&q.JSON, "json", false, "")
	}
	return given
}

// parseShare parses 10% or 0.1. "" is 0.
func parseShare(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	digits, percent := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(digits, 64)
	if percent {
		share /= 100
	}
	if err != nil || !(share > 0 && share <= 1) {
		return 0, fmt.Errorf("-share %q: want more than 0 and at most all, such as 10%% or 0.1", text)
	}
	return share, nil
}

// maxPage limits the page of maintain in bytes.
const maxPage = 1 << 20

func (q *request) readPage(file string) error {
	if file == "" {
		q.Page, q.Type = "This site is under maintenance.\n", "text/plain; charset=utf-8"
		return nil
	}
	f, err := os.Open(file)
	if err != nil {
		return unreadable(file, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPage+1))
	if err != nil {
		return unreadable(file, err)
	}
	if len(text) > maxPage {
		return fmt.Errorf("-page %q has more than %d bytes: want a smaller page", file, maxPage)
	}
	q.Page, q.Type = string(text), "text/html; charset=utf-8"
	if strings.HasSuffix(file, ".txt") {
		q.Type = "text/plain; charset=utf-8"
	}
	return nil
}

// unreadable returns the error for a page that cannot be read.
func unreadable(file string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err // without the file name, which is not quoted there
	}
	return fmt.Errorf("-page %q: %w", file, err)
}

// words sets the arguments of the command that are not flags.
func (q *request) words(words []string) error {
	least, most := 1, 1
	switch q.Command {
	case "deploy":
		if most = 1000; len(words) > 1 && q.Host == "" {
			q.Host = words[1]
			words = slices.Delete(words, 1, 2)
		}
		if len(words) > 1 {
			q.Targets = append(q.Targets, words[1:]...)
		}
		if len(words) == 0 || q.Host == "" || len(q.Targets) == 0 {
			return errors.New("deploy: want an app, its host and one or more targets, such as: deploy blog blog.example.com localhost:4006")
		}
	case "canary":
		if most = 1000; len(words) > 1 {
			q.Targets = words[1:]
		}
	case "list", "restart":
		least, most = 0, 0
	}
	switch {
	case len(words) < least:
		return fmt.Errorf("%s: want the name of an app", q.Command)
	case len(words) > most:
		return fmt.Errorf("%s: %q is too much: see the usage", q.Command, words[most:])
	case len(words) > 0:
		q.App = words[0]
		return checkName(q.App)
	}
	return nil
}
