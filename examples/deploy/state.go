package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/hostproxy/hostproxy/examples/deploy/guard"
)

// stateVersion is the version of the state file's format.
const stateVersion = 1

// state is the content of the state file.
type state struct {
	Version int              `json:"version"`
	Apps    map[string]saved `json:"apps"`
}

// saved is the state of an app that survives a restart. Values in it are never
// changed, only replaced.
type saved struct {
	Host     string   `json:"host"`
	Targets  []string `json:"targets"`            // in use
	Previous []string `json:"previous,omitempty"` // in use before that
	Next     []string `json:"next,omitempty"`     // to be in use next, but not yet
	Settings settings `json:"settings"`
	Hold     *hold    `json:"hold,omitempty"`
	Canary   *canary  `json:"canary,omitempty"`
	Guard    *watched `json:"guard,omitempty"`
}

// settings are the settings of an app's first deploy.
type settings struct {
	Health string        `json:"health,omitempty"`
	Drain  time.Duration `json:"drain"`
	Grace  time.Duration `json:"grace,omitempty"`
}

// A hold keeps requests away from the targets.
type hold struct {
	Kind  string    `json:"kind"`           // "pause", "maintain" or "stop"
	Until time.Time `json:"until,omitzero"` // for a pause
	Page  *page     `json:"page,omitempty"` // for maintain and stop
	Since time.Time `json:"since,omitzero"`
}

type page struct {
	Status     int           `json:"status"`
	Type       string        `json:"type,omitempty"`
	Body       string        `json:"body,omitempty"`
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
}

// A canary is a version that some of the clients get.
type canary struct {
	Targets []string `json:"targets"`
	Share   float64  `json:"share,omitempty"`
	Header  string   `json:"header,omitempty"`
	Cookie  string   `json:"cookie,omitempty"`
}

// watched means that the guard has no verdict yet about the targets in use, or
// about the canary.
type watched struct {
	Until    time.Time      `json:"until"`
	Baseline guard.Baseline `json:"baseline"`
	Back     []string       `json:"back,omitempty"`   // targets to go back to; none for a canary
	Before   []string       `json:"before,omitempty"` // the Previous to restore with Back
}

// maxState limits the state file in bytes.
const maxState = 64 << 20

// load reads the state file. A missing file is an empty state. Any other fault
// is an error, and then the file is never written.
func load(path string) (state, error) {
	s := state{Version: stateVersion, Apps: map[string]saved{}}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxState+1))
	if err != nil {
		return s, err
	}
	if err := s.decode(text); err != nil {
		return s, broken(path, text, err)
	}
	return s, nil
}

// decode parses text. Unknown fields are errors.
func (s *state) decode(text []byte) error {
	if len(text) > maxState {
		return fmt.Errorf("more than %d bytes", maxState)
	}
	var head struct{ Version int }
	if err := json.Unmarshal(text, &head); err != nil {
		return err
	}
	if head.Version != stateVersion {
		return fmt.Errorf("version %d: want %d; another version of deploy has written it", head.Version, stateVersion)
	}
	s.Apps = nil
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		return err
	}
	if s.Apps == nil {
		return errors.New(`"apps" is missing`)
	}
	return nil
}

// broken returns the error for a state file that cannot be used. It keeps a
// copy, which may help to repair the file.
func broken(path string, text []byte, why error) error {
	err := fmt.Errorf("state file %q cannot be used: %w: repair it, or move it away to begin without apps", path, why)
	aside := fmt.Sprintf("%s.broken-%x", path, sha256.Sum256(text))[:len(path)+len(".broken-")+12]
	if failed := os.WriteFile(aside, text, 0o600); failed != nil {
		return fmt.Errorf("%w; it cannot be copied: %w", err, failed)
	}
	return fmt.Errorf("%w; a copy is in %q", err, aside)
}

// store replaces the state file atomically: after a crash, there is either the
// old one or the new one.
func store(path string, s state) error {
	text, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	next := path + ".new"
	if err := write(next, append(text, '\n')); err != nil {
		_ = os.Remove(next)
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func write(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}
