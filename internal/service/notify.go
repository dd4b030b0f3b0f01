package service

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// envNotify holds the address of the service manager's socket (sd_notify(3)).
const envNotify = "NOTIFY_SOCKET"

// notifyTime limits a write to a service manager that does not read.
const notifyTime = 2 * time.Second

// Notify sends state, lines of KEY=value, to the service manager. It does
// nothing if there is none. The time that RELOADING=1 requires is added.
func Notify(state string) error {
	state = strings.TrimSuffix(state, "\n")
	clock := ""
	for line := range strings.SplitSeq(state, "\n") {
		if key, _, ok := strings.Cut(line, "="); !ok || key == "" || strings.Contains(line, "\x00") {
			return fmt.Errorf("state %q: want lines of KEY=value, such as READY=1", state)
		}
		if now := monotonic(); line == "RELOADING=1" && now > 0 && !strings.Contains(state, "MONOTONIC_USEC=") {
			clock = fmt.Sprintf("\nMONOTONIC_USEC=%d", now)
		}
	}
	if err := send(state + clock); err != nil {
		return fmt.Errorf("%s is %q: %w", envNotify, os.Getenv(envNotify), err)
	}
	return nil
}

// send writes state to the service manager, if there is one.
func send(state string) error {
	name := os.Getenv(envNotify)
	switch {
	case name == "":
		return nil
	case name[0] != '/' && name[0] != '@':
		return errors.New("want an absolute path, or a name that begins with @")
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetWriteDeadline(time.Now().Add(notifyTime))
	_, err = c.Write([]byte(state))
	return err
}
