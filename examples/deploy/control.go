package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxRequest limits a request in bytes. Its page may contain escapes.
const maxRequest = 8 << 20

// ServeHTTP runs one command, and answers when it is done.
func (m *manager) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	var command request
	d := json.NewDecoder(http.MaxBytesReader(w, q.Body, maxRequest))
	d.DisallowUnknownFields()
	err := d.Decode(&command)
	if err == nil && d.More() {
		err = errors.New("more than one command")
	}
	if q.Method != http.MethodPost || err != nil {
		http.Error(w, fmt.Sprintf("want a POST with one command in JSON, as deploy -h lists them: %v", err), http.StatusBadRequest)
		return
	}
	text, err := m.carryOut(q, command)
	p := reply{Text: text}
	status := http.StatusOK
	if err != nil {
		p.Error, p.Retry, status = err.Error(), errors.Is(err, errHandsOver), http.StatusConflict
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(p)
}

// carryOut runs a command and waits until it is done. If the client
// disconnects, the command continues, unless it has changed nothing yet.
func (m *manager) carryOut(q *http.Request, command request) (string, error) {
	if command.Command == "restart" {
		return "the new process serves\n", m.handOver()
	}
	op, text, err := m.start(command)
	if op == nil {
		return text, err
	}
	// Once the body is read, the context ends when the client disconnects.
	_, _ = io.Copy(io.Discard, q.Body)
	select {
	case <-op.done:
	case <-q.Context().Done():
		m.abandon(op)
		<-op.done
	}
	if op.err != nil {
		m.log.Warn("a command has failed", "command", command.Command, "app", command.App, "cause", op.err)
	}
	return op.text, op.err
}

// start starts a command. If the command is done at once, start returns its
// text.
func (m *manager) start(q request) (*operation, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if q.Command == "list" {
		text, err := m.list(q)
		return nil, text, err
	}
	if m.frozen != nil {
		return nil, "", m.frozen
	}
	if err := q.check(); err != nil {
		return nil, "", err
	}
	if q.Command == "deploy" {
		op, err := m.deploy(q)
		return op, "", err
	}
	a := m.apps[q.App]
	if a == nil {
		return nil, "", fmt.Errorf("there is no app %q: deploy list names the apps", q.App)
	}
	switch q.Command {
	case "stop", "remove":
		return m.end(q, a)
	case "rollback":
		return m.rollback(q, a)
	}
	if a.Targets == nil {
		return nil, "", m.busy(a)
	}
	if q.Command == "canary" {
		op, err := m.canary(q, a)
		return op, "", err
	}
	text, err := m.atOnce(q, a)
	return nil, text, err
}

// end starts to end an app. It cancels a deploy in progress.
func (m *manager) end(q request, a *app) (op *operation, text string, err error) {
	if err := m.interrupt(a, errStopped); err != nil {
		return nil, "", err
	}
	switch {
	case a.Targets == nil:
		return nil, fmt.Sprintf("%s: the first deploy was canceled\n", a.name), nil
	case q.Command == "remove":
		op, err = m.remove(a)
	default:
		op, err = m.stop(a)
	}
	return op, "", err
}

// atOnce runs a command that does not wait.
func (m *manager) atOnce(q request, a *app) (string, error) {
	switch q.Command {
	case "pause":
		return m.hold(a, hold{Kind: kindPause, Until: time.Now().Add(q.For)})
	case "maintain":
		return m.hold(a, hold{Kind: kindMaintain, Page: &page{Status: q.Status, Type: q.Type, Body: q.Page, RetryAfter: q.RetryAfter}})
	case "resume":
		return m.resume(a)
	}
	return "", fmt.Errorf("command %q is not known: deploy -h lists the commands", q.Command)
}

// check returns an error if q is invalid, no matter which client sent it.
func (q *request) check() error {
	switch {
	case checkName(q.App) != nil:
		return checkName(q.App)
	case q.Ready < 0 || q.Guard < 0:
		return fmt.Errorf("-ready %v, -guard %v: want 0 or more", q.Ready, q.Guard)
	case q.Command == "pause" && (q.For <= 0 || q.For > maxPause):
		return fmt.Errorf("-for %v: want more than 0 and at most %v", q.For, maxPause)
	case q.Command == "maintain" && q.Status == 0:
		return errors.New("-status 0: want 200 to 599, except 204 and 304")
	case q.Command == "deploy" && len(q.Targets) == 0:
		return errors.New("deploy: want one or more targets, such as localhost:4006")
	}
	return nil
}
