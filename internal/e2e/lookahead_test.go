//go:build !unix || portable

package e2e_test

import "testing"

// On such systems the fast lane reads a small body ahead.
func TestAClientThatLeavesALittleOfABodyWhileItWaitsIs499(t *testing.T) {
	whileItWaits(t, func(t *testing.T, s *site, queued bool) {
		if !s.lane.foreign && !s.lane.handler && !s.lane.hooked {
			leavesWaiting(t, s, queued, []unreadBody{unread[0], unread[2]})
		}
	})
}
