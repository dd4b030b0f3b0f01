package certs

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"time"
)

// A pairFile is a certificate from files, with the files' modification times
// before it was read.
type pairFile struct {
	KeyPair
	cert              tls.Certificate
	certTime, keyTime time.Time
	fault             fault
}

// readPair reads a certificate from its files.
func readPair(p KeyPair) (*pairFile, error) {
	f := &pairFile{KeyPair: p, certTime: modified(p.CertFile), keyTime: modified(p.KeyFile)}
	var err error
	if f.cert, err = tls.LoadX509KeyPair(p.CertFile, p.KeyFile); err != nil {
		return nil, fmt.Errorf("certificate in %q and %q: %w", p.CertFile, p.KeyFile, err)
	}
	return f, nil
}

func (f *pairFile) changed() bool {
	return !modified(f.CertFile).Equal(f.certTime) || !modified(f.KeyFile).Equal(f.keyTime)
}

// A fault is the last error of reading files, "" if there was none. It is used
// by the task that watches the files.
type fault string

// level returns the level for logging a failure: Warn if it is new, Debug if it
// repeats.
func (f *fault) level(err error) slog.Level {
	if text := fault(err.Error()); *f != text {
		*f = text
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// end notes that the files could be read, or are unchanged.
func (f *fault) end() { *f = "" }

// modified follows symbolic links: containers swap secrets that way.
func modified(file string) time.Time {
	info, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// check returns an error if one of the two files is missing.
func (p KeyPair) check() error {
	if p.CertFile == "" || p.KeyFile == "" {
		return fmt.Errorf("CertFile is %q and KeyFile is %q: set both", p.CertFile, p.KeyFile)
	}
	return nil
}
